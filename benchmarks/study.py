"""Puts the records of `benchmarks.accuracy` into docs/study.md, and draws its figures.

python -m benchmarks.study
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from drmad_jax.experiments.comparison_plots import cotangents
from drmad_jax.experiments.plots import BLUE, COLUMN_WIDTH, STYLE

ROOT = Path(__file__).parents[1]
RECORDS, PAGE, FIGURES = (
    ROOT / "benchmarks" / "records",
    ROOT / "docs" / "study.md",
    ROOT / "docs" / "figures",
)
SHOWN_ON_THE_WAY = (
    "published", "line, Hessian, all steps", "line, Gauss-Newton, all steps",
    "means, Hessian, 10 x 10", "exact",
)  # fmt: skip


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


TABLES: dict[str, Callable[[str], str]] = {"agreement": agreement_table, "tuning": tuning_table}


def fill(text: str) -> str:
    """The page with every table made anew from its record."""

    def made(match: re.Match) -> str:
        kind, name = match["kind"], match["name"]
        return f"<!-- {kind}: {name} -->\n{TABLES[kind](name)}<!-- end -->"

    pattern = r"<!-- (?P<kind>agreement|tuning): (?P<name>\w+) -->\n.*?<!-- end -->"
    return re.sub(pattern, made, text, flags=re.DOTALL)


def way_back(name: str) -> Figure:
    """The cotangent's norm on the way back, by method."""
    found = record(f"agreement_{name}")
    reports = [r for r in found["reports"] if r["name"] in SHOWN_ON_THE_WAY]
    return cotangents({**found, "reports": reports})


def tuning_figure(names: tuple[str, ...]) -> Figure:
    """The share of the exact method's fall by method, one panel for each problem."""
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 2.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    labels = [label for label in record(f"tuning_{names[0]}") if label != "start"]
    for axes, name in zip(panels, names, strict=True):
        found = record(f"tuning_{name}")
        start = found["start"]["valid"]
        fall = start - found["exact"]["valid"]
        for place, label in enumerate(labels):
            row = found[label]
            error = row.get("valid standard error", 0) / fall
            color = "black" if label == "exact" else BLUE
            axes.errorbar((start - row["valid"]) / fall, place, xerr=error, fmt="o", color=color)
        axes.axvline(1, color="#BBBBBB", linewidth=0.6, zorder=0)
        axes.set_xlim(left=min(-0.05, axes.get_xlim()[0]))
        axes.set_title(name.removeprefix("mlp_"), fontsize=8)
        axes.set_xlabel("share of the exact method's fall")
        axes.grid(axis="x", linewidth=0.3)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    return figure


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figures = {
            "way_back_chaotic": way_back("mlp_chaotic"),
            "way_back_adam": way_back("mlp_adam"),
            "tuning": tuning_figure(("mlp_chaotic", "mlp_adam")),
        }
        for name, figure in figures.items():
            figure.savefig(FIGURES / f"{name}.png", dpi=200, bbox_inches="tight")
            print(FIGURES / f"{name}.png")
    PAGE.write_text(fill(PAGE.read_text()))
    print(PAGE)


if __name__ == "__main__":
    main()
