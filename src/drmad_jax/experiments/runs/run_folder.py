"""The files of a run: its configuration, lines of metrics, a summary."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.files import append_line, locked, write_atomically, write_text

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
JUDGE = "judge.jsonl"
SUMMARY = "summary.json"
HPARAMS = "hparams.npz"
FIGURES = "figures"
# What makes a folder that of a comparison.
COMPARISON = "compare.json"


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes a folder this process's own for as long as it writes into it.

    Args:
        folder: A run folder or that of a comparison. It is made where it is not there, and gone
            again afterwards where nothing was put into it.

    Yields:
        Nothing, once no other process writes into the folder.

    Raises:
        RunFolderError: If another process does, and does not end soon, or it is no folder.
    """
    _refuse_file(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            yield
    finally:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


def check(folder: Path, config: Config, *, resume: bool) -> None:
    """Makes sure that the folder is that of this run, or of none; changes nothing.

    Args:
        folder: The run folder, which need not exist.
        config: The configuration about to be run.
        resume: Whether to go on with what is there. Resuming a run that never began begins it.

    Raises:
        RunFolderError: If there are files and `resume` is false, or they belong to no run, or to
            one with another configuration.
    """
    _refuse_file(folder)
    # Hidden files may be left by a run killed while it wrote its first file.
    found = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if not found:
        return
    if not resume:
        raise RunFolderError(
            f"{folder} is not empty; pass --resume to go on with the run in it, "
            "or choose another run folder with --out"
        )
    if (folder / COMPARISON).exists():
        raise RunFolderError(
            f"{folder} is the folder of a comparison; choose another run folder with --out"
        )
    changed = configs.differences(read_config(folder), config)
    if changed:
        lines = "".join(f"\n    {line}" for line in changed)
        raise RunFolderError(
            f"{folder} was begun with another configuration:{lines}\nresume with the configuration "
            "it was begun with, or choose another run folder with --out"
        )


def begin(folder: Path, config: Config) -> None:
    """Writes the resolved configuration; the run has no summary until its end.

    Args:
        folder: The run folder.
        config: The configuration.
    """
    write_text(folder / CONFIG, configs.to_toml(config))
    (folder / SUMMARY).unlink(missing_ok=True)


def read_config(folder: Path) -> Config:
    """The configuration of a run.

    Args:
        folder: The run folder.

    Returns:
        The configuration.

    Raises:
        RunFolderError: If the folder is not a run folder.
    """
    if not (folder / CONFIG).is_file():
        raise RunFolderError(f"{folder} is not a run folder: it has no {CONFIG}")
    return configs.load(folder / CONFIG)


def append(folder: Path, file: str, line: Mapping[str, Any]) -> None:
    """Adds a line to `METRICS` or `JUDGE`, complete on disk before the next step begins.

    Args:
        folder: The run folder.
        file: Name of the file.
        line: Names and values; numbers that are not finite become null, as JSON has none.
    """
    append_line(folder / file, json.dumps(_plain(line), allow_nan=False))


def keep(folder: Path, file: str, count: int) -> None:
    """Drops the lines past a number of steps or seeds, and a last one that was cut short.

    Args:
        folder: The run folder.
        file: Name of the file.
        count: How many lines are kept at most, as they are.
    """
    if (folder / file).exists():
        write_text(folder / file, "".join(_whole_lines(folder / file)[:count]))


def read(folder: Path, file: str) -> list[dict[str, Any]]:
    """The lines of a file: one for each outer step and one for the end, or one for each seed.

    Args:
        folder: The run folder.
        file: Name of the file.

    Returns:
        Names and values, in order; a last line cut short is left out.
    """
    return [json.loads(line) for line in _whole_lines(folder / file)]


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a run.

    Args:
        folder: The run folder.

    Returns:
        Nested plain values; `None` if the run has not ended.

    Raises:
        RunFolderError: If the file is damaged.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"cannot read {path}: {error}; remove it and resume") from error


def write_hparams(folder: Path, hparams: PyTree) -> None:
    """Writes the learned hyperparameters for other programs, named by their place in the tree.

    Args:
        folder: The run folder.
        hparams: The hyperparameters.
    """
    leaves = jax.tree_util.tree_leaves_with_path(hparams)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator=".") or "hparams": np.asarray(leaf)
        for path, leaf in leaves
    }
    write_atomically(folder / HPARAMS, lambda file: np.savez(file, **arrays))  # pyright: ignore


def _refuse_file(folder: Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another run folder with --out")


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
