"""Projections that optax does not have."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def capped_simplex(values: Float[Array, " n"], total: float) -> Float[Array, " n"]:
    """The nearest point whose entries lie in [0, 1] and sum to `total` at most.

    P(x) = clip(x - τ, 0, 1), with τ = 0 if these already sum to less, and else the τ > 0 at which
    they sum to R = `total`. In between two neighbours among the 2n kinks x_i and x_i - 1 the sum is
    linear in τ: sorting finds the two, and solving there is exact. optax's box after its l1 ball
    lands in the same set, but not at its nearest point.

    Args:
        values: Any numbers.
        total: Upper limit R of the sum, positive.

    Returns:
        The projection.

    Example:
        >>> nearest = capped_simplex(jnp.array([3.0, 0.5, 0.3]), 1.4)
        >>> [round(float(x), 3) for x in nearest]
        [1.0, 0.3, 0.1]
    """
    kinks = jnp.concatenate([values - 1, values])
    # Passing x_i - 1 lets entry i fall below 1, passing x_i stops it at 0.
    change = jnp.concatenate([jnp.ones_like(values), -jnp.ones_like(values)])
    order = jnp.argsort(kinks)
    kinks, falling = kinks[order], jnp.cumsum(change[order])
    sums = values.size - jnp.cumsum(falling[:-1] * jnp.diff(kinks))
    last = jnp.sum(sums > total)
    middle = (kinks[last] + kinks[last + 1]) / 2
    is_one, is_zero = values - middle >= 1, values <= middle
    between = ~(is_one | is_zero)
    excess = jnp.sum(jnp.where(between, values, 0)) + jnp.sum(is_one) - total
    shift = excess / jnp.maximum(jnp.sum(between), 1)
    shift = jnp.where(jnp.sum(jnp.clip(values, 0, 1)) > total, shift, 0)
    return jnp.clip(values - shift, 0, 1)
