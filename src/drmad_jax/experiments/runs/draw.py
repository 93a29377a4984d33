"""Figures of a run or a comparison, drawn from the files in its folder and from nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from drmad_jax.experiments import files
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.figures import comparison, values
from drmad_jax.experiments.figures.style import BLUE, ORANGE, STYLE, is_png, new_figure, png
from drmad_jax.experiments.files import locked, tidy, write_atomically, write_json
from drmad_jax.experiments.metrics import headline as headline_of
from drmad_jax.experiments.metrics import metric
from drmad_jax.experiments.runs import checkpoints, records, run_folder
from drmad_jax.experiments.runs.outer_step import init_carry
from drmad_jax.experiments.tasks import make_task

# The names of all figures, written when all of them were.
_DRAWN = ".drawn"


def draw(folder: Path) -> list[Path]:
    """Draws every figure of a comparison, or of a run, one still going on too, into its folder.

    Args:
        folder: Its folder.

    Returns:
        The PNG files written.

    Raises:
        RunFolderError: If the folder is neither, or has no finished outer step.
    """
    with matplotlib.rc_context(STYLE):
        is_comparison = (folder / run_folder.COMPARISON).is_file()
        figures = _of_comparison(folder) if is_comparison else _of_run(folder)
        pictures = {name: png(figure) for name, figure in figures.items()}
    place = folder / run_folder.FIGURES
    place.mkdir(exist_ok=True)
    names = [f"{name}.png" for name in pictures]
    # Of a run still going on, whose folder is its own.
    with locked(place):
        tidy(place)
        for name, picture in zip(names, pictures.values(), strict=True):
            write_atomically(place / name, lambda file, picture=picture: file.write(picture))
        write_json(place / _DRAWN, names)
    return [place / name for name in names]


def is_drawn(folder: Path) -> bool:
    """Whether every figure of a run or a comparison has been drawn, and is there.

    Args:
        folder: Its folder.

    Returns:
        False where a figure was lost, or is damaged.
    """
    place = folder / run_folder.FIGURES
    try:
        names = json.loads((place / _DRAWN).read_bytes())
        return all(is_png(place / name) for name in names)
    except (OSError, ValueError, TypeError):
        return False


def _of_run(folder: Path) -> dict[str, Figure]:
    config = run_folder.read_config(folder)
    metrics = run_folder.read(folder, run_folder.METRICS)
    if not metrics:
        raise RunFolderError(f"{folder} has no finished outer step to draw")
    headline = headline_of(config.task.headline, metrics[0])
    if headline not in metrics[0]:
        raise RunFolderError(f"{folder / run_folder.METRICS} has no {headline!r} to draw")
    figures = {"curves": curves(metrics, headline)} if config.outer.num_steps else {}
    # Where the folder came from nobody knows here: what it names as code is not run.
    if config.task.names_code:
        return figures | _of_hparams(folder)
    task = make_task(config)
    if steps := checkpoints.steps(folder):
        found = checkpoints.restore(folder, steps[0], like=init_carry(config, task))
        figures |= task.figures(jax.tree.map(np.asarray, found.carry.hparams), task.load_data())
    return figures


def _of_hparams(folder: Path) -> dict[str, Figure]:
    """What was learned, of which nothing is known but its name."""
    path = folder / run_folder.HPARAMS
    if not path.exists():
        return {}
    try:
        arrays = files.read_arrays(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}: {error}") from error
    return {"hyperparameters": values.distributions(arrays, label="value")}


def _of_comparison(folder: Path) -> dict[str, Figure]:
    path = folder / run_folder.COMPARISON
    record = run_folder.read_record(path, records.Comparison, mend="compare again")
    figures = {"cosines": comparison.cosines(record)}
    if any(report["cotangent_norms"] for report in record["reports"]):
        figures["cotangents"] = comparison.cotangents(record)
    return figures


def curves(metrics: Sequence[Mapping[str, Any]], headline: str) -> Figure:
    """Outer loss and the task's headline over outer steps.

    Args:
        metrics: The lines of `metrics.jsonl`.
        headline: Name of another metric, or the outer loss where there is none.

    Returns:
        A figure with one panel above the other.
    """
    shown = dict(zip(dict.fromkeys(("outer_loss", headline)), (BLUE, ORANGE), strict=False))
    figure = new_figure(1.6 * len(shown))
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    steps = [line["step"] for line in metrics]
    for axes, (name, color) in zip(panels, shown.items(), strict=True):
        label, factor, _ = metric(name)
        heights = [np.nan if line[name] is None else factor * line[name] for line in metrics]
        axes.plot(steps, heights, marker="o", color=color)
        axes.set_ylabel(label)
        axes.grid(axis="y", linewidth=0.3)
    panels[-1].set_xlabel("outer step")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure
