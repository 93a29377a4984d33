"""The HTML page of a report: what `page.html`, which escapes everything, is filled with."""

import base64
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.config.section import dump, flatten
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.figures.style import DPI, is_png, png
from drmad_jax.experiments.files import write_text
from drmad_jax.experiments.report import figures, judged_tables, run_tables
from drmad_jax.experiments.report.runs import Run, find

PAGE = "report.html"
_FACTS = (
    ("task.kind", "task {}"), ("task.module", "by {}"), ("data.dataset", "data {}"),
    ("data.file", "data {}"), ("data.folder", "data {}"), ("model.kind", "model {}"),
    ("inner.num_steps", "{} inner steps"), ("inner.batch_size", "batches of {}"),
    ("inner.optimizer.name", "inner optimizer {}"), ("outer.num_steps", "{} outer steps"),
    ("outer.optimizer.name", "outer optimizer {}"), ("seed", "seed {}"),
)  # fmt: skip


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Writes a page about all runs in some folders.

    Args:
        folders: Run folders, or folders that contain run folders at any depth.
        out: The file; `report.html` in the first of the folders if `None`.

    Returns:
        The file.

    Raises:
        RunFolderError: If there is no run in one of the folders, one cannot be read, or the file
            cannot be written.
    """
    experiments = find(folders)
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("drmad_jax.experiments.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    # HTML that needs no other file and no network.
    text = templates.get_template("page.html").render(
        experiments=[_experiment(name, runs) for name, runs in experiments.items()],
        environments=run_tables.environments(experiments),
    )
    path = folders[0] / PAGE if out is None else out
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error}; choose a file with --out") from error
    return path


class _Picture(NamedTuple):
    source: str
    width: int
    caption: str


def _experiment(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """The section of one experiment."""
    first, *others = runs
    values = flatten(dump(first.config))
    known = first.config.model_copy(update={"variant": ""})
    changes = lambda run: configs.differences(known, run.config.model_copy(update={"variant": ""}))
    tables = [
        judged_tables.results(runs),
        judged_tables.against_first(runs),
        judged_tables.other_metrics(runs),
        run_tables.courses(runs),
    ]
    together = {
        "The course of all variants.": figures.courses(runs),
        "Fresh seeds: before tuning (open) and after (filled), mean and 95% interval. A variant "
        "that stopped is shown where it stopped.": figures.judged(runs),
    }
    return {
        "name": name,
        "runs": runs,
        "facts": [text.format(values[key]) for key, text in _FACTS if key in values],
        "tables": [table for table in tables if table is not None],
        "together": [_picture(png(figure), text) for text, figure in together.items() if figure],
        "alone": [(run.label, list(_own_pictures(run))) for run in runs],
        "changes": [(run.label, changes(run)) for run in others],
        "config": configs.to_toml(first.config),
    }


def _own_pictures(run: Run) -> Iterable[_Picture]:
    for path in run.figures:
        if not is_png(path):
            raise RunFolderError(
                f"{path} is no whole picture; remove it, or draw it again:\n"
                f"    drmad-jax plot {run.folder}"
            )
        yield _picture(path.read_bytes(), path.stem.replace("_", " "))


def _picture(data: bytes, caption: str) -> _Picture:
    (pixels,) = struct.unpack(">I", data[16:20])
    encoded = base64.b64encode(data).decode()
    return _Picture(f"data:image/png;base64,{encoded}", round(96 * pixels / DPI), caption)
