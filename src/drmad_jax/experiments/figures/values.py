"""Figures of learned values beside where they started."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drmad_jax.experiments.figures.style import BLUE, ORANGE, new_figure, panel

# Of more arrays than that, histograms make a figure that fits no page.
_MOST_HISTOGRAMS = 12


def distributions(
    values: Mapping[str, np.ndarray], start: float | None = None, *, label: str
) -> Figure:
    """How learned values lie around where they started, one histogram for each array.

    Where there are many arrays, a row for each takes their place: its median, the middle half and
    the middle nine tenths of it.

    Args:
        values: Arrays by name; single values are drawn as points, not as histograms.
        start: Where all of them started; `None` where they did not start from one value.
        label: What they are, for the axis.

    Returns:
        A figure whose arrays share their horizontal axis.
    """
    if len(values) > _MOST_HISTOGRAMS:
        return _ranges(values, start, label=label)
    height = 0.5 + 0.75 * len(values)
    figure = new_figure(max(height, 1.5))
    panels = figure.subplots(len(values), sharex=True, squeeze=False)[:, 0]
    flat = {name: np.ravel(array) for name, array in values.items()}
    everything = np.concatenate([*flat.values(), [] if start is None else [start]])
    bins = np.linspace(everything.min() - 1e-3, everything.max() + 1e-3, 41)
    for axes, (name, array) in zip(panels, flat.items(), strict=True):
        if array.size == 1:
            axes.plot(array, [0.5], "o", color=BLUE)
            axes.set_yticks([])
        else:
            axes.hist(array, bins=bins, color=BLUE)
        _mark(axes, start)
        axes.set_title(f"{name} ({array.size})", loc="left", fontsize=8)
    panels[-1].set_xlabel(_named(label, start))
    figure.supylabel("count")
    return figure


def _mark(axes: Axes, start: float | None) -> None:
    if start is not None:
        axes.axvline(start, color=ORANGE, linestyle="--", linewidth=1)


def _named(label: str, start: float | None) -> str:
    return label if start is None else f"{label} (dashed: start)"


def _ranges(values: Mapping[str, np.ndarray], start: float | None, *, label: str) -> Figure:
    figure, axes = panel(0.6 + 0.15 * len(values))
    rows = range(len(values))
    quantiles = [np.quantile(array, [0.05, 0.25, 0.5, 0.75, 0.95]) for array in values.values()]
    least, low, middle, high, most = np.transpose(quantiles)
    axes.hlines(rows, least, most, color=BLUE, linewidth=0.8)
    axes.hlines(rows, low, high, color=BLUE, linewidth=3)
    axes.plot(middle, rows, "o", color="white", markeredgecolor=BLUE)
    _mark(axes, start)
    names = [f"{name} ({np.size(array)})" for name, array in values.items()]
    axes.set_yticks(rows, names, fontsize=6)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(f"{_named(label, start)}\nmedian, middle half, middle nine tenths")
    return figure


def changes(start: float, values: Mapping[str, float], *, label: str) -> Figure:
    """Where single values came to from where all of them started.

    Args:
        start: Where all of them started.
        values: Learned values by name.
        label: What they are, for the axis.

    Returns:
        A figure with one line for each value.
    """
    figure, axes = panel(max(0.6 + 0.22 * len(values), 1.2))
    rows = range(len(values))
    axes.hlines(rows, start, list(values.values()), color=BLUE)
    axes.plot(list(values.values()), rows, "o", color=BLUE)
    axes.axvline(start, color=ORANGE, linestyle="--", linewidth=1)
    axes.set_yticks(rows, list(values))
    axes.set(ylim=(len(values) - 0.5, -0.5), xlabel=f"{label} (dashed: start)")
    return figure
