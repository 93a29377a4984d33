"""Figures of clouds and shadows found in satellite images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from drmad_jax.experiments.data.clouds import CLASSES
from drmad_jax.experiments.figures.plots import BLUE, COLUMN_WIDTH, GREY, ORANGE

# Clear ground light, shadows dark, clouds blue: told apart by lightness alone, too.
_COLORS = ("#E8E2D0", "#333333", "#56B4E9")
_NO_VALUE = "#FFFFFF"


def most_varied(labels: Int[np.ndarray, "n h w"], count: int) -> Int[np.ndarray, " count"]:
    """The patches of which the rarest class covers most.

    Args:
        labels: Class numbers of every pixel.
        count: How many.

    Returns:
        Indices, the most varied first.
    """
    shares = [(labels == index).mean(axis=(1, 2)) for index in range(len(CLASSES))]
    return np.argsort(-np.min(shares, axis=0), kind="stable")[:count]


def predictions(
    images: Float[np.ndarray, "n h w 4"],
    truth: Int[np.ndarray, "n h w"],
    predicted: Mapping[str, Int[np.ndarray, "n h w"]],
) -> Figure:
    """Patches in true colours, and below each the truth and what networks found.

    Args:
        images: Reflectances of blue, green, red and near infrared.
        truth: Labels.
        predicted: Found labels by the network's name.

    Returns:
        A figure with a row for each.
    """
    rows = {"true colour": true_colour(images), "truth": truth, **predicted}
    side = (COLUMN_WIDTH - 0.65) / len(images)
    size = (COLUMN_WIDTH, len(rows) * (side + 0.03) + 0.25)
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.012, h_pad=0.012, wspace=0, hspace=0)  # pyright: ignore
    panels = figure.subplots(len(rows), len(images), squeeze=False)
    colors = ListedColormap([_NO_VALUE, *_COLORS])
    for line, (name, row) in zip(panels, rows.items(), strict=True):
        for axes, shown in zip(line, row, strict=True):
            axes.imshow(shown, cmap=colors, vmin=-1, vmax=len(CLASSES) - 1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    handles = [
        Patch(facecolor=color, edgecolor=GREY, linewidth=0.4, label=name)
        for color, name in zip(_COLORS, CLASSES, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def bars(values: Mapping[str, Sequence[Any]]) -> Figure:
    """Intersection over union of each class, before and after side by side.

    Args:
        values: For each network one value for each class, from 0 to 1.

    Returns:
        A figure.
    """
    figure = Figure(figsize=(COLUMN_WIDTH, 2.0), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(CLASSES))
    for index, (name, row) in enumerate(values.items()):
        at, heights = places + 0.4 * (index - 0.5), [100 * float(value) for value in row]
        drawn = axes.bar(at, heights, 0.38, color=(GREY, BLUE)[index % 2], label=name)
        axes.bar_label(drawn, fmt="%.1f", fontsize=7)
    axes.set_xticks(places, CLASSES)
    axes.set_ylabel("test IoU (%), one run")
    axes.set_ylim(0, 108)
    figure.legend(loc="outside upper right", frameon=False, ncols=2)
    return figure


def hyperparameters(
    before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Where every hyperparameter started and where it came to, a panel for each kind.

    Args:
        before: Values at the start by kind and name.
        after: Those that tuning ended with.

    Returns:
        A figure.
    """
    counts = [len(values) for values in before.values()]
    size = (COLUMN_WIDTH, 0.5 * len(counts) + 0.16 * sum(counts))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(counts), height_ratios=counts, squeeze=False)[:, 0]
    for axes, (kind, starts) in zip(panels, before.items(), strict=True):
        ends, rows = list(after[kind].values()), range(len(starts))
        axes.hlines(rows, list(starts.values()), ends, color=BLUE)
        axes.plot(list(starts.values()), rows, "|", color=ORANGE, markersize=7)
        axes.plot(ends, rows, "o", color=BLUE)
        axes.set_yticks(rows, list(starts))
        axes.set_ylim(len(starts) - 0.5, -0.5)
        axes.set_xlabel(f"{kind} (bar: start)")
    return figure


def true_colour(images: Float[np.ndarray, "n h w 4"]) -> Float[np.ndarray, "n h w 3"]:
    """Red, green and blue, brightened as for the eye.

    Args:
        images: Reflectances of blue, green, red and near infrared.

    Returns:
        Intensities from 0 to 1.
    """
    return np.clip(1.8 * images[..., 2::-1], 0, 1) ** 0.7
