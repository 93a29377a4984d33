"""The files of a run: its configuration, lines of metrics, a summary."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.files import append_line, locked, remove, say, write_arrays, write_text
from drmad_jax.experiments.runs import records

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
JUDGE = "judge.jsonl"
SUMMARY = "summary.json"
HPARAMS = "hparams.npz"
FIGURES = "figures"
# What makes a folder that of a comparison.
COMPARISON = "compare.json"

_LINES = {METRICS: records.Step, JUDGE: records.Seed}
_MEND = "--resume makes it again"


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
        told = {
            key: f"the code of task.module has changed ({line})"
            for line in changed
            if (key := line.partition(":")[0]) == "task.sha256"
        }
        lines = "".join(f"\n    {told.get(line.partition(':')[0], line)}" for line in changed)
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
    remove(folder / SUMMARY)


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


def append(folder: Path, file: str, line: Mapping[str, Any]) -> str:
    """Adds a line to `METRICS` or `JUDGE`, complete on disk before the next step begins.

    Args:
        folder: The run folder.
        file: Name of the file.
        line: Names and values; numbers that are not finite become null, as JSON has none.

    Returns:
        The line as it was written.
    """
    text = json.dumps(_plain(line), allow_nan=False)
    append_line(folder / file, text)
    return text + "\n"


def restore_lines(folder: Path, lines: Sequence[str]) -> None:
    """Makes `METRICS` what it was when a checkpoint was written; tells if any of it was lost.

    Args:
        folder: The run folder.
        lines: The lines of the checkpoint.
    """
    found, fault = scan(folder, METRICS)
    if found[: len(lines)] != list(lines):
        fault = fault or f"{folder / METRICS} is not as it was written"
        say(f"{fault}; its lines are those of the checkpoint")
    write_text(folder / METRICS, "".join(lines))


def keep(folder: Path, file: str, count: int) -> None:
    """Drops the lines past a number of steps or seeds, and those from the first damaged one on.

    Args:
        folder: The run folder.
        file: Name of the file.
        count: How many lines are kept at most, as they are.
    """
    lines, fault = scan(folder, file)
    if fault is not None and len(lines) < count:
        say(f"{fault}; going on from there")
    write_text(folder / file, "".join(lines[:count]))


def read(folder: Path, file: str) -> list[dict[str, Any]]:
    """The lines of a file: one for each outer step and one for the end, or one for each seed.

    Args:
        folder: The run folder.
        file: Name of the file.

    Returns:
        Names and values, in order; a last line cut short, as a killed run leaves it, is left out.

    Raises:
        RunFolderError: If a line is damaged or missing.
    """
    lines, fault = scan(folder, file)
    if fault is not None:
        raise RunFolderError(f"{fault}; {_MEND}")
    return [json.loads(line) for line in lines]


def scan(folder: Path, file: str) -> tuple[list[str], str | None]:
    """The lines of a file up to the first that is not what it should be.

    Args:
        folder: The run folder.
        file: Name of the file.

    Returns:
        The lines as they are, and what is wrong with the next one; `None` if nothing is.
    """
    path, good, names = folder / file, [], None
    # Behind the last end of a line there is nothing, or a line that was cut short.
    *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines):
        try:
            found, has = records.check(_LINES[file], json.loads(line)).place
            if (found, has) != (number, names or has):
                raise ValueError(f"it is line {found + 1}, or has other metrics than the first one")
        except (ValueError, RecursionError) as error:
            return good, f"{path}, line {number + 1}, is damaged: {error}"
        good.append(line.decode() + "\n")
        names = has
    return good, None


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
    return read_record(path, records.Summary, mend=_MEND) if os.path.lexists(path) else None


def read_record(path: Path, kind: type[records.Record], *, mend: str) -> dict[str, Any]:
    """Reads a JSON file that holds one record.

    Args:
        path: The file.
        kind: What it must be.
        mend: What there is to do where it is not.

    Returns:
        Nested plain values.

    Raises:
        RunFolderError: If it cannot be read, or is something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        records.check(kind, value)
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"cannot read {path}: {error}; {mend}") from error
    return value


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
    write_arrays(folder / HPARAMS, arrays)


def _refuse_file(folder: Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another run folder with --out")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
