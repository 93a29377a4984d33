"""Figures of images."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from drmad_jax.experiments.figures import style

_GAPS = 0.01, 0.02


def image(values: Float[np.ndarray, "h w"], *, label: str) -> Figure:
    """One value for each pixel of the input, with a colour bar.

    Args:
        values: The values.
        label: What they are, for the colour bar.

    Returns:
        A figure.
    """
    figure, axes = style.panel(2.7)
    shown = axes.imshow(values, cmap=style.COLOR_MAP, interpolation="nearest")
    style.bare(axes)
    figure.colorbar(shown, ax=axes, label=label)
    return figure


def images_by_class(images: Float[np.ndarray, "classes k h w"]) -> Figure:
    """Images in rows of classes, whose numbers stand below; values around zero, with a colour bar.

    Args:
        images: Some images of each class, the same number of each.

    Returns:
        A figure: five classes in a row where there is one image of each, else a column for each
        class.
    """
    num_classes, per_class = images.shape[:2]
    columns = min(num_classes, 5) if per_class == 1 else num_classes
    rows = -(-num_classes // columns) * per_class
    height = style.COLUMN_WIDTH * (rows / columns) + (0.2 * rows if per_class == 1 else 0.2) + 0.45
    figure = style.new_figure(height, gaps=_GAPS)
    panels = figure.subplots(rows, columns, squeeze=False)
    limit = max(float(np.abs(images).max()), 1e-6)
    colors = ScalarMappable(Normalize(-limit, limit), style.DIVERGING_MAP)
    for axes in panels.flat:
        axes.set_axis_off()
    for number, (label, k) in enumerate(np.ndindex(num_classes, per_class)):
        axes = panels[divmod(number, columns) if per_class == 1 else (k, label)]
        axes.imshow(images[label, k], norm=colors.norm, cmap=colors.cmap, interpolation="nearest")
        if k == per_class - 1:
            axes.text(0.5, -0.04, str(label), ha="center", va="top", transform=axes.transAxes)
    figure.colorbar(colors, ax=panels, label="pixel value", location="bottom", aspect=40)
    return figure


def image_rows(rows: Mapping[str, Float[np.ndarray, "n h w c"]]) -> Figure:
    """Rows of small images, one above the other for comparison.

    Args:
        rows: Intensities from 0 to 1 by the row's name, the same number of images in each, with one
            channel (drawn in grey) or three.

    Returns:
        A figure.
    """
    count = len(next(iter(rows.values())))
    figure = style.new_figure(len(rows) * (style.COLUMN_WIDTH / count + 0.18), gaps=_GAPS)
    panels = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        line[0].set_title(name, loc="left", fontsize=8, pad=2)
        for axes, shown in zip(line, images, strict=True):
            axes.imshow(
                shown.squeeze(-1) if shown.shape[-1] == 1 else shown, "gray", vmin=0, vmax=1
            )
            axes.set_axis_off()
    return figure
