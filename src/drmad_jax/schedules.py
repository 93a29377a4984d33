"""Schedules whose values are hyperparameters."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from drmad_jax.check import check_count


def per_block(
    values: Float[Array, "n ..."], num_steps: int
) -> Callable[[Int[Array, ""] | int], Float[Array, "..."]]:
    """A piecewise constant schedule: n hyperparameters, each shared by a block of steps.

    Step t of T takes values[⌊n t / T⌋]. Sharing keeps forward mode cheap, and averages the noise
    of single steps away (Micaelli and Storkey 2021).

    Args:
        values: One value for each block, n of them along the leading axis.
        num_steps: Number of inner steps T, at least n.

    Returns:
        An optax schedule, `step -> value`; past the end it stays at the last value.

    Raises:
        ValueError, TypeError: If `values` has no leading axis or more entries than there are
            steps, or `num_steps` is no positive Python int.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> schedule = dj.per_block(jnp.array([0.5, 0.25]), num_steps=5)
        >>> [float(schedule(t)) for t in range(5)]
        [0.5, 0.5, 0.5, 0.25, 0.25]
        >>> loss = lambda w, h, x: jnp.sum((w - x) ** 2)
        >>> problem = dj.Problem(loss, loss, lambda h: optax.sgd(dj.per_block(h["lr"], 1000)))
    """
    check_count("per_block", "num_steps", num_steps)
    shape = jnp.shape(values)
    if not shape or not 1 <= shape[0] <= num_steps:
        raise ValueError(
            f"per_block: `values` needs a leading axis of 1 to num_steps = {num_steps} blocks, "
            f"got shape {list(shape)}"
        )
    count = shape[0]
    # The first step of every block but the first, in Python's integers: count * num_steps may
    # not fit into 32 bits.
    starts = np.array([-(-num_steps * block // count) for block in range(1, count)], np.int32)

    def schedule(step):
        block = jnp.searchsorted(starts, jnp.asarray(step, jnp.int32), side="right")
        return jnp.asarray(values)[block]

    return schedule
