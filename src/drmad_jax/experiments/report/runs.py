"""Run folders as a report sees them: read once, found in folders of folders, put in order."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.variants import BASE
from drmad_jax.experiments.errors import ExperimentError, RunFolderError
from drmad_jax.experiments.metrics import headline
from drmad_jax.experiments.runs import run_folder
from drmad_jax.experiments.runs.ended import read_metrics
from drmad_jax.experiments.runs.summary import COMPLETE


class Run(NamedTuple):
    """One run folder.

    Attributes:
        folder: The folder.
        config: Its resolved configuration.
        metrics: The lines of `metrics.jsonl`.
        summary: The contents of `summary.json`, empty as long as the run has not ended.
        label: Its name among the runs of the same experiment.
    """

    folder: Path
    config: Config
    metrics: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    label: str

    @property
    def is_complete(self) -> bool:
        """Whether the run came to its end."""
        return self.summary.get("status") == COMPLETE

    @property
    def reason(self) -> str | None:
        """Why the run could not go on; `None` for one that is complete or has not ended."""
        status = self.summary.get("status", COMPLETE)
        return None if status == COMPLETE else status.partition("; nothing was updated")[0]

    @property
    def status(self) -> str:
        """The state of the run in a few words."""
        if self.is_complete:
            return COMPLETE
        if self.reason is None:
            return f"unfinished, {self.num_steps_done} of {self.config.outer.num_steps}"
        return f"stopped at step {self.metrics[-1]['step']}" if self.metrics else "stopped"

    @property
    def method(self) -> str:
        """The method as it would be written in Python."""
        if self.config.outer.num_steps > 0:
            return str(self.config.method)
        return "within training" if self.config.task.kind == "online" else "no tuning"

    @property
    def num_steps_done(self) -> int:
        """Outer steps that updated the hyperparameters."""
        of_tuning = (line for line in self.metrics if "hypergradient_norm" in line)
        # Runs of before steps could be refused stopped where one was not finite.
        return sum(line.get("taken", line["finite"]) for line in of_tuning)

    @property
    def judged(self) -> Mapping[str, Any]:
        """Metrics on fresh seeds; empty where there are none."""
        return self.summary.get("judge", {}).get("metrics", {})

    @property
    def figures(self) -> list[Path]:
        """The PNG files in the folder of figures."""
        return sorted((self.folder / run_folder.FIGURES).glob("*.png"))


def find(folders: Iterable[Path]) -> dict[str, list[Run]]:
    """Reads all runs in some folders.

    Args:
        folders: Run folders, or folders that contain run folders at any depth.

    Returns:
        The runs of each experiment, by its name; a file's own settings first, then its variants
        in the order in which they ended.

    Raises:
        RunFolderError: If there is no run in one of the folders, or one that cannot be read.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        found_here = [path.parent for path in sorted(folder.rglob(run_folder.CONFIG))]
        runs = [path for path in found_here if not (path / run_folder.COMPARISON).exists()]
        if not runs:
            raise RunFolderError(f"{folder} holds no run folder (one has a {run_folder.CONFIG})")
        found |= {path.resolve(): _read(path) for path in runs}
    experiments: dict[str, list[Run]] = {}
    for run in found.values():
        experiments.setdefault(run.config.name, []).append(run)
    return {name: _in_order(runs) for name, runs in experiments.items()}


def headlines(runs: Iterable[Run]) -> list[str]:
    """The metrics that tables and figures show first.

    Args:
        runs: The runs of one experiment.

    Returns:
        The outer loss, and the headlines of the runs' tasks.
    """
    found = (headline(r.config.task.headline, r.metrics[0] if r.metrics else ()) for r in runs)
    return list(dict.fromkeys(["outer_loss", *found]))


def _read(folder: Path) -> Run:
    try:
        config = run_folder.read_config(folder)
        summary = run_folder.read_summary(folder) or {}
        metrics = read_metrics(folder, summary)
    except (ExperimentError, ValueError) as error:
        raise RunFolderError(f"{folder} cannot be read: {error}") from error
    return Run(folder, config, metrics, summary, config.folder)


def _in_order(runs: Iterable[Run]) -> list[Run]:
    """The base first, what has not ended last; labels that are not unique get their folder."""
    key = lambda run: (run.label != BASE, not run.summary, run.summary.get("date", ""))
    ordered = sorted(runs, key=key)
    count = collections.Counter(run.label for run in ordered)
    long = lambda run: f"{run.label} ({Path(*run.folder.parts[-2:])})"
    return [r if count[r.label] == 1 else r._replace(label=long(r)) for r in ordered]
