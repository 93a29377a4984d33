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
from drmad_jax.experiments.processes import from_leader, leads
from drmad_jax.experiments.runs import run_folder
from drmad_jax.experiments.runs.intervals import interval, paired
from drmad_jax.experiments.runs.outer_step import Metrics, to_host
from drmad_jax.experiments.tasks import Task
from drmad_jax.experiments.tasks.base import train_once

# No outer step comes so far.
_FRESH = 2**32 - 1


def make_trial(config: Config, task: Task) -> Callable[[PyTree, Array, PyTree], Metrics]:
    """Makes the function that trains once and judges, at the memory of one training state.

    Args:
        config: The configuration.
        task: Its task.

    Returns:
        A pure function `(hparams, key, data) -> metrics`: the outer loss, and what the task's
        `evaluate` and `evaluate_fresh` tell.
    """
    problem = task.problem

    def trial(hparams: PyTree, key: Array, data: PyTree) -> Metrics:
        inputs = task.sample(key, data)
        state = train_once(problem, hparams, inputs, config.inner.num_steps)
        loss = problem.outer(state.params, hparams, inputs.outer_batch, state.model_state)
        return {
            "outer_loss": loss,
            **task.evaluate(state, hparams, data),
            **task.evaluate_fresh(inputs, state, hparams, data),
        }

    return trial


def fresh_key(config: Config, number: int) -> Array:
    """The key of one training run for judging, which no outer step has drawn from.

    All variants of an experiment with the same `seed` get the same keys: the same splits, initial
    weights and minibatches.

    Args:
        config: The configuration, for its seed.
        number: Number of the training run, from 0.

    Returns:
        A key.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), _FRESH), number)


def judge(
    config: Config,
    folder: Path,
    trials: Callable[[PyTree, Sequence[Array]], Sequence[Metrics]],
    *,
    first: PyTree,
    final: PyTree,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains with the first and with the final hyperparameters on each of the fresh seeds.

    As many seeds at a time as there are devices, those of all processes. The folder gets a line in
    `judge.jsonl` for each seed; those that are there are not trained again.

    Args:
        config: The configuration.
        folder: The run folder.
        trials: A compiled `(hparams, keys) -> metrics` of a training run on each of some devices.
        first: The hyperparameters that tuning started from.
        final: Those that it ended with.
        progress: Show a progress bar on standard error.

    Returns:
        The section `judge` of `summary.json`; nothing but in the process that writes.
    """
    file, count, done = run_folder.JUDGE, config.judge.num_seeds, 0
    if leads():
        run_folder.keep(folder, file, count)
        done = len(run_folder.read(folder, file))
    done, width = int(from_leader(done)), jax.device_count()
    # Where nothing was tuned there is one training to judge, not two.
    changed = not jax.tree.all(jax.tree.map(np.array_equal, first, final))
    name = f"{config.label} judge"
    with tqdm(desc=name, initial=done, total=count, unit="seed", disable=not progress) as bar:
        for begin in range(done, count, width):
            numbers = range(begin, min(begin + width, count))
            start, keys = time.perf_counter(), [fresh_key(config, number) for number in numbers]
            before = trials(first, keys)
            after = trials(final, keys) if changed else before
            # Shares of the time that all of them took together.
            seconds = round((time.perf_counter() - start) / len(numbers), 4)
            for number, *metrics in zip(numbers, before, after, strict=True):
                pair = dict(zip(("before", "after"), map(to_host, metrics), strict=True))
                if leads():
                    line = {"seed": number, **pair, "seconds": seconds}
                    run_folder.append(folder, file, line)
                bar.update()
    return summarise(run_folder.read(folder, file)) if leads() else {}


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
