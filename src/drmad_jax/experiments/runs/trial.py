"""One training run with given hyperparameters, judged and not differentiated."""

from collections.abc import Callable

import jax
from jaxtyping import Array, PyTree

from drmad_jax.experiments.config import Config
from drmad_jax.experiments.runs.outer_step import Metrics
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
