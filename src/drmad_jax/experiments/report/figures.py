"""Figures that show all runs of an experiment together."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drmad_jax.experiments.figures import style
from drmad_jax.experiments.metrics import metric
from drmad_jax.experiments.report.runs import Run, headlines

_DASHES = ("-", "--", "-.", ":")


def courses(runs: Sequence[Run]) -> Figure:
    """Outer loss and headline of all runs over outer steps.

    Runs are told apart by colour, dashes and markers; one without tuning is a level line, and one
    that stopped ends in a cross.

    Args:
        runs: The runs of one experiment.

    Returns:
        A figure as wide as two columns.
    """
    lines = [line for run in runs for line in run.metrics]
    with matplotlib.rc_context(style.STYLE):
        names = [name for name in headlines(runs) if all(name in line for line in lines)]
        rows = math.ceil(len(runs) / 4)
        figure = style.new_figure(2.4 + 0.16 * rows, width=2 * style.COLUMN_WIDTH)
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            label, factor, _ = metric(name)
            for number, run in enumerate(runs):
                _draw_course(axes, run, number, name, factor)
            axes.set(xlabel="outer step", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y", linewidth=0.3)
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, handlelength=3)
    return figure


def judged(runs: Sequence[Run]) -> Figure | None:
    """Means on fresh seeds with their intervals, before and after tuning, a line for each run.

    Args:
        runs: The runs of one experiment.

    Returns:
        A figure as wide as two columns; `None` if no run was judged.
    """
    shown = [run for run in runs if run.judged]
    names = [name for name in headlines(runs) if any(name in run.judged for run in shown)]
    if not names:
        return None
    with matplotlib.rc_context(style.STYLE):
        figure = style.new_figure(0.9 + 0.24 * len(shown), width=2 * style.COLUMN_WIDTH)
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for axes, name in zip(panels, names, strict=True):
            label, factor, _ = metric(name)
            for number, run in enumerate(shown):
                color, _, marker = _look(runs.index(run))
                before = {"color": style.GREY, "marker": "o", "mfc": "white"}
                after = {"color": color, "marker": marker, "mfc": color}
                for when, shift, look in (("before", -0.12, before), ("after", 0.12, after)):
                    found = run.judged.get(name, {}).get(when)
                    _draw_estimate(axes, number + shift, found, factor, look)
            axes.set_xlabel(f"{label}, fresh seeds")
            axes.grid(axis="x", linewidth=0.3)
        panels[0].set_yticks(range(len(shown)), [run.label for run in shown])
        panels[0].set_ylim(len(shown) - 0.5, -0.5)
    return figure


def _look(number: int) -> tuple[str, str, str]:
    """Colour, dashes and marker of a run, of which no two runs among 28 share all."""
    color = "black" if number == 0 else style.COLORS[(number - 1) % len(style.COLORS)]
    return color, _DASHES[number % len(_DASHES)], style.MARKERS[number % len(style.MARKERS)]


def _draw_course(axes: Axes, run: Run, number: int, name: str, factor: float) -> None:
    color, dashes, marker = _look(number)
    steps = [line["step"] for line in run.metrics]
    values = [np.nan if line[name] is None else factor * line[name] for line in run.metrics]
    if run.config.outer.num_steps == 0 and values:
        axes.axhline(values[0], color=color, linestyle=dashes, label=run.label)
        return
    every = max(1, len(steps) // 8)
    # The first one lies wide below the others, some of which go along with it.
    wide = {"linewidth": 2.2, "zorder": 1} if number == 0 else {}
    axes.plot(
        steps, values, color=color, ls=dashes, marker=marker, markevery=every, label=run.label,
        **wide,
    )  # fmt: skip
    finite = np.flatnonzero(np.isfinite(values))
    if run.reason and len(finite):
        axes.plot(steps[finite[-1]], values[finite[-1]], "x", color=color, markersize=7)


def _draw_estimate(
    axes: Axes,
    height: float,
    found: Mapping[str, Any] | None,
    factor: float,
    look: Mapping[str, Any],
) -> None:
    if not found or found["mean"] is None:
        return
    mean = factor * found["mean"]
    ends = [mean, mean] if found["interval"] is None else factor * np.array(found["interval"])
    errors = [[mean - ends[0]], [ends[1] - mean]]
    axes.errorbar(mean, height, xerr=errors, elinewidth=0.9, capsize=1.5, **look)
