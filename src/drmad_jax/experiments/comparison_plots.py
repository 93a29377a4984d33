"""Figures of a comparison of methods, drawn from its `compare.json` and from nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from drmad_jax.experiments.compare import JSON
from drmad_jax.experiments.plots import COLUMN_WIDTH, STYLE, save

# Okabe and Ito's palette without its yellow, too light on white; black is the exact method.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#666666")
MARKERS = "osD^vP*X"


def draw(folder: Path) -> list[Path]:
    """Draws every figure of a comparison into its folder.

    Args:
        folder: A folder with a `compare.json`.

    Returns:
        The PNG files written.
    """
    record = json.loads((folder / JSON).read_text(encoding="utf-8"))
    with matplotlib.rc_context(STYLE):
        figures = {"cosines": cosines(record)}
        if record["cotangent_norms"]:
            figures["cotangents"] = cotangents(record)
        return [save(figure, folder, name) for name, figure in figures.items()]


def cosines(record: Mapping[str, Any]) -> Figure:
    """Cosine with other seeds against time and against memory, one point for each method.

    Args:
        record: The contents of `compare.json`.

    Returns:
        A figure with two panels that share their vertical axis.
    """
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 2.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    shown = [r for r in record["reports"] if r["other_seeds"]["value"] is not None]
    y = np.array([r["other_seeds"]["value"] for r in shown])
    errors = np.array([r["other_seeds"]["standard_error"] or 0.0 for r in shown])
    memory = [np.nan if r["temporary_bytes"] is None else r["temporary_bytes"] for r in shown]
    values = ([r["time_ratio"] for r in shown], np.array(memory) / 2**20)
    labels = ("time / plain training", "temporary memory (MiB)")
    exact = [r["name"] for r in shown].index(record["reference"])
    for axes, x, label in zip(panels, values, labels, strict=True):
        axes.axhspan(y[exact] - errors[exact], y[exact] + errors[exact], color="#EEEEEE")
        for report, across, up, error in zip(shown, x, y, errors, strict=True):
            color, marker = _look(record, report["name"])
            axes.errorbar(
                across, up, error, color=color, marker=marker, markersize=5, elinewidth=0.8
            )
        _log_axis(axes, x)
        axes.set_xlabel(label)
        _label_points(axes, x, y, [r["name"] for r in shown])
    panels[0].set_ylabel("cosine with the mean exact\nhypergradient of other seeds")
    return figure


def cotangents(record: Mapping[str, Any]) -> Figure:
    """Norm of the weights' cotangent on the way back, one line for each method that has one.

    Args:
        record: The contents of `compare.json`.

    Returns:
        A figure.
    """
    figure = Figure(figsize=(1.5 * COLUMN_WIDTH, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    ends, names = [], []
    for name, way in record["cotangent_norms"].items():
        color, marker = _look(record, name)
        norm = np.array([np.nan if n is None else n for n in way["norm"]])
        # Below the others, some of which go along with the exact one for a while.
        wide = {"linewidth": 2.4, "zorder": 1} if name == record["reference"] else {}
        axes.plot(way["step"], norm, color=color, marker=marker * (len(norm) == 1), **wide)
        if np.isfinite(norm).any():
            first = np.flatnonzero(np.isfinite(norm))[0]
            ends.append((way["step"][first], norm[first]))
            names.append(name)
    num_steps = record["num_steps"]
    axes.margins(y=0.12)
    axes.set_xlim(-0.35 * num_steps, 1.02 * num_steps)
    axes.set_xticks(np.linspace(0, num_steps, 6))
    axes.set_xlabel("inner step (the way back goes from right to left)")
    axes.set_ylabel("norm of the weights' cotangent")
    axes.grid(axis="y", linewidth=0.3)
    x, y = zip(*ends, strict=True)
    _label_points(axes, x, y, names, to_right=0)
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


def _label_points(
    axes: Axes, x: Any, y: Any, names: Sequence[str], *, to_right: float = 0.6
) -> None:
    """Writes each point's name beside it, pushed apart vertically.

    On its right side up to the share `to_right` of the axis, on its left side beyond.
    """
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform(np.column_stack([x, y]))
    for (across, up), height, name in zip(places, _spread(places[:, 1]), names, strict=True):
        right = across < to_right
        axes.annotate(
            name,
            (across, up),
            xytext=(across + (0.04 if right else -0.04), height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            ha="left" if right else "right",
            va="center",
            fontsize=7,
            bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.8},
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#999999", "shrinkA": 0},
        )


def _spread(heights: np.ndarray, gap: float = 0.08) -> np.ndarray:
    """Moves heights, as little as it takes, so that they keep a distance."""
    order = np.argsort(heights)
    spread = heights[order].copy()
    for _ in range(100):
        short = np.maximum(0, gap - np.diff(spread)) / 2
        spread[1:] += short
        spread[:-1] -= short
    result = np.empty_like(spread)
    result[order] = spread
    return result
