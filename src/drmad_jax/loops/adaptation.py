"""Positive values that follow their hypergradient in log space, one step at a time."""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_choice, check_number

Rule = Literal["sign", "raw", "cosine"]
Granularity = Literal["parameter", "tensor", "scalar"]
RULES = ("sign", "raw", "cosine")
GRANULARITIES = ("parameter", "tensor", "scalar")


class OnlineState(NamedTuple):
    """State of `online_learning_rates` and `online_penalties`.

    Attributes:
        log_values: Natural logs of the adapted values, in at least float32: like the parameters,
            one scalar for each tensor, or one scalar.
        response: ∂w_t/∂(log value) through the last step alone, entry by entry, like the
            parameters; zeros before the first step.
        inner: State of the wrapped optax transformation.
    """

    log_values: PyTree
    response: PyTree
    inner: PyTree

    @property
    def values(self) -> PyTree:
        """The adapted values themselves."""
        return jax.tree.map(jnp.exp, self.log_values)


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """How values move: log v ← clip(log v − log_step · rule(∂E/∂log v)); made by `adaptation`."""

    log_init: float
    log_step: float
    rule: Rule
    granularity: Granularity
    log_bounds: tuple[float, float]

    def init(self, params: PyTree, inner: PyTree) -> OnlineState:
        """The state before the first step, around the state of the wrapped transformation."""
        zeros = tree.zeros_like(params)
        full = lambda x: jnp.full_like(x, self.log_init)
        logs = jax.tree.map(full, self._grouped(tree.widen(zeros)))
        return OnlineState(logs, zeros, inner)

    def step(self, state: OnlineState, gradient: PyTree) -> PyTree:
        """The next logs, from the last step's response and the gradient where it led."""
        response = tree.widen(state.response)
        gradient = tree.cast_like(gradient, response)
        slopes = self._grouped(jax.tree.map(jnp.multiply, gradient, response))
        if self.rule == "sign":
            slopes = jax.tree.map(jnp.sign, slopes)
        if self.rule == "cosine":
            squares = lambda x: self._grouped(jax.tree.map(jnp.square, x))
            slopes = jax.tree.map(_cosine, slopes, squares(gradient), squares(response))
        move = lambda log, slope: jnp.clip(log - self.log_step * slope, *self.log_bounds)
        return jax.tree.map(move, state.log_values, slopes)

    def spread(self, log_values: PyTree, like: PyTree) -> PyTree:
        """The values for each leaf of `like`, in its dtype: of its shape, or a scalar."""
        if self.granularity == "scalar":
            log_values = jax.tree.map(lambda leaf: log_values, like)
        return tree.cast_like(jax.tree.map(jnp.exp, log_values), like)

    def _grouped(self, entries: PyTree) -> PyTree:
        """Sums over the entries that share a value."""
        if self.granularity == "parameter":
            return entries
        sums = jax.tree.map(jnp.sum, entries)
        if self.granularity == "tensor":
            return sums
        parts = jax.tree.leaves(sums)
        widest = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
        return jnp.sum(jnp.stack([part.astype(widest) for part in parts]))


def adaptation(
    where: str,
    init: float,
    log_step: float,
    rule: Rule,
    granularity: Granularity,
    *,
    bounds: tuple[float, float],
) -> Adaptation:
    """Checks the options that `online_learning_rates` and `online_penalties` share.

    Args:
        where: The function to name in errors.
        init: The first value.
        log_step: Step of the values' logs.
        rule: What is done with the hypergradient.
        granularity: How many entries share a value.
        bounds: Their `min_value` and `max_value`.

    Raises:
        TypeError: If a number is no Python number.
        ValueError: Unless 0 < `min_value` <= `init` <= `max_value` and `log_step` > 0, or on an
            unknown name.
    """
    check_choice(where, "rule", rule, RULES)
    check_choice(where, "granularity", granularity, GRANULARITIES)
    min_value, max_value = bounds
    numbers = {"init": init, "log_step": log_step, "min_value": min_value, "max_value": max_value}
    for name, value in numbers.items():
        check_number(where, name, value)
    if not 0 < min_value <= init <= max_value:
        raise ValueError(
            f"{where}: needs 0 < `min_value` <= `init` <= `max_value`, "
            f"got {min_value}, {init}, {max_value}"
        )
    if not log_step > 0:
        raise ValueError(f"{where}: `log_step` must be positive, got {log_step}")
    log_bounds = (math.log(min_value), math.log(max_value))
    return Adaptation(math.log(init), log_step, rule, granularity, log_bounds)


def _cosine(
    product: Float[Array, "..."], first: Float[Array, "..."], second: Float[Array, "..."]
) -> Float[Array, "..."]:
    norms = jnp.sqrt(first) * jnp.sqrt(second)
    return jnp.where(norms > 0, product / jnp.where(norms > 0, norms, 1), 0)
