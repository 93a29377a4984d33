"""Whether a run has ended, with all that it was to leave."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drmad_jax.experiments.config import Config
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.files import read_arrays, say
from drmad_jax.experiments.runs import checkpoints, judge, records, run_folder
from drmad_jax.experiments.runs.summary import COMPLETE, courses


def summary_of_ended(folder: Path, config: Config) -> dict[str, Any] | None:
    """The summary of a run that has ended, if nothing has been lost since.

    Args:
        folder: The run folder.
        config: Its configuration.

    Returns:
        The summary; `None` for a run that has not ended, and for one that has to be mended, which
        is told.
    """
    try:
        summary = run_folder.read_summary(folder)
        if summary is not None:
            _check(folder, config, summary)
        return summary
    except RunFolderError as error:
        say(f"{error}; mending it")
        return None


def _check(folder: Path, config: Config, summary: dict[str, Any]) -> None:
    try:
        records.check(records.WholeSummary, summary)
    except ValueError as error:
        raise RunFolderError(f"{folder / run_folder.SUMMARY} is not whole: {error}") from error
    metrics = read_metrics(folder, summary)
    if "judge" in summary:
        judged = run_folder.read(folder, run_folder.JUDGE)
        if len(judged) != summary["judge"]["num_seeds"]:
            raise RunFolderError(f"{folder / run_folder.JUDGE} has lost lines")
    try:
        read_arrays(folder / run_folder.HPARAMS)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {folder / run_folder.HPARAMS}: {error}") from error
    step = min(len(metrics) - 1, config.outer.num_steps)
    if step > 0:
        checkpoints.check(folder, step)


def read_metrics(folder: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads the metrics of a run; makes sure that all lines are there, and the summary is theirs.

    Args:
        folder: The run folder.
        summary: Its summary, empty for a run that has not ended.

    Returns:
        The lines of `metrics.jsonl`.

    Raises:
        RunFolderError: If lines are damaged or missing, or the summary tells something else.
    """
    metrics = run_folder.read(folder, run_folder.METRICS)
    num_steps = sum("hypergradient_norm" in line for line in metrics)
    # Behind the steps is the evaluation of where they led.
    is_short = summary.get("status") == COMPLETE and len(metrics) != num_steps + 1
    if is_short or num_steps != summary.get("num_outer_steps", num_steps):
        raise RunFolderError(f"{folder / run_folder.METRICS} has lost lines")
    told = courses(metrics) if summary and metrics else {}
    # What was judged is told by the summary alone where those lines are lost.
    judged, fault = run_folder.scan(folder, run_folder.JUDGE)
    if fault is None and judged and len(judged) == summary.get("judge", {}).get("num_seeds"):
        told["judge"] = judge.summarise([json.loads(line) for line in judged])
    if not all(_same(summary[name], told[name]) for name in told.keys() & summary.keys()):
        raise RunFolderError(f"{folder / run_folder.SUMMARY} is not that of the lines beside it")
    return metrics


def _same(found: Any, wanted: Any) -> bool:
    """Whether two nested plain values are equal, numbers up to rounding."""
    if isinstance(wanted, Mapping):
        same = isinstance(found, Mapping) and found.keys() == wanted.keys()
        return same and all(_same(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(map(_same, found, wanted))
    if isinstance(wanted, float):
        is_number = isinstance(found, int | float)
        return is_number and math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9)
    return found == wanted
