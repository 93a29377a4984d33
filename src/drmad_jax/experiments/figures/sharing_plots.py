"""Figures of alphabets and of what their networks share."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from drmad_jax.experiments.figures.plots import COLOR_MAP, COLUMN_WIDTH

_NUM_SHOWN = 12


def correlations(matrices: Mapping[str, Float[np.ndarray, "a a"]], names: Sequence[str]) -> Figure:
    """How alike the weights of each two networks are, before training on data, layer by layer.

    Args:
        matrices: By layer, the matrix S that mixes independent weights; shown are the correlations
            of S Sᵀ.
        names: The networks, in the order of rows and columns.

    Returns:
        A figure with a panel for each layer.
    """
    shown = {layer: _correlation(matrix) for layer, matrix in matrices.items()}
    figure = Figure(figsize=(COLUMN_WIDTH, 1.75), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    lowest = min(0.0, *(values.min() for values in shown.values()))
    for axes, (layer, values) in zip(panels, shown.items(), strict=True):
        axes.imshow(values, cmap=COLOR_MAP, vmin=lowest, vmax=1, interpolation="nearest")
        axes.set_title(layer, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    panels[0].set_yticks(range(len(names)), [_short(name) for name in names], fontsize=5)
    panels[0].tick_params(left=False, pad=1)
    figure.colorbar(
        panels[0].images[0],
        ax=panels,
        label="correlation",
        orientation="horizontal",
        aspect=30,
        pad=0.03,
    )
    return figure


def characters(
    images: Float[np.ndarray, "alphabets characters h w"], names: Sequence[str]
) -> Figure:
    """The first characters of each alphabet, one row each.

    Args:
        images: One drawing of each character.
        names: The alphabets.

    Returns:
        A figure.
    """
    rows = np.concatenate(list(images[:, :_NUM_SHOWN].transpose(0, 2, 1, 3)))
    size = images.shape[-1]
    picture = rows.reshape(len(rows), -1)
    figure = Figure(figsize=(COLUMN_WIDTH, 0.22 * len(names) + 0.1), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, cmap="Greys", interpolation="nearest", aspect="equal")
    axes.set_xticks([])
    centres = (np.arange(len(names)) + 0.5) * size - 0.5
    axes.set_yticks(centres, [_short(name) for name in names], fontsize=6)
    axes.tick_params(left=False, pad=1)
    axes.spines[:].set_visible(False)
    return figure


def _correlation(matrix: Float[np.ndarray, "a a"]) -> Float[np.ndarray, "a a"]:
    covariance = matrix @ matrix.T
    deviations = np.sqrt(np.diag(covariance))
    return covariance / np.outer(deviations, deviations)


def _short(name: str) -> str:
    """A name without what stands in parentheses, and with spaces."""
    return re.sub(r"_\(.*\)", "", name).replace("_", " ")
