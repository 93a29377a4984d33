"""Figures of learned training: rates over its steps, scales of its initial weights."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, PyTree
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

import drmad_jax as dj
from drmad_jax.experiments.figures.plots import BLUE, COLUMN_WIDTH, GREY, ORANGE
from drmad_jax.transforms import Transform

# Layers from first to last, dark to light; the yellow end would be lost on white.
_LAYERS = matplotlib.colormaps["plasma"]
_LIGHTEST = 0.82
_LABELS = {"learning_rates": "learning rate", "momenta": "momentum"}
_TITLES = {"kernel": "weights", "bias": "biases", "": None}


def figures(
    hparams: Mapping[str, PyTree],
    start: Mapping[str, PyTree],
    *,
    num_steps: int,
    rules: Mapping[str, Transform],
) -> dict[str, Figure]:
    """A figure for each kind of hyperparameter that was tuned.

    Args:
        hparams: Unconstrained hyperparameters, a tree for each of "learning_rates", "momenta"
            and "initial_scales".
        start: The same where tuning started, for all kinds.
        num_steps: Steps of training.
        rules: How each kind is constrained.

    Returns:
        Figures by the name of the kind.
    """
    made = {}
    for name, tree in hparams.items():
        if name == "initial_scales":
            made[name] = scales(_named(tree), _named(start[name]))
            continue
        constrain = rules[name].constrain
        values = {key: np.asarray(constrain(jnp.asarray(x))) for key, x in _named(tree).items()}
        begin = float(constrain(jax.tree.leaves(start[name])[0][0]))
        made[name] = schedules(values, begin, num_steps=num_steps, label=_LABELS[name])
    return made


def schedules(
    values: Mapping[str, Float[np.ndarray, " blocks"]],
    start: float,
    *,
    num_steps: int,
    label: str,
) -> Figure:
    """Rates over training: a panel for weights and one for biases, a line for each layer.

    Args:
        values: Rates for each block of steps, by the layer's name, with "/kernel" or "/bias"
            behind it where these differ.
        start: Where all of them started.
        num_steps: Steps of training.
        label: What they are, for the axis.

    Returns:
        A figure.
    """
    kinds = [kind for kind in _TITLES if any(_kind(name) == kind for name in values)]
    figure = Figure(figsize=(COLUMN_WIDTH, 0.55 + 1.45 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), sharex=True, squeeze=False)[:, 0]
    steps = jnp.arange(num_steps)
    for axes, kind in zip(panels, kinds, strict=True):
        shown = {name: rates for name, rates in values.items() if _kind(name) == kind}
        for number, (name, rates) in enumerate(shown.items()):
            color = _LAYERS(_LIGHTEST * number / max(len(shown) - 1, 1))
            each_step = jax.vmap(dj.per_block(jnp.asarray(rates), num_steps))(steps)
            axes.plot(steps, each_step, color=color, label=name.partition("/")[0])
        axes.axhline(start, color=GREY, linestyle="--", linewidth=0.8)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        axes.set_title(_TITLES[kind], loc="left", fontsize=8)
    panels[-1].set_xlabel("training step (dashed: start)")
    if len(values) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside upper center",
            ncols=4,
            frameon=False,
            columnspacing=1,
            handlelength=1,
            handletextpad=0.4,
        )
    return figure


def scales(values: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray]) -> Figure:
    """Standard deviations of the initial weights, before and after.

    Args:
        values: Natural logarithms by the name of the array or layer.
        start: The same where tuning started.

    Returns:
        A figure with a row for each name.
    """
    figure = Figure(figsize=(COLUMN_WIDTH, 0.7 + 0.2 * len(values)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(values))
    after = np.exp([float(value) for value in values.values()])
    before = np.exp([float(start[name]) for name in values])
    axes.hlines(rows, np.minimum(before, after), np.maximum(before, after), color=GREY, linewidth=1)
    axes.plot(before, rows, "o", color=ORANGE, markerfacecolor="white", label="start")
    axes.plot(after, rows, "o", color=BLUE, label="learned")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(rows, [name or "all weights" for name in values])
    axes.invert_yaxis()
    axes.set_xlabel("standard deviation of the initial weights")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _kind(name: str) -> str:
    return name.partition("/")[2]


def _named(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a tree by their place in it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
