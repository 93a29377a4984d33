"""The tables of docs/study.md, each made from records of `benchmarks.accuracy`."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

RECORDS = Path(__file__).parent / "records"
DEFAULT = "means, Hessian, 10 x 10"
TUNED = ("mlp_stable", "mlp_chaotic", "mlp_adam", "conv_smooth")
PENALTIES = (
    "short", "mlp_stable", "long", "mlp_chaotic", "mlp_adam", "mlp_adamw", "conv_smooth", "ridge",
)  # fmt: skip
METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "cosine, other seeds": lambda report: report["other_seeds"]["value"],
    "signs, other seeds": lambda report: report["other_signs"]["value"],
    "cosine, same seed": lambda report: report["cosine"]["value"],
    "signs, same seed": lambda report: report["sign_agreement"]["value"],
    "norm ratio, distance from 1": lambda report: -abs(math.log(report["norm_ratio"]["value"])),
}


def record(name: str) -> dict[str, Any]:
    """The results of one record of this machine's kind."""
    return json.loads((RECORDS / f"{name}-cpu.json").read_text())["results"]


def agreement_table(name: str) -> str:
    """One line for each method: how it agrees with the exact one, and what it costs."""
    head = (
        "method", "cosine, other seeds", "cosine, same seed", "signs, same seed", "norm ratio",
        "finite", "expansion", "time / training", "memory, MiB",
    )  # fmt: skip
    found = record(f"agreement_{name}")
    closed = found.get("cosine with the closed form")
    lines = []
    for report in found["reports"]:
        line = [
            report["name"],
            _mean(report["other_seeds"]),
            _mean(report["cosine"]),
            _mean(report["sign_agreement"]),
            _mean(report["norm_ratio"]),
            f"{100 * report['finite_share']:.0f} %",
            "–" if report["expansion"] is None else f"{report['expansion']:.3g}",
            f"{report['time_ratio']:.2f}",
            f"{report['temporary_bytes'] / 2**20:.3g}",
        ]
        lines.append(line if closed is None else [*line, f"{closed[report['name']]:.3f}"])
    head = head if closed is None else (*head, "cosine, closed form")
    smooth = found["metasmoothness"]["value"]
    note = (
        f"{found['num_steps']} steps, {found['num_hparams']} hyperparameters, "
        f"{found['num_seeds']} seeds, mean ± standard error; plain training "
        f"{found['training_seconds']:.3g} s; metasmoothness {smooth:.3f}."
    )
    return f"{_table(head, lines)}\n{note}\n"


def tuning_table(name: str) -> str:
    """One line for each method: where tuning by it ends."""
    found = record(f"tuning_{name}")
    start, exact = found.pop("start"), found["exact"]
    head = ("method", "validation loss", "share of the exact fall", "test loss")
    lines = [("before tuning", f"{start['valid']:.4f}", "0", f"{start['test']:.4f}")]
    fall = start["valid"] - exact["valid"]
    for label, row in found.items():
        # Where the exact method gains nothing, there is nothing to have a share of.
        share = f"{(start['valid'] - row['valid']) / fall:.2f}" if fall > 0 else "–"
        lines.append((label, _end(row, "valid"), share, _end(row, "test")))
    count = len(exact["curves"])
    note = (
        f"{len(exact['curves'][0])} outer steps of Adam at .3, mean ± standard error of {count} "
        f"tuning {'runs' if count > 1 else 'run'}, each end judged on 6 fresh seeds."
    )
    return f"{_table(head, lines)}\n{note}\n"


def predictors_table(_: str) -> str:
    """How well each metric of a comparison ranks methods by where tuning with them ends."""
    lines = []
    for label, metric in METRICS.items():
        lines.append([label, *(f"{_rank_correlation(p, metric):.2f}" for p in TUNED)])
    counts = [str(len(_ends(p))) for p in TUNED]
    return _table(("metric", *TUNED), [*lines, ["methods", *counts]])


def budget_table(_: str) -> str:
    """The best share of the exact method's fall that a budget of time buys, by problem."""
    head = ("problem", "up to 1.3 times training", "up to 2 times", "`drmad()`", "published")
    lines = []
    for problem in TUNED:
        times = {r["name"]: r["time_ratio"] for r in record(f"agreement_{problem}")["reports"]}
        shares = _shares(problem)
        best = lambda limit, times=times, shares=shares: max(
            (label for label in shares if times[label] <= limit), key=shares.__getitem__
        )
        say = lambda label, times=times, shares=shares: f"{shares[label]:.2f} at {times[label]:.2f}"
        named = lambda label, say=say: f"{say(label)} ({label})"
        lines.append((problem, named(best(1.3)), named(best(2.0)), say(DEFAULT), say("published")))
    return _table(head, lines)


def soundness_table(_: str) -> str:
    """`drmad()` beside the exact and the published method on every problem with penalties."""
    head = (
        "problem", "finite", "expansion", "cosine, other seeds: drmad()", "exact", "published",
        "published: norm ratio",
    )  # fmt: skip
    lines = []
    for problem in PENALTIES:
        found = {r["name"]: r for r in record(f"agreement_{problem}")["reports"]}
        drmad, published = found[DEFAULT], found["published"]
        others = (found[name]["other_seeds"] for name in (DEFAULT, "exact", "published"))
        lines.append([
            problem,
            f"{100 * drmad['finite_share']:.0f} %",
            f"{drmad['expansion']:.3g}",
            *map(_mean, others),
            _mean(published["norm_ratio"]),
        ])  # fmt: skip
    return _table(head, lines)


def _shares(problem: str) -> dict[str, float]:
    """Of each method, the share of the exact one's fall of the validation loss."""
    found = record(f"tuning_{problem}")
    start, exact = found["start"]["valid"], found["exact"]["valid"]
    return {label: (start - end) / (start - exact) for label, end in _ends(problem).items()}


def _rank_correlation(problem: str, metric: Callable[[dict], float]) -> float:
    ends = _ends(problem)
    reports = {r["name"]: r for r in record(f"agreement_{problem}")["reports"]}
    values = [metric(reports[label]) for label in ends]
    return float(spearmanr(values, [-end for end in ends.values()]).statistic)


def _ends(problem: str) -> dict[str, float]:
    """The validation loss that tuning by each method ends with, the exact one apart."""
    found = record(f"tuning_{problem}")
    return {label: row["valid"] for label, row in found.items() if label not in ("start", "exact")}


def _end(row: dict[str, Any], name: str) -> str:
    error = row.get(f"{name} standard error")
    return f"{row[name]:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _mean(mean: dict[str, float | None]) -> str:
    value, error = mean["value"], mean["standard_error"]
    if value is None:
        return "–"
    text = f"{value:.3f}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.1e}"
    return text if not error else f"{text} ± {error:.3f}"


def _table(head: tuple[str, ...], lines: list) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


TABLES: dict[str, Callable[[str], str]] = {
    "agreement": agreement_table,
    "tuning": tuning_table,
    "predictors": predictors_table,
    "budget": budget_table,
    "soundness": soundness_table,
}
