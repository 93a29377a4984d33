"""Puts the records of `benchmarks.accuracy` into docs/study.md, and draws its figures.

python -m benchmarks.study
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks import markdown
from benchmarks.study_tables import TABLES, record
from drmad_jax.experiments.comparison_plots import cotangents
from drmad_jax.experiments.plots import BLUE, COLUMN_WIDTH, STYLE

ROOT = Path(__file__).parents[1]
PAGE, FIGURES = ROOT / "docs" / "study.md", ROOT / "docs" / "figures"
SHOWN_ON_THE_WAY = (
    "published", "line, Hessian, all steps", "line, Gauss-Newton, all steps",
    "means, Hessian, 10 x 10", "exact",
)  # fmt: skip


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
        axes.grid(axis="x", linewidth=0.3)
    figure.supxlabel("share of the exact method's fall")
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    return figure


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figures = {
            "way_back_chaotic": way_back("mlp_chaotic"),
            "way_back_adam": way_back("mlp_adam"),
            "tuning": tuning_figure(("mlp_stable", "mlp_chaotic", "mlp_adam")),
        }
        for name, figure in figures.items():
            figure.savefig(FIGURES / f"{name}.png", dpi=200, bbox_inches="tight")
            print(FIGURES / f"{name}.png")
    PAGE.write_text(markdown.fill(PAGE.read_text(), TABLES))
    print(PAGE)


if __name__ == "__main__":
    main()
