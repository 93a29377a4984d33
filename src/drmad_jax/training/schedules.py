"""Schedules whose values are hyperparameters."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from drmad_jax._checks.arguments import check_count


def per_block(
    values: Float[Array, "n ..."], num_steps: int, *, edges: Sequence[int] | None = None
) -> Callable[[Int[Array, ""] | int], Float[Array, "..."]]:
    """A piecewise constant schedule: n hyperparameters, each shared by a block of steps.

    Step t of T takes values[⌊n t / T⌋]. Sharing keeps forward mode cheap, and averages the noise
    of single steps away (Micaelli and Storkey 2021). With `edges` at the inner knots of `drmad`,
    each segment of the path has its own value, as in the completions of DrMAD ("Experiments With
    Scalable Gradient-based Hyperparameter Optimization for Deep Neural Networks").

    Args:
        values: One value for each block, n of them along the leading axis.
        num_steps: Number of inner steps T, at least n.
        edges: First steps of all blocks but the first, n − 1 of them, increasing between 0 and T,
            both excluded; `None` for blocks of equal length.

    Returns:
        An optax schedule, `step -> value`; past the end it stays at the last value.

    Raises:
        ValueError, TypeError: If `values` has no leading axis or more entries than there are
            steps, `num_steps` is no positive Python int, or `edges` do not increase between 0 and
            T or do not leave a block for each value.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> schedule = dj.per_block(jnp.array([0.5, 0.25]), num_steps=5)
        >>> [float(schedule(t)) for t in range(5)]
        [0.5, 0.5, 0.5, 0.25, 0.25]
        >>> schedule = dj.per_block(jnp.array([0.5, 0.25]), num_steps=5, edges=(1,))
        >>> [float(schedule(t)) for t in range(5)]
        [0.5, 0.25, 0.25, 0.25, 0.25]
        >>> loss, knots = lambda w, h, x: jnp.sum((w - x) ** 2), (0, 400, 1900, 2000)
        >>> optimizer = lambda h: optax.sgd(dj.per_block(h["lr"], 2000, edges=knots[1:-1]))
        >>> problem, method = dj.Problem(loss, loss, optimizer), dj.drmad(knots=knots)
    """
    check_count("per_block", "num_steps", num_steps)
    shape = jnp.shape(values)
    if not shape or not 1 <= shape[0] <= num_steps:
        raise ValueError(
            f"per_block: `values` needs a leading axis of 1 to num_steps = {num_steps} blocks, "
            f"got shape {list(shape)}"
        )
    starts = _equal_blocks(shape[0], num_steps) if edges is None else _checked(edges, shape[0])
    if starts and starts[-1] >= num_steps:
        raise ValueError(
            f"per_block: `edges` must be below num_steps = {num_steps}, got {starts[-1]}"
        )
    first_steps = np.array(starts, np.int32)

    def schedule(step):
        block = jnp.searchsorted(first_steps, jnp.asarray(step, jnp.int32), side="right")
        return jnp.asarray(values)[block]

    return schedule


def _equal_blocks(count: int, num_steps: int) -> list[int]:
    # In Python's integers: count * num_steps may not fit into 32 bits.
    return [-(-num_steps * block // count) for block in range(1, count)]


def _checked(edges: Sequence[int], count: int) -> list[int]:
    for edge in edges:
        check_count("per_block", "edges", edge)
    if any(low >= high for low, high in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"per_block: `edges` must increase, got {list(edges)}")
    if len(edges) != count - 1:
        raise ValueError(
            f"per_block: `edges` must be one fewer than the {count} `values`, got {len(edges)}"
        )
    return list(edges)
