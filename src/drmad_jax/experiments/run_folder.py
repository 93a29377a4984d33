"""The files of a run: its configuration, a line of metrics for each outer step, a summary."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.files import write_atomically, write_text

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
HPARAMS = "hparams.npz"
FIGURES = "figures"


def check(folder: Path, config: Config, *, resume: bool) -> None:
    """Makes sure that a run may write into the folder; changes nothing.

    Args:
        folder: The run folder, which need not exist.
        config: The configuration about to be run.
        resume: Whether to go on with what is there. Resuming a run that never began begins it.

    Raises:
        RunFolderError: If there are files and `resume` is false, or they belong to no run, or to
            one with another configuration.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another run folder with --out")
    # Hidden files may be left by a run killed while it wrote its first file.
    found = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if not found:
        return
    if not resume:
        raise RunFolderError(
            f"{folder} is not empty; pass --resume to go on with the run in it, "
            "or choose another run folder with --out"
        )
    changed = configs.differences(read_config(folder), config)
    if changed:
        lines = "".join(f"\n    {line}" for line in changed)
        raise RunFolderError(
            f"{folder} was begun with another configuration:{lines}\n"
            "resume with the configuration it was begun with, or choose another run folder with "
            "--out"
        )


def begin(folder: Path, config: Config) -> None:
    """Makes the folder and writes the resolved configuration.

    Args:
        folder: The run folder.
        config: The configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, configs.to_toml(config))


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


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Writes one line of metrics, complete on disk before the next step begins.

    Args:
        folder: The run folder.
        line: Names and values; numbers that are not finite become null, as JSON has none.
    """
    text = json.dumps({name: _plain(value) for name, value in line.items()}, allow_nan=False)
    with open(folder / METRICS, "a", encoding="utf-8") as file:
        file.write(text + "\n")


def keep_metrics(folder: Path, num_steps: int) -> None:
    """Drops what lies past a checkpoint: later lines, and a last line that was cut short.

    Args:
        folder: The run folder.
        num_steps: Outer steps that the checkpoint has seen; their lines are kept as they are.
    """
    kept = [line for line in _whole_lines(folder) if json.loads(line)["step"] < num_steps]
    write_text(folder / METRICS, "".join(kept))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one dictionary for each outer step and one for the end.

    Args:
        folder: The run folder.

    Returns:
        The lines, in order of steps; a last line cut short is left out.
    """
    return [json.loads(line) for line in _whole_lines(folder)]


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes the summary.

    Args:
        folder: The run folder.
        summary: Nested plain values.
    """
    write_text(folder / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")


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


def _whole_lines(folder: Path) -> list[str]:
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _plain(value: Any) -> Any:
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
