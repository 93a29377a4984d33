"""The outer loop's update: pure init and update over any optax optimizer."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from jaxtyping import PyTree


class OuterOptimizer(NamedTuple):
    """A pair of pure functions; made by `outer_optimizer`.

    Attributes:
        init: `hparams -> state`.
        update: `(grad, state, hparams) -> (hparams, state)`.
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def outer_optimizer(
    optimizer: optax.GradientTransformation,
    *,
    project: Callable[[PyTree], PyTree] | None = None,
) -> OuterOptimizer:
    """Updates of the hyperparameters by any optax optimizer.

    Args:
        optimizer: Any optax optimizer; `optax.sign_sgd` for the sign updates of Fu et al. 2016.
        project: `hparams -> hparams`, applied after each update, for example one of optax's
            projections onto a simplex or a box.

    Returns:
        An `OuterOptimizer`.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> outer = dj.outer_optimizer(optax.sgd(0.5), project=lambda h: jnp.clip(h, 0, 1))
        >>> hparams = jnp.array([0.2, 0.8])
        >>> hparams, state = outer.update(jnp.array([1.0, -0.2]), outer.init(hparams), hparams)
        >>> [round(float(h), 2) for h in hparams]
        [0.0, 0.9]
    """

    def update(grad: PyTree, state: PyTree, hparams: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = optimizer.update(grad, state, hparams)
        hparams = optax.apply_updates(hparams, updates)
        return (hparams if project is None else project(hparams)), state

    return OuterOptimizer(optimizer.init, update)
