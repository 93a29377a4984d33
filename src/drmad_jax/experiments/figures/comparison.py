"""Figures of a comparison of methods, drawn from the record of it and from nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from drmad_jax.experiments.figures.style import COLORS, COLUMN_WIDTH, MARKERS, new_figure, panel

_LABEL_SIZE = 7


def cosines(record: Mapping[str, Any]) -> Figure:
    """Cosine with other seeds against time and against memory, one point for each method.

    Args:
        record: The contents of `compare.json`.

    Returns:
        A figure with two panels that share their vertical axis.
    """
    figure = new_figure(3.0, width=2 * COLUMN_WIDTH)
    panels = figure.subplots(1, 2, sharey=True)
    shown = [r for r in record["reports"] if r["other_seeds"]["value"] is not None]
    y = np.array([r["other_seeds"]["value"] for r in shown])
    errors = np.array([r["other_seeds"]["standard_error"] or 0.0 for r in shown])
    memory = [np.nan if r["temporary_bytes"] is None else r["temporary_bytes"] for r in shown]
    values = ([r["time_ratio"] for r in shown], np.array(memory) / 2**20)
    labels = ("time / plain training", "temporary memory (MiB)")
    exact = [r["name"] for r in shown].index(record["reference"])
    later = []
    for axes, x, label in zip(panels, values, labels, strict=True):
        axes.axhspan(y[exact] - errors[exact], y[exact] + errors[exact], color="#EEEEEE")
        for report, across, up, error in zip(shown, x, y, errors, strict=True):
            color, marker = _look(record, report["name"])
            axes.errorbar(
                across, up, error, color=color, marker=marker, markersize=5, elinewidth=0.8
            )
        _log_axis(axes, x)
        axes.set_xlabel(label)
        levels = np.linspace(-1, 1, 9)[:, None]
        bars = np.stack(np.broadcast_arrays(np.asarray(x), y + levels * errors), axis=-1)
        spots = dict(zip([r["name"] for r in shown], zip(x, y, strict=True), strict=True))
        later.append((axes, spots, bars.reshape(-1, 2)))
    panels[0].set_ylabel("cosine with the mean exact\nhypergradient of other seeds")
    for axes, spots, bars in later:
        _label(figure, axes, record, spots, bars)
    return figure


def cotangents(record: Mapping[str, Any]) -> Figure:
    """Norm of the weights' cotangent on the way back, one line for each method that has one.

    Args:
        record: The contents of `compare.json`.

    Returns:
        A figure.
    """
    figure, axes = panel(2.7, width=1.5 * COLUMN_WIDTH)
    axes.set_yscale("log")
    ends, drawn = {}, []
    for report in record["reports"]:
        if report["cotangent_norms"] is None:
            continue
        name = report["name"]
        color, marker = _look(record, name)
        norms = [np.nan if norm is None else norm for norm in report["cotangent_norms"]]
        middles = record["num_steps"] * (np.arange(len(norms)) + 0.5) / len(norms)
        points = np.column_stack([middles, norms])[np.isfinite(norms)]
        # Below the others, some of which go along with the exact one for a while.
        wide = {"linewidth": 2.4, "zorder": 1} if name == record["reference"] else {}
        axes.plot(*points.T, color=color, marker=marker * (len(points) < 12), markersize=3, **wide)
        drawn.append(points)
        if len(points):
            ends[name] = tuple(points[0])
    num_steps = record["num_steps"]
    axes.margins(y=0.12)
    axes.set_xlim(-0.35 * num_steps, 1.02 * num_steps)
    axes.set_xticks(np.linspace(0, num_steps, 6))
    axes.set_xlabel("inner step (the way back goes from right to left)")
    axes.set_ylabel("norm of the weights' cotangent")
    axes.grid(axis="y", linewidth=0.3)
    _label(figure, axes, record, ends, np.concatenate(drawn))
    return figure


def _look(record: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A method's colour and marker, the same in every figure."""
    names = [report["name"] for report in record["reports"]]
    index = names.index(name)
    if name == record["reference"]:
        return "black", "o"
    return COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]


def _log_axis(axes: Axes, values: Sequence[float] | np.ndarray) -> None:
    """A logarithmic horizontal axis with plain numbers and room around the values."""
    axes.set_xscale("log")
    low, high = np.nanmin(values), np.nanmax(values)
    axes.set_xlim(low / 1.2, high * 1.2)
    decades = np.log10(high / low)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(linewidth=0.3)


def _label(
    figure: Figure,
    axes: Axes,
    record: Mapping[str, Any],
    spots: Mapping[str, tuple[float, float]],
    drawn: np.ndarray,
) -> None:
    """Writes each name beside its spot, clear of other names and of what is drawn."""
    figure.draw_without_rendering()  # the layout, which fixes what a point is on paper
    points_per_pixel = 72 / figure.dpi
    to_points = lambda xy: axes.transData.transform(xy) * points_per_pixel
    (left, bottom), (right, top) = axes.bbox.get_points() * points_per_pixel
    drawn, boxes = to_points(drawn), []
    for name, spot in spots.items():
        half = np.array([0.3 * _LABEL_SIZE * len(name), 0.6 * _LABEL_SIZE])
        center = to_points(spot)

        def crowding(offset: np.ndarray, center: np.ndarray = center, half: np.ndarray = half):
            low, high = center + offset - half, center + offset + half
            hidden = np.sum(np.all((drawn > low) & (drawn < high), axis=1))
            clashes = sum(np.all((low < b) & (high > a)) for a, b in boxes)
            outside = low[0] < left or low[1] < bottom or high[0] > right or high[1] > top
            return hidden + 100 * (clashes + outside), abs(offset[1])

        rows = np.arange(-5, 6) * 1.2 * _LABEL_SIZE
        sides = half[0] + 6, -half[0] - 6
        offset = min((np.array([dx, dy]) for dy in rows for dx in sides), key=crowding)
        boxes.append((center + offset - half, center + offset + half))
        color, _ = _look(record, name)
        line = {"arrowstyle": "-", "linewidth": 0.6, "color": color, "shrinkA": 0}
        axes.annotate(
            name, spot, tuple(offset), textcoords="offset points", ha="center", va="center",
            fontsize=_LABEL_SIZE, arrowprops=line, in_layout=False,
        )  # fmt: skip
