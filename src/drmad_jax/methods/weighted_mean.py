"""The mean of random directions, each times a slope: what every stochastic estimate ends with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree


def weighted_mean(
    draw: Callable[[PyTree], PyTree], entries: PyTree, slopes: Float[Array, " n"]
) -> tuple[PyTree, PyTree]:
    """The mean of slopeᵢ · draw(entryᵢ) over i, and its standard error.

    Args:
        draw: From one of `entries` to its direction; called again here, so that not all have to be
            remembered.
        entries: A pytree with leading axis n, such as keys or indices.
        slopes: What each direction is multiplied with.

    Returns:
        Two pytrees like a direction, in at least float32; the second infinite for n = 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.methods.weighted_mean import weighted_mean
        >>> mean, error = weighted_mean(lambda x: x, jnp.ones(4), jnp.array([1.0, 3.0, 1.0, 3.0]))
        >>> float(mean), round(float(error), 4)  # √(4/3) / √4
        (2.0, 0.5774)
    """
    count = slopes.shape[0]
    shapes = jax.eval_shape(draw, jax.tree.map(lambda x: x[0], entries))
    zeros = jax.tree.map(lambda e: jnp.zeros(e.shape, tree.accumulation_dtype(e.dtype)), shapes)

    def add(carry: tuple, x: tuple) -> tuple[tuple, None]:
        # Welford's running mean and sum of squared deviations: one direction at a time, and no
        # difference of large squares.
        mean, squares = carry
        entry, slope, number = x
        sample = jax.tree.map(
            lambda e, m: e.astype(m.dtype) * slope.astype(m.dtype), draw(entry), mean
        )
        before = jax.tree.map(jnp.subtract, sample, mean)
        mean = jax.tree.map(lambda m, d: m + d / number.astype(m.dtype), mean, before)
        after = jax.tree.map(jnp.subtract, sample, mean)
        return (mean, jax.tree.map(lambda s, b, a: s + b * a, squares, before, after)), None

    numbers = jnp.arange(1, count + 1, dtype=jnp.int32)
    (mean, squares), _ = jax.lax.scan(add, (zeros, zeros), (entries, slopes, numbers))
    if count == 1:
        return mean, jax.tree.map(lambda s: jnp.full_like(s, jnp.inf), squares)
    return mean, jax.tree.map(lambda s: jnp.sqrt(s / (count * (count - 1))), squares)
