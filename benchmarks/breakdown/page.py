"""Breakdown: its table and its figure."""

from matplotlib.figure import Figure

from benchmarks.looks import COLORS, COLUMN_WIDTH, GREY, legend_below, panel
from benchmarks.pages import Benchmark, Results, table

PART_COLORS = {
    "gradient": COLORS[0],
    "curvature product": COLORS[0],
    "random indices": COLORS[5],
    "batch gather": COLORS[1],
    "optimizer update": COLORS[2],
    "path": COLORS[3],
    "rest": GREY,
}


def _table(results: Results) -> str:
    """Microseconds of whole steps, and the way back of the default."""
    head = (
        "model", "training step, µs", "reverse step, Gauss-Newton", "Hessian",
        "way back of `drmad()`, ms", "its curvature products",
    )  # fmt: skip
    lines = []
    for label, cell in results["cells"].items():
        found = cell["microseconds"]
        steps = ("training step", "reverse step, gauss_newton", "reverse step, hessian")
        back = found["way back of drmad(), all of it"]
        share = back["curvature product"] / back["whole"]
        whole = (f"{found[name]['whole']:,.0f}" for name in steps)
        lines.append((label, *whole, f"{back['whole'] / 1e3:,.0f}", f"{share:.0%}"))
    return table(head, lines)


def _figure(results: Results) -> Figure:
    """Shares of a training step and of a reverse step, one pair of bars for each model."""
    rows = []
    for label, cell in results["cells"].items():
        for what in ("training step", "reverse step, gauss_newton"):
            found = cell["microseconds"][what]
            rows.append((f"{label}: {what.split(',')[0]}, {found['whole']:,.0f} µs", found))
    figure, axes = panel(0.8 + 0.2 * len(rows), width=2 * COLUMN_WIDTH)
    seen: set[str] = set()
    for place, (_, found) in enumerate(rows):
        parts = {name: max(0, value) for name, value in found.items() if name != "whole"}
        left = 0.0
        for name, value in parts.items():
            share = 100 * value / sum(parts.values())
            products = ("gradient", "curvature product")
            shown = ", ".join(products) if name in products else name
            axes.barh(
                place, share, left=left, height=0.7, color=PART_COLORS[name],
                label=None if shown in seen else shown,
            )  # fmt: skip
            seen.add(shown)
            left += share
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the time (%)")
    legend_below(figure)
    return figure


BENCHMARK = Benchmark("breakdown", table=_table, figure=_figure)
