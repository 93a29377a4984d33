"""Figures of a run, drawn from the files in its folder and from nothing else.

Matplotlib's object-oriented interface throughout: no state is shared with whoever imports this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.metrics import metric
from drmad_jax.experiments.runs import run_folder
from drmad_jax.experiments.runs.checkpoints import FOLDER, Checkpoints
from drmad_jax.experiments.runs.outer_step import init_carry
from drmad_jax.experiments.tasks import make_task

# Okabe and Ito's palette, told apart by readers who do not see all colours.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
# Even steps of lightness, for the eye and for a grey printer alike.
COLOR_MAP = "cividis"
# For values of both signs: orange and purple, white in between.
DIVERGING_MAP = "PuOr"
COLUMN_WIDTH = 3.4  # inches, one column of a two-column page
_DPI = 200
# Of more arrays than that, histograms make a figure that fits no page.
_MOST_HISTOGRAMS = 12
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "figure.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
}


def draw(folder: Path) -> list[Path]:
    """Draws every figure of a run into its folder, of a run still going on too.

    Args:
        folder: The run folder.

    Returns:
        The PNG files written.

    Raises:
        RunFolderError: If the folder is no run folder, or has no finished outer step.
    """
    config = run_folder.read_config(folder)
    metrics = run_folder.read_metrics(folder)
    if not metrics or not (folder / FOLDER).is_dir():
        raise RunFolderError(f"{folder} has no finished outer step to draw")
    task = make_task(config)
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(init_carry(config, task))
    with matplotlib.rc_context(STYLE):
        headline = config.task.headline
        figures = {"curves": curves(metrics, headline)} if config.outer.num_steps else {}
        if restored is not None:
            figures |= task.figures(jax.tree.map(np.asarray, restored[1].hparams), task.load_data())
        return [save(figure, folder, name) for name, figure in figures.items()]


def curves(metrics: Sequence[Mapping[str, Any]], headline: str) -> Figure:
    """Outer loss and the task's headline over outer steps.

    Args:
        metrics: The lines of `metrics.jsonl`.
        headline: Name of another metric.

    Returns:
        A figure with one panel above the other.
    """
    figure = Figure(figsize=(COLUMN_WIDTH, 3.2), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    steps = [line["step"] for line in metrics]
    for axes, name, color in ((upper, "outer_loss", BLUE), (lower, headline, ORANGE)):
        label, factor, _ = metric(name)
        values = [np.nan if line[name] is None else factor * line[name] for line in metrics]
        axes.plot(steps, values, marker="o", color=color)
        axes.set_ylabel(label)
        axes.grid(axis="y", linewidth=0.3)
    lower.set_xlabel("outer step")
    lower.xaxis.get_major_locator().set_params(integer=True)
    return figure


def image(values: Float[np.ndarray, "h w"], *, label: str) -> Figure:
    """One value for each pixel of the input, with a colour bar.

    Args:
        values: The values.
        label: What they are, for the colour bar.

    Returns:
        A figure.
    """
    figure = Figure(figsize=(COLUMN_WIDTH, 2.7), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(values, cmap=COLOR_MAP, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
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
    height = COLUMN_WIDTH * (rows / columns) + (0.2 * rows if per_class == 1 else 0.2) + 0.45
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)  # pyright: ignore
    panels = figure.subplots(rows, columns, squeeze=False)
    limit = max(float(np.abs(images).max()), 1e-6)
    colors = ScalarMappable(Normalize(-limit, limit), DIVERGING_MAP)
    for axes in panels.flat:
        axes.set_axis_off()
    for number, (label, k) in enumerate(np.ndindex(num_classes, per_class)):
        axes = panels[divmod(number, columns) if per_class == 1 else (k, label)]
        axes.imshow(images[label, k], norm=colors.norm, cmap=colors.cmap, interpolation="nearest")
        if k == per_class - 1:
            axes.text(0.5, -0.04, str(label), ha="center", va="top", transform=axes.transAxes)
    figure.colorbar(colors, ax=panels, label="pixel value", location="bottom", aspect=40)
    return figure


def distributions(values: Mapping[str, np.ndarray], start: float, *, label: str) -> Figure:
    """How learned values lie around where they started, one histogram for each array.

    Where there are many arrays, a row for each takes their place: its median, the middle half and
    the middle nine tenths of it.

    Args:
        values: Arrays by name; single values are drawn as points, not as histograms.
        start: Where all of them started.
        label: What they are, for the axis.

    Returns:
        A figure whose arrays share their horizontal axis.
    """
    if len(values) > _MOST_HISTOGRAMS:
        return _ranges(values, start, label=label)
    height = 0.5 + 0.75 * len(values)
    figure = Figure(figsize=(COLUMN_WIDTH, max(height, 1.5)), layout="constrained")
    panels = figure.subplots(len(values), sharex=True, squeeze=False)[:, 0]
    flat = {name: np.ravel(array) for name, array in values.items()}
    everything = np.concatenate([*flat.values(), [start]])
    bins = np.linspace(everything.min() - 1e-3, everything.max() + 1e-3, 41)
    for axes, (name, array) in zip(panels, flat.items(), strict=True):
        if array.size == 1:
            axes.plot(array, [0.5], "o", color=BLUE)
            axes.set_yticks([])
        else:
            axes.hist(array, bins=bins, color=BLUE)
        axes.axvline(start, color=ORANGE, linestyle="--", linewidth=1)
        axes.set_title(f"{name} ({array.size})", loc="left", fontsize=8)
    panels[-1].set_xlabel(f"{label} (dashed: start)")
    figure.supylabel("count")
    return figure


def _ranges(values: Mapping[str, np.ndarray], start: float, *, label: str) -> Figure:
    figure = Figure(figsize=(COLUMN_WIDTH, 0.6 + 0.15 * len(values)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(values))
    quantiles = [np.quantile(array, [0.05, 0.25, 0.5, 0.75, 0.95]) for array in values.values()]
    least, low, middle, high, most = np.transpose(quantiles)
    axes.hlines(rows, least, most, color=BLUE, linewidth=0.8)
    axes.hlines(rows, low, high, color=BLUE, linewidth=3)
    axes.plot(middle, rows, "o", color="white", markeredgecolor=BLUE)
    axes.axvline(start, color=ORANGE, linestyle="--", linewidth=1)
    names = [f"{name} ({np.size(array)})" for name, array in values.items()]
    axes.set_yticks(rows, names, fontsize=6)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(f"{label} (dashed: start)\nmedian, middle half, middle nine tenths")
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
    height = max(0.6 + 0.22 * len(values), 1.2)
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    rows = range(len(values))
    axes.hlines(rows, start, list(values.values()), color=BLUE)
    axes.plot(list(values.values()), rows, "o", color=BLUE)
    axes.axvline(start, color=ORANGE, linestyle="--", linewidth=1)
    axes.set_yticks(rows, list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel(f"{label} (dashed: start)")
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
    size = COLUMN_WIDTH / count
    figure = Figure(figsize=(COLUMN_WIDTH, len(rows) * (size + 0.18)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)  # pyright: ignore
    panels = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        line[0].set_title(name, loc="left", fontsize=8, pad=2)
        for axes, shown in zip(line, images, strict=True):
            axes.imshow(
                shown.squeeze(-1) if shown.shape[-1] == 1 else shown, "gray", vmin=0, vmax=1
            )
            axes.set_axis_off()
    return figure


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Writes a figure as a PNG file.

    Args:
        figure: The figure.
        folder: The run folder, whose subfolder of figures is made if needed.
        name: The file's name without suffix.

    Returns:
        The file.
    """
    path = folder / run_folder.FIGURES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=_DPI)
    return path
