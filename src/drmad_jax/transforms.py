"""Transforms between unconstrained hyperparameters, which optimizers like, and constrained ones."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class Transform(NamedTuple):
    """A smooth bijection from the real line to a set of allowed values.

    Attributes:
        constrain: From any real number to an allowed value.
        unconstrain: Its inverse.
    """

    constrain: Callable[[Array], Array]
    unconstrain: Callable[[Array], Array]


def identity() -> Transform:
    """All real numbers.

    Example:
        >>> from drmad_jax import transforms
        >>> transforms.identity().constrain(2.0)
        2.0
    """
    return Transform(lambda x: x, lambda x: x)


def log() -> Transform:
    """Positive numbers by their natural logarithm: penalties, learning rates, scales.

    Example:
        >>> from drmad_jax import transforms
        >>> round(float(transforms.log().constrain(0.0)), 4)
        1.0
    """
    return Transform(jnp.exp, jnp.log)


def softplus() -> Transform:
    """Positive numbers, nearly linear where they are large.

    Example:
        >>> from drmad_jax import transforms
        >>> softplus = transforms.softplus()
        >>> round(float(softplus.constrain(softplus.unconstrain(3.0))), 4)
        3.0
    """
    # log(eˣ − 1) without overflow: x + log(1 − e⁻ˣ).
    return Transform(jax.nn.softplus, lambda y: y + jnp.log(-jnp.expm1(-y)))


def sigmoid(low: float = 0.0, high: float = 1.0) -> Transform:
    """Numbers between `low` and `high`: momenta, dropout rates, mixing weights.

    Args:
        low: Lower bound, not reached.
        high: Upper bound, not reached.

    Raises:
        ValueError: Unless `low < high`, both finite.

    Example:
        >>> from drmad_jax import transforms
        >>> round(float(transforms.sigmoid(0.0, 0.5).constrain(0.0)), 4)
        0.25
    """
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"sigmoid: `low` must be below `high`, both finite, got {low} and {high}")
    width = high - low

    def unconstrain(y):
        p = (y - low) / width
        return jnp.log(p) - jnp.log1p(-p)

    return Transform(lambda x: low + width * jax.nn.sigmoid(x), unconstrain)


def constrain(transforms: PyTree, hparams: PyTree) -> PyTree:
    """Applies a pytree of transforms; one transform may stand for a whole subtree.

    Args:
        transforms: A pytree prefix of `hparams` with `Transform` leaves.
        hparams: Unconstrained hyperparameters.

    Example:
        >>> from drmad_jax import transforms
        >>> rules = {"l2": transforms.log(), "momentum": transforms.sigmoid()}
        >>> values = transforms.constrain(rules, {"l2": 0.0, "momentum": 0.0})
        >>> float(values["l2"]), float(values["momentum"])
        (1.0, 0.5)
    """
    return _apply(lambda t: t.constrain, transforms, hparams)


def unconstrain(transforms: PyTree, hparams: PyTree) -> PyTree:
    """Undoes `constrain`.

    Args:
        transforms: A pytree prefix of `hparams` with `Transform` leaves.
        hparams: Constrained hyperparameters.

    Example:
        >>> from drmad_jax import transforms
        >>> float(transforms.unconstrain(transforms.log(), 1.0))
        0.0
    """
    return _apply(lambda t: t.unconstrain, transforms, hparams)


def _apply(direction: Callable, transforms: PyTree, hparams: PyTree) -> PyTree:
    is_transform = lambda x: isinstance(x, Transform)
    each = lambda t, subtree: jax.tree.map(direction(t), subtree)
    return jax.tree.map(each, transforms, hparams, is_leaf=is_transform)
