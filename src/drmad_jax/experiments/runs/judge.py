"""What tuning was worth: where it started and where it ended, on seeds that it never saw."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree
from tqdm import tqdm

from drmad_jax.experiments.config import Config
from drmad_jax.experiments.runs import run_folder
from drmad_jax.experiments.runs.intervals import interval, paired
from drmad_jax.experiments.runs.outer_step import Metrics, to_host
from drmad_jax.experiments.runs.trial import fresh_key


def judge(
    config: Config,
    folder: Path,
    trial: Callable[[PyTree, Array], Metrics],
    *,
    first: PyTree,
    final: PyTree,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains with the first and with the final hyperparameters on each of the fresh seeds.

    The folder gets a line in `judge.jsonl` for each seed; those that are there are not trained
    again.

    Args:
        config: The configuration.
        folder: The run folder.
        trial: A compiled `(hparams, key) -> metrics` of one training run.
        first: The hyperparameters that tuning started from.
        final: Those that it ended with.
        progress: Show a progress bar on standard error.

    Returns:
        The section `judge` of `summary.json`.
    """
    count = config.judge.num_seeds
    run_folder.keep_judged(folder, count)
    done = len(run_folder.read_metrics(folder, file=run_folder.JUDGE))
    changed = not _equal(first, final)
    bar = tqdm(
        desc=f"{config.label} judge", initial=done, total=count, unit="seed", disable=not progress
    )
    with bar:
        for number in range(done, count):
            line = _judge_seed(config, number, trial, first, final if changed else None)
            run_folder.append_metrics(folder, line, file=run_folder.JUDGE)
            bar.update()
    return summarise(run_folder.read_metrics(folder, file=run_folder.JUDGE))


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means, intervals and paired differences of every metric.

    Args:
        lines: The lines of `judge.jsonl`.

    Returns:
        Nested plain values: for each metric `before`, `after` and `difference` (after - before,
        pair by pair), each with `values`, `mean`, `standard_error` and `interval`.
    """
    metrics = {}
    for name in lines[0]["before"]:
        before, after = ([line[when][name] for line in lines] for when in ("before", "after"))
        metrics[name] = {
            "before": interval(before),
            "after": interval(after),
            "difference": paired(before, after),
        }
    seconds = sum(line["seconds"] for line in lines)
    return {"num_seeds": len(lines), "seconds": seconds, "metrics": metrics}


def _judge_seed(
    config: Config,
    number: int,
    trial: Callable[[PyTree, Array], Metrics],
    first: PyTree,
    final: PyTree | None,
) -> dict[str, Any]:
    """One pair of trainings that differ in nothing but the hyperparameters."""
    start = time.perf_counter()
    key = fresh_key(config, number)
    before = to_host(trial(first, key))
    after = before if final is None else to_host(trial(final, key))
    seconds = round(time.perf_counter() - start, 4)
    return {"seed": number, "before": before, "after": after, "seconds": seconds}


def _equal(first: PyTree, final: PyTree) -> bool:
    """Where nothing was tuned there is one training to judge, not two."""
    return jax.tree.all(jax.tree.map(np.array_equal, first, final))
