"""One outer step as a pure function: draw, train, differentiate, judge, update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.metrics import of_model
from drmad_jax.experiments.tasks import Task

Metrics = dict[str, Array]
# Of a certificate.
NUM_DIRECTIONS = 8


class Carry(NamedTuple):
    """What passes from one outer step to the next, and all that a checkpoint holds.

    Attributes:
        hparams: The hyperparameters.
        outer_state: State of the outer optimizer.
    """

    hparams: PyTree
    outer_state: PyTree


def init_carry(config: Config, task: Task) -> Carry:
    """What tuning starts from.

    Args:
        config: The configuration.
        task: Its task.

    Returns:
        The first carry.
    """
    hparams = task.init_hparams()
    return Carry(hparams, _outer_optimizer(config, task).init(hparams))


def make_outer_step(
    config: Config, task: Task, *, certify: bool = False
) -> Callable[[Carry, Array, PyTree], tuple[Carry, Metrics]]:
    """Makes the function that the run loop compiles.

    Args:
        config: The configuration.
        task: Its task.
        certify: Whether the metrics say what the hypergradient is worth.

    Returns:
        A pure function `(carry, key, data) -> (carry, metrics)`; the metrics speak of the
        hyperparameters that came in.
    """
    num_steps, method = config.inner.num_steps, config.method.build()
    directions = NUM_DIRECTIONS if certify else None
    hypergradient = dj.hypergradient(
        task.problem, num_steps=num_steps, method=method, certify=directions
    )
    outer_optimizer = _outer_optimizer(config, task)

    def outer_step(carry: Carry, key: Array, data: PyTree) -> tuple[Carry, Metrics]:
        inputs = task.sample(key, data)
        out = hypergradient(carry.hparams, **inputs._asdict())
        metrics = {
            "outer_loss": out.value,
            **task.evaluate(out.state, carry.hparams, data),
            "hypergradient_norm": optax.tree.norm(out.grad),
            "finite": out.info.finite,
        }
        if out.info.cotangent_norm is not None:
            metrics["cotangent_norm"] = out.info.cotangent_norm
        if (worth := out.info.certificate) is not None:
            metrics["certified_ratio"], metrics["certified_cosine"] = worth.ratio, worth.cosine
        hparams, outer_state = outer_optimizer.update(out.grad, carry.outer_state, carry.hparams)
        return Carry(hparams, outer_state), metrics

    return outer_step


def outer_key(config: Config, step: int) -> Array:
    """The key of one outer step, whichever steps this process has run before it.

    Args:
        config: The configuration, for its seed.
        step: Number of the outer step.

    Returns:
        A key.
    """
    return jax.random.fold_in(jax.random.key(config.seed), step)


def to_host(metrics: Metrics) -> dict[str, Any]:
    """Metrics as Python's numbers, those of the trained model first.

    Args:
        metrics: What a compiled function returned, which sorts the keys of dictionaries.

    Returns:
        Numbers by name.
    """
    names = dict.fromkeys([*of_model(metrics), *metrics])
    return {name: metrics[name].item() for name in names}


def _outer_optimizer(config: Config, task: Task) -> dj.OuterOptimizer:
    return dj.outer_optimizer(config.outer.optimizer.build(), project=task.project)
