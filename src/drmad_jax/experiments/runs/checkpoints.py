"""Checkpoints of the outer loop: what makes a killed run go on as if nothing had happened.

A checkpoint is a folder `checkpoints/<outer steps done>` with one archive, whose parts have check
sums: what passes to the next step, and the lines of metrics so far.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drmad_jax import tree
from drmad_jax.experiments import files
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.loops.tuning import OuterState

FOLDER = "checkpoints"
_ARCHIVE = "state.npz"
_STEP, _METRICS = "step", "metrics"
_NUM_KEPT = 2


class Checkpoint(NamedTuple):
    """Where a run stood.

    Attributes:
        step: Outer steps done.
        carry: What the next one starts from.
        lines: The lines of `metrics.jsonl` until then, as they were written.
    """

    step: int
    carry: OuterState
    lines: list[str]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, and removes all others but the one before.

    Args:
        folder: The run folder.
        checkpoint: What to keep.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    arrays = {
        _STEP: np.asarray(checkpoint.step),
        _METRICS: np.frombuffer("".join(checkpoint.lines).encode(), np.uint8),
        **_numbered(jax.tree.map(np.asarray, tree.with_key_data(checkpoint.carry))),
    }
    write = lambda path: files.write_arrays(path / _ARCHIVE, arrays)
    files.write_folder(place / str(checkpoint.step), write)
    for path in place.iterdir():
        if path.name not in map(str, range(checkpoint.step, checkpoint.step - _NUM_KEPT, -1)):
            files.remove(path)


def steps(folder: Path) -> list[int]:
    """The numbers of the checkpoints that are there, whether or not they can be read.

    Args:
        folder: The run folder.

    Returns:
        Outer steps done, the most first.
    """
    place = folder / FOLDER
    found = [path.name for path in place.iterdir()] if place.is_dir() else []
    return sorted((int(name) for name in found if name.isdecimal()), reverse=True)


def restore(folder: Path, step: int, *, like: OuterState) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        folder: The run folder.
        step: Its number.
        like: A carry of the same structure, shapes and dtypes.

    Returns:
        What was saved.

    Raises:
        RunFolderError: If it is damaged, or that of another step or run.
    """
    arrays = check(folder, step)
    lines = arrays[_METRICS].tobytes().decode().splitlines(keepends=True)
    try:
        return Checkpoint(step, _fill(like, arrays), lines)
    except (KeyError, ValueError) as error:
        raise RunFolderError(f"{_name(folder, step)} is that of another run: {error}") from error


def check(folder: Path, step: int) -> dict[str, np.ndarray]:
    """Makes sure that a checkpoint is whole.

    Args:
        folder: The run folder.
        step: Its number.

    Returns:
        What is in it, by name.

    Raises:
        RunFolderError: If it is damaged, or that of another step.
    """
    try:
        arrays = files.read_arrays(folder / FOLDER / str(step) / _ARCHIVE)
        found = int(arrays[_STEP])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{_name(folder, step)} cannot be read: {error}") from error
    if found != step:
        raise RunFolderError(f"{_name(folder, step)} is that of step {found}")
    return arrays


def restore_latest(folder: Path, *, like: OuterState) -> Checkpoint | None:
    """Reads the newest checkpoint that can be read, and tells of those that cannot.

    Args:
        folder: The run folder.
        like: A carry of the same structure, shapes and dtypes.

    Returns:
        What was saved; `None` if there is none, or none that can be read.
    """
    damaged = []
    for step in steps(folder):
        try:
            found = restore(folder, step, like=like)
        except RunFolderError as error:
            damaged.append(f"{error}; ")
            continue
        if damaged:
            files.say(f"{''.join(damaged)}going on from the one of step {step}")
        return found
    if damaged:
        files.say(f"{''.join(damaged)}beginning again")
    return None


def _name(folder: Path, step: int) -> str:
    return f"the checkpoint {folder / FOLDER / str(step)}"


def _fill(like: OuterState, arrays: Mapping[str, np.ndarray]) -> OuterState:
    def read(plain, array):
        # NumPy writes what it does not know, such as bfloat16, without its name.
        array = array.view(plain.dtype) if array.dtype.kind == "V" else array
        if (array.shape, array.dtype) != (plain.shape, plain.dtype):
            raise ValueError(
                f"expected {plain.dtype}{list(plain.shape)}, got {array.dtype}{list(array.shape)}"
            )
        return jnp.asarray(array)

    plain = tree.with_key_data(like)
    leaves = [arrays[name] for name in _numbered(plain)]
    found = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return tree.with_keys(jax.tree.map(read, plain, found), like)


def _numbered(carry: OuterState) -> dict[str, Any]:
    return {f"carry_{number}": leaf for number, leaf in enumerate(jax.tree.leaves(carry))}
