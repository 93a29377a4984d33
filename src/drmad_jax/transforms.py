"""Transforms between unconstrained hyperparameters, which optimizers like, and constrained ones.

`unconstrain` of values that are known (not traced) raises a `ValueError` outside their range.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
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


def frozen() -> Transform:
    """Values that stay as they are: their hypergradient is zero.

    Example:
        >>> import jax
        >>> from drmad_jax import transforms
        >>> float(jax.grad(transforms.frozen().constrain)(2.0))
        0.0
    """
    return Transform(jax.lax.stop_gradient, lambda x: x)


def log() -> Transform:
    """Positive numbers by their natural logarithm: penalties, learning rates, scales.

    Example:
        >>> from drmad_jax import transforms
        >>> round(float(transforms.log().constrain(0.0)), 4)
        1.0
    """
    return Transform(jnp.exp, lambda y: jnp.log(_inside("log", y, y > 0, "above zero")))


def softplus() -> Transform:
    """Positive numbers, nearly linear where they are large.

    Example:
        >>> from drmad_jax import transforms
        >>> softplus = transforms.softplus()
        >>> round(float(softplus.constrain(softplus.unconstrain(3.0))), 4)
        3.0
    """

    # log(eˣ − 1) without overflow: x + log(1 − e⁻ˣ).
    def unconstrain(y):
        y = _inside("softplus", y, y > 0, "above zero")
        return y + jnp.log(-jnp.expm1(-y))

    return Transform(jax.nn.softplus, unconstrain)


def sigmoid(low: float = 0.0, high: float = 1.0) -> Transform:
    """Numbers between `low` and `high`: momenta, mixing weights.

    Of a dropout rate a hypergradient sees the rescaling alone, not which units are dropped: use
    `drmad_jax.evolution_strategies`, or noise that scales with the rate.

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
        between = f"between {low} and {high}, neither reached"
        p = (_inside("sigmoid", y, (low < y) & (y < high), between) - low) / width
        return jnp.log(p) - jnp.log1p(-p)

    return Transform(lambda x: low + width * jax.nn.sigmoid(x), unconstrain)


def simplex() -> Transform:
    """Positive numbers that add up to one along the last axis: mixtures, shares of domains.

    A number added to all unconstrained ones changes nothing; `unconstrain` gives those of mean 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax import transforms
        >>> simplex = transforms.simplex()
        >>> simplex.constrain(jnp.zeros(4)).tolist()
        [0.25, 0.25, 0.25, 0.25]
        >>> free = simplex.unconstrain(jnp.array([0.5, 0.25, 0.25]))
        >>> [round(float(x), 3) for x in simplex.constrain(free)]
        [0.5, 0.25, 0.25]
    """

    def unconstrain(y):
        y = jnp.asarray(y)
        sums = jnp.abs(jnp.sum(y, -1, keepdims=True) - 1) < 1e-3
        logs = jnp.log(_inside("simplex", y, (y > 0) & sums, "above zero, with sum one"))
        return logs - jnp.mean(logs, -1, keepdims=True)

    return Transform(lambda x: jax.nn.softmax(x, axis=-1), unconstrain)


def constrain(transforms: PyTree, hparams: PyTree) -> PyTree:
    """Applies a pytree of transforms; one transform may stand for a whole subtree.

    Args:
        transforms: A pytree prefix of `hparams` with `Transform` leaves.
        hparams: Unconstrained hyperparameters.

    Raises:
        ValueError: If `transforms` is no such prefix.

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

    Raises:
        ValueError: If `transforms` is no such prefix, or a known value is out of range.

    Example:
        >>> from drmad_jax import transforms
        >>> float(transforms.unconstrain(transforms.log(), 1.0))
        0.0
    """
    return _apply(lambda t: t.unconstrain, transforms, hparams)


def _apply(direction: Callable, transforms: PyTree, hparams: PyTree) -> PyTree:
    is_transform = lambda x: isinstance(x, Transform)
    for path, leaf in jax.tree_util.tree_leaves_with_path(transforms, is_leaf=is_transform):
        if not is_transform(leaf):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"transforms{name} is no transform such as transforms.log(): {leaf!r}")
    structure = jax.tree.structure(transforms, is_leaf=is_transform)
    try:
        subtrees = structure.flatten_up_to(hparams)
    except ValueError as error:
        raise ValueError(
            "`transforms` must have the structure of `hparams`, or of its upper part: got "
            f"{jax.tree.map(lambda t: '*', transforms, is_leaf=is_transform)} for "
            f"{jax.tree.map(lambda x: '*', hparams)}"
        ) from error
    leaves = jax.tree.leaves(transforms, is_leaf=is_transform)
    each = lambda t, subtree: jax.tree.map(direction(t), subtree)
    return structure.unflatten(map(each, leaves, subtrees))


def _inside(name: str, y: Array, inside: Array, where: str) -> Array:
    """The values themselves; raises if any that is known is not where it should be."""
    if not isinstance(inside, Tracer) and not jnp.all(inside):
        raise ValueError(f"{name}: values must be {where}, got {y}")
    return y
