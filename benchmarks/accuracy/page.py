"""The tables and figures of docs/study.md, each made from records of `benchmarks.accuracy`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks.accuracy import certificates
from benchmarks.lineup import DEFAULT, MEANS
from benchmarks.looks import BLUE, COLUMN_WIDTH, GREY, cotangents
from benchmarks.pages import Benchmark, table
from benchmarks.records import results

TUNED = ("mlp_stable", "mlp_chaotic", "mlp_adam", "conv_smooth")
PENALTIES = (
    "short", "mlp_stable", "long", "mlp_chaotic", "mlp_adam", "mlp_adamw", "conv_smooth", "ridge",
)  # fmt: skip
SHOWN_ON_THE_WAY = (
    "published", "line, Hessian, all steps", "line, Gauss-Newton, all steps", MEANS, DEFAULT,
    "exact",
)  # fmt: skip
METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "cosine, other seeds": lambda report: report["other_seeds"]["value"],
    "signs, other seeds": lambda report: report["other_signs"]["value"],
    "cosine, same seed": lambda report: report["cosine"]["value"],
    "signs, same seed": lambda report: report["sign_agreement"]["value"],
    "norm ratio, distance from 1": lambda report: -abs(math.log(report["norm_ratio"]["value"])),
}


def agreement_table(name: str) -> str:
    """One line for each method: how it agrees with the exact one, and what it costs."""
    head = [
        "method", "cosine, other seeds", "cosine, same seed", "signs, same seed", "norm ratio",
        "finite", "expansion", "time / training", "memory, MiB",
    ]  # fmt: skip
    found = results(f"agreement_{name}")
    closed = found.get("cosine with the closed form")
    lines = []
    for report in found["reports"]:
        means = ("other_seeds", "cosine", "sign_agreement", "norm_ratio")
        line = [
            report["name"],
            *(_mean(report[key]) for key in means),
            f"{100 * report['finite_share']:.0f} %",
            "–" if report["expansion"] is None else f"{report['expansion']:.3g}",
            f"{report['time_ratio']:.2f}",
            f"{report['temporary_bytes'] / 2**20:.3g}",
        ]
        lines.append(line if closed is None else [*line, f"{closed[report['name']]:.3f}"])
    head = head if closed is None else [*head, "cosine, closed form"]
    smooth = found["metasmoothness"]["value"]
    note = (
        f"{found['num_steps']} steps, {found['num_hparams']} hyperparameters, "
        f"{found['num_seeds']} seeds, mean ± standard error; plain training "
        f"{found['training_seconds']:.3g} s; metasmoothness {smooth:.3f}."
    )
    return f"{table(head, lines)}\n{note}\n"


def tuning_table(name: str) -> str:
    """One line for each method: where tuning by it ends."""
    found, shares = results(f"tuning_{name}"), _shares(name)
    start, exact = found.pop("start"), found["exact"]
    head = ("method", "validation loss", "share of the exact fall", "test loss")
    lines = [("before tuning", f"{start['valid']:.4f}", "0", f"{start['test']:.4f}")]
    # Where the exact method gains nothing, there is nothing to have a share of.
    gains = start["valid"] > exact["valid"]
    for label, row in found.items():
        share = f"{shares[label]:.2f}" if gains else "–"
        lines.append((label, _end(row, "valid"), share, _end(row, "test")))
    count = len(exact["curves"])
    note = (
        f"{len(exact['curves'][0])} outer steps of Adam at .3, mean ± standard error of {count} "
        f"tuning {'runs' if count > 1 else 'run'}, each end judged on 6 fresh seeds."
    )
    return f"{table(head, lines)}\n{note}\n"


def predictors_table(_: str) -> str:
    """How well each metric of a comparison ranks methods by where tuning with them ends."""
    ends = {problem: results(f"tuning_{problem}") for problem in TUNED}
    for found in ends.values():
        del found["start"], found["exact"]

    def correlation(problem: str, metric: Callable[[dict], float]) -> str:
        reports = _reports(problem)
        values = [metric(reports[label]) for label in ends[problem]]
        found: Any = spearmanr(values, [-row["valid"] for row in ends[problem].values()])
        return f"{found.statistic:.2f}"

    lines = [
        (label, *(correlation(problem, metric) for problem in TUNED))
        for label, metric in METRICS.items()
    ]
    counts = ("methods", *(str(len(ends[problem])) for problem in TUNED))
    return table(("metric", *TUNED), [*lines, counts])


def budget_table(_: str) -> str:
    """The best share of the exact method's fall that a budget of time buys, by problem."""
    head = ("problem", "up to 1.3 times training", "up to 2 times", "`drmad()`", "published")
    return table(head, map(_budgets, TUNED))


def _budgets(problem: str) -> tuple[str, ...]:
    times = {name: report["time_ratio"] for name, report in _reports(problem).items()}
    shares = _shares(problem)
    del shares["exact"]

    def best(limit: float) -> str:
        within = [label for label in shares if times[label] <= limit]
        label = max(within, key=shares.__getitem__, default=None)
        return "–" if label is None else f"{say(label)} ({label})"

    say = lambda label: f"{shares[label]:.2f} at {times[label]:.2f}"
    return problem, best(1.3), best(2.0), say(DEFAULT), say("published")


def certificates_table(_: str) -> str:
    """What certificates say of methods, beside the truth that they do not know."""
    head = (
        "problem", "method", certificates.COSINE, certificates.CERTIFIED, certificates.ERROR,
        certificates.RATIO, certificates.RESIDUAL, certificates.DRIFT, certificates.SHARE,
    )  # fmt: skip
    found = {name: results(f"certificates_{name}") for name in certificates.STUDIED}
    mean = lambda row, key: f"{np.mean(row[key]):.2f}" if key in row else "–"
    lines = [
        (problem, label, *(mean(row, key) for key in head[2:]))
        for problem, methods in found.items()
        for label, row in methods.items()
    ]
    pairs = [row for methods in found.values() for row in methods.values()]
    apart = np.concatenate([
        np.subtract(row[certificates.CERTIFIED], row[certificates.COSINE]) for row in pairs
    ])  # fmt: skip
    said = np.concatenate([row[certificates.ERROR] for row in pairs])

    def correlation(key: str, of: list[dict[str, Any]]) -> str:
        of = [row for row in of if key in row]
        true = np.concatenate([row[certificates.COSINE] for row in of])
        statistic: Any = spearmanr(np.concatenate([row[key] for row in of]), true)
        return f"{key} {statistic.statistic:.2f} ({len(true)})"

    default = [methods[DEFAULT] for methods in found.values()]
    free = certificates.RESIDUAL, certificates.DRIFT, certificates.SHARE
    note = (
        f"Means of {certificates.NUM_SEEDS} seeds. Certified and true cosine differ by "
        f"{np.sqrt(np.mean(apart**2)):.3f} (root of the mean square; said: "
        f"{np.sqrt(np.mean(said**2)):.3f}), at most {np.max(np.abs(apart)):.2f}. Rank correlation "
        f"with the true cosine, over all pairs of method and seed: "
        f"{', '.join(correlation(key, pairs) for key in head[3:6:2])}; over those of `drmad()`: "
        f"{', '.join(correlation(key, default) for key in free)}."
    )
    return f"{table(head, lines)}\n{note}\n"


def soundness_table(_: str) -> str:
    """`drmad()` beside the exact and the published method on every problem with penalties."""
    head = (
        "problem", "finite", "expansion", "cosine, other seeds: drmad()", "exact", "published",
        "published: norm ratio",
    )  # fmt: skip
    lines = []
    for problem in PENALTIES:
        found = _reports(problem)
        drmad, published = found[DEFAULT], found["published"]
        lines.append((
            problem, f"{100 * drmad['finite_share']:.0f} %", f"{drmad['expansion']:.3g}",
            *(_mean(found[name]["other_seeds"]) for name in (DEFAULT, "exact", "published")),
            _mean(published["norm_ratio"]),
        ))  # fmt: skip
    return table(head, lines)


def way_back(name: str) -> Figure:
    """The cotangent's norm on the way back, by method."""
    found = results(f"agreement_{name}")
    reports = [r for r in found["reports"] if r["name"] in SHOWN_ON_THE_WAY]
    return cotangents({**found, "reports": reports})


def tuning_figure(names: tuple[str, ...]) -> Figure:
    """The share of the exact method's fall by method, one panel for each problem."""
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 2.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    labels = list(_shares(names[0]))
    for axes, name in zip(panels, names, strict=True):
        found, shares = results(f"tuning_{name}"), _shares(name)
        fall = found["start"]["valid"] - found["exact"]["valid"]
        for place, label in enumerate(labels):
            error = found[label].get("valid standard error", 0) / fall
            color = "black" if label == "exact" else BLUE
            axes.errorbar(shares[label], place, xerr=error, fmt="o", color=color)
        axes.axvline(1, color=GREY, linewidth=0.6, zorder=0)
        axes.set_xlim(left=min(-0.05, axes.get_xlim()[0]))
        axes.set_title(name.removeprefix("mlp_"), fontsize=8)
        axes.grid(axis="x", linewidth=0.3)
    figure.supxlabel("share of the exact method's fall")
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    return figure


def headline() -> tuple[str, str, str]:
    """README.md's line on tuning: what was measured, the figures, the command."""

    def both(problem: str) -> str:
        share = lambda label: f"{_shares(problem)[label]:.2f}".replace("-", "−")
        return f"{share(DEFAULT)} ({share('published')})"

    shown = {"mlp_stable": "stable", "mlp_chaotic": "chaotic", "mlp_adam": "Adam"}
    words = ", ".join(f"{short} {both(name)}" for name, short in shown.items())
    return (
        "tuning by `drmad()`, share of the exact method's fall of the validation loss (published "
        "DrMAD beside it)",
        f"MLP: {words}; convolutional network {both('conv_smooth')}",
        "`python -m benchmarks.accuracy tuning`",
    )


def _reports(problem: str) -> dict[str, dict[str, Any]]:
    return {report["name"]: report for report in results(f"agreement_{problem}")["reports"]}


def _shares(problem: str) -> dict[str, float]:
    """Of each method, the share of the exact one's fall of the validation loss."""
    found = results(f"tuning_{problem}")
    start, exact = found.pop("start")["valid"], found["exact"]["valid"]
    fall = start - exact
    return {label: (start - row["valid"]) / fall for label, row in found.items()} if fall else {}


def _end(row: dict[str, Any], name: str) -> str:
    error = row.get(f"{name} standard error")
    return f"{row[name]:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _mean(mean: dict[str, float | None]) -> str:
    value, error = mean["value"], mean["standard_error"]
    if value is None:
        return "–"
    text = f"{value:.3f}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.1e}"
    return text if not error else f"{text} ± {error:.3f}"


TABLES: dict[str, Callable[[str], str]] = {
    "agreement": agreement_table,
    "tuning": tuning_table,
    "predictors": predictors_table,
    "budget": budget_table,
    "soundness": soundness_table,
    "certificates": certificates_table,
}
FIGURES: dict[str, Callable[[], Figure]] = {
    "way_back_chaotic": lambda: way_back("mlp_chaotic"),
    "way_back_adam": lambda: way_back("mlp_adam"),
    "tuning": lambda: tuning_figure(("mlp_stable", "mlp_chaotic", "mlp_adam")),
}
BENCHMARK = Benchmark("accuracy", needs="needs MNIST and Fashion-MNIST in TFDS_DATA_DIR")
