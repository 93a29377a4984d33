"""One step of the outer loop as a pure function of the data, and the metrics that it leaves."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.metrics import of_model
from drmad_jax.experiments.tasks import Task

Metrics = dict[str, Array]
# Of a certificate.
NUM_DIRECTIONS = 8


def init_carry(config: Config, task: Task) -> dj.OuterState:
    """What tuning starts from.

    Args:
        config: The configuration.
        task: Its task.

    Returns:
        The first carry: what passes from one outer step to the next, and what a checkpoint holds.
    """
    return _outer_loop(config, task).init(task.init_hparams())


def make_outer_step(
    config: Config, task: Task, *, certify: bool = False
) -> Callable[[dj.OuterState, Array, PyTree], tuple[dj.OuterState, Metrics]]:
    """Makes the function that the run loop compiles.

    Args:
        config: The configuration.
        task: Its task.
        certify: Whether the metrics say what the hypergradient is worth, and a step that leads
            uphill is not taken.

    Returns:
        A pure function `(carry, key, data) -> (carry, metrics)`; the metrics speak of the
        hyperparameters that came in.
    """
    directions = NUM_DIRECTIONS if certify else None

    def outer_step(carry: dj.OuterState, key: Array, data: PyTree) -> tuple[dj.OuterState, Metrics]:
        carry, info = _outer_loop(config, task, data, certify=directions).step(carry, key)
        metrics = {
            "outer_loss": info.value,
            **info.measured,
            "hypergradient_norm": optax.tree.norm(info.grad),
            "finite": info.finite,
            "taken": info.trusted,
        }
        if info.infos.cotangent_norm is not None:
            metrics["cotangent_norm"] = jnp.max(info.infos.cotangent_norm)
        if (worth := info.infos.certificate) is not None:
            metrics["certified_ratio"] = jnp.mean(worth.ratio)
            metrics["certified_cosine"] = cast(Array, info.cosine)
        return carry, metrics

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


def _outer_loop(
    config: Config, task: Task, data: PyTree = None, *, certify: int | None = None
) -> dj.OuterLoop:
    """The library's, on data that are arguments of what is compiled."""
    return dj.outer_loop(
        task.problem,
        lambda key: task.sample(key, data)._asdict(),
        dj.outer_optimizer(config.outer.optimizer.build(), project=task.project),
        num_steps=config.inner.num_steps,
        method=config.method.build(),
        certify=certify,
        measure=lambda state, hparams: task.evaluate(state, hparams, data),
    )
