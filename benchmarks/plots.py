"""The figures of benchmarks/README.md, each drawn from one record's results."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks import laws, lineup
from drmad_jax.experiments.comparison_plots import COLORS, MARKERS
from drmad_jax.experiments.plots import COLUMN_WIDTH

Results = dict[str, Any]
# Black for the exact methods, told apart by their lines.
LOOKS: dict[str, dict[str, Any]] = {
    lineup.DEFAULT: {"color": COLORS[0], "marker": MARKERS[0]},
    lineup.LINE_SEGMENTS: {"color": COLORS[1], "marker": MARKERS[1]},
    lineup.LINE_ALL: {"color": COLORS[2], "marker": MARKERS[2]},
    lineup.LINE_TENTH: {"color": COLORS[3], "marker": MARKERS[3]},
    lineup.CHECKPOINTED: {"color": "black", "marker": MARKERS[5]},
    lineup.UNROLLED: {"color": "black", "marker": MARKERS[7], "linestyle": ":"},
    lineup.STORED: {"color": "black", "marker": MARKERS[6], "linestyle": "--"},
    lineup.REVERSIBLE: {"color": COLORS[6], "marker": MARKERS[4], "linestyle": "--"},
    "truncated, T/10 steps": {"color": COLORS[4], "marker": MARKERS[4]},
    "forward": {"color": COLORS[5], "marker": MARKERS[1], "linestyle": "--"},
    lineup.PLAIN: {"color": COLORS[6], "marker": ""},
}
PART_COLORS = {
    "gradient": COLORS[0],
    "curvature product": COLORS[0],
    "random indices": COLORS[5],
    "batch gather": COLORS[1],
    "optimizer update": COLORS[2],
    "path": COLORS[3],
    "rest": "#BBBBBB",
}


def cost(results: Results) -> Figure:
    """Time over plain training against T, one panel for each model, at its smallest batch."""
    cells = [cell for cell in results["cells"].values() if cell["optimizer"] == "momentum"]
    subjects = list(dict.fromkeys(cell["subject"] for cell in cells))
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 2.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(subjects), sharey=True))
    for axes, subject in zip(panels, subjects, strict=True):
        of_subject = [cell for cell in cells if cell["subject"] == subject]
        batch_size = min(cell["batch_size"] for cell in of_subject)
        chosen = [cell for cell in of_subject if cell["batch_size"] == batch_size]
        for label in lineup.SWEPT:
            _cost_line(axes, chosen, label)
        axes.set(xscale="log", yscale="log", xlabel="inner steps T")
        axes.set_title(f"{subject}, batch {batch_size}", fontsize=8)
        axes.axhline(1, color="#BBBBBB", linewidth=0.6, zorder=0)
        axes.grid(axis="y", linewidth=0.3)
        steps = sorted({cell["num_steps"] for cell in chosen})
        # Room at both sides, also where all runs have the same number of steps.
        axes.set_xlim(steps[0] / 1.5, steps[-1] * 1.5)
        _plain_ticks(axes.xaxis, steps)
    _plain_ticks(panels[0].yaxis, (1, 1.5, 2, 3, 5, 10, 20))
    panels[0].set_ylabel("time / plain training")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _cost_line(axes: Axes, cells: Sequence[Results], label: str) -> None:
    points = [
        (
            cell["num_steps"],
            *(cell["over plain training"][label][k] for k in ("median", "min", "max")),
        )
        for cell in cells
        if label in cell["over plain training"]
    ]
    if points:
        steps, median, low, high = np.array(sorted(points)).T
        errors = np.stack([median - low, high - median])
        axes.errorbar(steps, median, errors, label=label, elinewidth=0.6, **LOOKS[label])


def breakdown(results: Results) -> Figure:
    """Shares of a training step and of a reverse step, one pair of bars for each model."""
    rows = []
    for label, cell in results["cells"].items():
        for what in ("training step", "reverse step, gauss_newton"):
            found = cell["microseconds"][what]
            rows.append((f"{label}: {what.split(',')[0]}, {found['whole']:,.0f} µs", found))
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 0.8 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    seen: set[str] = set()
    for place, (_, found) in enumerate(rows):
        parts = {name: max(0, value) for name, value in found.items() if name != "whole"}
        left = 0.0
        for name, value in parts.items():
            share = 100 * value / sum(parts.values())
            shown = "gradient, curvature product" if "product" in name else name
            shown = "gradient, curvature product" if name == "gradient" else shown
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
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def memory(results: Results) -> Figure:
    """Bytes against steps, with the fitted laws up to 16 GiB, and against weights."""
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    # All steps back on the line need what a tenth of them does.
    shown = {label: look for label, look in LOOKS.items() if label != lineup.LINE_ALL}
    for label, look in shown.items():
        points = results["by number of steps"].get(label, [])
        _memory_line(left, points, "num_steps", label, look)
        _law_line(left, points, label, look)
        points = results["by number of weights"].get(label, [])
        _memory_line(right, points, "weights", None, look)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.axhline(laws.LIMIT, color="#BBBBBB", linewidth=0.8, zorder=0)
        axes.grid(linewidth=0.3)
    left.text(130, 1.25 * laws.LIMIT, "16 GiB", fontsize=7, color="#666666")
    left.set(xlabel="inner steps T", xlim=(80, 1e9), ylim=(5e4, 2e12))
    left.xaxis.set_major_locator(LogLocator(numticks=8))
    left.xaxis.set_minor_locator(NullLocator())
    left.set_yticks(
        [2**20 * k for k in (1, 32, 1024, 32 * 1024)], ["1 MiB", "32 MiB", "1 GiB", "32 GiB"]
    )
    left.yaxis.set_minor_locator(NullLocator())
    left.set_ylabel("temporary memory (hollow: real peak)")
    right.set_xlabel("weights (T = 30)")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _memory_line(
    axes: Axes, points: list[Results], key: str, label: str | None, look: dict[str, Any]
) -> None:
    compiled = [(p[key], p["temporary_bytes"]) for p in points if p.get("temporary_bytes")]
    peaks = [(p[key], p["peak_bytes"]) for p in points if p.get("peak_bytes")]
    if compiled:
        axes.plot(*zip(*compiled, strict=True), label=label, **look)
    if peaks:
        marker = look["marker"] or "_"
        axes.plot(
            *zip(*peaks, strict=True), linestyle="", marker=marker, color=look["color"],
            markersize=6, fillstyle="none",
        )  # fmt: skip


def _law_line(axes: Axes, points: list[Results], label: str, look: dict[str, Any]) -> None:
    """The fitted law from the last point to where it meets the limit."""
    sized = [p for p in points if p.get("temporary_bytes")]
    law = laws.fit(label, sized) if len(sized) >= 2 else {}
    most = law.get("steps in 16 GiB")
    if not most:
        return
    last = sized[-1]
    steps = np.geomspace(last["num_steps"], most, 50)
    grow, slope = laws.growth(label), law["slope"]
    more = np.array([grow(T) - grow(last["num_steps"]) for T in steps])
    axes.plot(steps, last["temporary_bytes"] + slope * more, color=look["color"], linewidth=0.6)


def population(results: Results) -> Figure:
    """Settings in a second against the number of members, and the loop."""
    figure = Figure(figsize=(COLUMN_WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    by_form: dict[str, list[tuple[int, float]]] = {}
    for label, row in results["seconds"].items():
        form, _, size = label.rpartition(", ")
        if form and not form.startswith("loop"):
            by_form.setdefault(form, []).append((int(size), int(size) / row["median_s"]))
    for index, (form, points) in enumerate(by_form.items()):
        look = {"color": COLORS[index], "marker": MARKERS[index]}
        axes.plot(*zip(*sorted(points), strict=True), label=form, **look)
    single = 1 / results["seconds"]["single"]["median_s"]
    axes.axhline(single, color="black", linewidth=0.8, label="loop of single runs")
    axes.axhline(2 * single, color="black", linewidth=0.6, linestyle=":", label="twice that")
    axes.set(xscale="log", xlabel="members", ylabel="hypergradients in a second")
    sizes = sorted({size for points in by_form.values() for size, _ in points})
    _plain_ticks(axes.xaxis, sizes)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def peers(results: Results) -> Figure | None:
    """Seconds and MiB of every subject in the longest case, ours in colour."""
    case = list(results["cases"])[-1]
    rows = {n: r for n, r in results["cases"][case]["rows"].items() if "median_s" in r}
    if not rows:
        return None
    names = sorted(rows, key=lambda name: -rows[name]["median_s"])
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 0.8 + 0.17 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, name in enumerate(names):
        row = rows[name]
        color = COLORS[0] if row["package"] == "drmad_jax" else COLORS[1]
        filled = "full" if row["kind"] == "exact" else "none"
        look = {"marker": "o", "color": color, "markersize": 4, "fillstyle": filled}
        left.plot(row["median_s"], place, **look)
        right.plot(max(row["memory_bytes"], 1) / 2**20, place, **look)
    left.set_yticks(range(len(names)), names)
    left.set(xscale="log", xlabel="seconds")
    right.set(xscale="log", xlabel="memory of the call (MiB)")
    for axes in (left, right):
        low, high = axes.get_xlim()
        decades = [x for x in _DECADES if low <= x <= high]
        finer = [x for x in _FINER if low <= x <= high]
        _plain_ticks(axes.xaxis, decades if len(decades) > 2 else finer)
        axes.grid(linewidth=0.3)
    figure.suptitle(f"{case}; blue: drmad_jax; filled: exact", fontsize=8)
    return figure


_DECADES = [10.0**n for n in range(-4, 6)]
_FINER = [factor * decade for decade in _DECADES for factor in (1, 2, 3, 5)]


def _plain_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """These ticks and no others, as plain numbers."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}" if x < 100 else f"{x:,.0f}"))
    axis.set_minor_locator(NullLocator())


FIGURES: dict[str, Callable[[Results], Figure | None]] = {
    "cost": cost,
    "breakdown": breakdown,
    "memory": memory,
    "population": population,
    "peers": peers,
}
