"""SGD with momentum whose steps can be undone: the optimizer that `reversible` takes."""

import dataclasses
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, PyTree

from drmad_jax import tree
from drmad_jax.fixed_point.buffer import SMALLEST_RATIO, nearest_ratio

# A scalar, one entry a step, a schedule `step -> rate`, or a prefix of the weights' pytree of such.
Rate = Any


class ReversibleSGDState(NamedTuple):
    """State of `reversible_sgd`: the steps taken so far, and the velocity, like the weights."""

    step: Int32[Array, ""]
    velocity: PyTree


@dataclasses.dataclass(frozen=True)
class ReversibleSGD:
    """The rule behind `reversible_sgd`; its two methods are the transformation's functions."""

    learning_rate: Rate
    momentum: Rate

    def init(self, params: PyTree) -> ReversibleSGDState:
        """No step taken, no velocity."""
        return ReversibleSGDState(jnp.zeros((), jnp.int32), tree.zeros_like(params))

    def update(
        self, updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, ReversibleSGDState]:
        """One step in floating point, as any method but `reversible` takes it."""
        # Optax calls with whatever extra arguments other links of a chain ask for.
        del params, extra_args
        learning_rate, momentum = self.rates(state.step)

        def accelerate(grad, velocity, momentum):
            wide = tree.accumulation_dtype(velocity.dtype)
            kept = nearest_ratio(momentum).astype(wide) * velocity.astype(wide)
            return (kept + grad.astype(wide)).astype(velocity.dtype)

        def move(velocity, rate):
            wide = tree.accumulation_dtype(velocity.dtype)
            return (-rate.astype(wide) * velocity.astype(wide)).astype(velocity.dtype)

        momentum = spread("momentum", momentum, updates)
        velocity = jax.tree.map(accelerate, updates, state.velocity, momentum)
        learning_rate = spread("learning_rate", learning_rate, updates)
        moves = jax.tree.map(move, velocity, learning_rate)
        return moves, ReversibleSGDState(state.step + 1, velocity)

    def check_length(self, num_steps: int) -> None:
        """Raises a `ValueError` unless arrays of rates have an entry for each step."""
        for name in ("learning_rate", "momentum"):
            for leaf in jax.tree.leaves(getattr(self, name)):
                if not callable(leaf) and jnp.shape(leaf) not in ((), (num_steps,)):
                    raise ValueError(
                        f"reversible_sgd: an array in `{name}` needs one entry for each of the "
                        f"num_steps = {num_steps} steps, got shape {list(jnp.shape(leaf))}"
                    )

    def rates(self, step: Int32[Array, ""]) -> tuple[PyTree, PyTree]:
        """Learning rate and momentum of one step: scalars, or prefixes of the weights with them."""

        def at_step(name):
            rate = getattr(self, name)
            if callable(rate):
                return jax.tree.map(lambda leaf: _scalar(name, leaf), rate(step))
            return jax.tree.map(lambda leaf: _leaf_at(name, leaf, step), rate)

        return at_step("learning_rate"), at_step("momentum")


def reversible_sgd(learning_rate: Rate, momentum: Rate) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum that `reversible` can undo bit for bit.

    v ← γ v + g and w ← w − α v, as `optax.sgd(learning_rate, momentum)`, with γ rounded to a
    multiple of 2^−16 (.9 to .899994), since `reversible` multiplies by a ratio of integers.
    Derivatives with respect to γ ignore the rounding. Under any other method it is an ordinary
    optimizer and takes the same steps in floating point.

    Args:
        learning_rate: Step size α: a scalar, an array with one entry for each step, or a schedule
            `step -> scalar`; or a pytree of these that is a prefix of the weights', for rates per
            layer. Any of them may be a hyperparameter.
        momentum: γ, given like the learning rate, between 2^−8 and 1. Without momentum SGD
            forgets the weights that it leaves, and cannot be undone.

    Returns:
        An optax optimizer.

    Raises:
        ValueError: If a momentum given as a Python or NumPy number is out of range. One that is
            traced cannot be refused; `reversible` then returns NaN and `info.finite` is false.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> optimizer = dj.reversible_sgd(learning_rate=0.5, momentum=0.5)
        >>> state = optimizer.init(jnp.zeros(()))
        >>> _, state = optimizer.update(jnp.ones(()), state)
        >>> update, state = optimizer.update(jnp.ones(()), state)
        >>> float(update), float(state.velocity)
        (-0.75, 1.5)
    """
    for leaf in jax.tree.leaves(momentum):
        known = isinstance(leaf, numbers.Number | np.ndarray | np.generic)
        if known and not np.all((np.asarray(leaf) >= SMALLEST_RATIO) & (np.asarray(leaf) <= 1)):
            raise ValueError(
                f"reversible_sgd: `momentum` must be between 2^-8 and 1, got {leaf}: steps with "
                "less forget what they would be undone from. Use optax.sgd and "
                "drmad_jax.checkpointed()"
            )
    rule = ReversibleSGD(learning_rate, momentum)
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


def rule_of(optimizer: optax.GradientTransformation) -> ReversibleSGD | None:
    """The rule behind an optimizer made by `reversible_sgd`, or `None` for any other.

    Example:
        >>> import optax
        >>> from drmad_jax.fixed_point.sgd import reversible_sgd, rule_of
        >>> rule_of(reversible_sgd(0.1, 0.9))
        ReversibleSGD(learning_rate=0.1, momentum=0.9)
        >>> rule_of(optax.sgd(0.1, 0.9)) is None
        True
    """
    rule = getattr(optimizer.update, "__self__", None)
    return rule if isinstance(rule, ReversibleSGD) else None


def spread(name: str, prefix: PyTree, params: PyTree) -> PyTree:
    """A prefix of the weights' pytree, repeated for every leaf below it.

    Args:
        name: What it is called in errors.
        prefix: The prefix.
        params: The weights.

    Returns:
        A pytree like `params`.

    Raises:
        ValueError: If it is no prefix.

    Example:
        >>> from drmad_jax.fixed_point.sgd import spread
        >>> spread("momentum", {"a": 0.9, "b": 0.5}, {"a": [1, 2], "b": 3})
        {'a': [0.9, 0.9], 'b': 0.5}
    """
    try:
        return jax.tree.broadcast(prefix, params)
    except ValueError as error:
        raise ValueError(
            f"reversible_sgd: `{name}` must be one rate, or a pytree that is a prefix of the "
            f"weights': got {jax.tree.structure(prefix)} for {jax.tree.structure(params)}"
        ) from error


def _leaf_at(name: str, rate: Any, step: Array) -> Float[Array, ""]:
    if callable(rate):
        return _scalar(name, rate(step))
    rate = jnp.asarray(rate)
    if rate.ndim == 1:
        rate = jax.lax.dynamic_index_in_dim(rate, step, keepdims=False)
    return _scalar(name, rate)


def _scalar(name: str, rate: Any) -> Float[Array, ""]:
    if jnp.ndim(rate):
        raise ValueError(
            f"reversible_sgd: `{name}` must be scalar for each layer and step, "
            f"got shape {list(jnp.shape(rate))}"
        )
    rate = jnp.asarray(rate)
    if not tree.is_inexact(rate):
        rate = rate.astype(jnp.result_type(float))
    return rate.astype(tree.accumulation_dtype(rate.dtype))
