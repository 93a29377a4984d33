"""What a hypergradient is worth, found out without an exact one: tangents of the true training."""

import math

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax.methods.forward import push
from drmad_jax.problem import TrainState
from drmad_jax.protocol import Certificate
from drmad_jax.training.run import Run
from drmad_jax.training.step import outer_cotangent
from drmad_jax.training.tangents import contract, initial_tangents


def certificate(
    run: Run,
    state: TrainState,
    hparams: PyTree,
    outer_batch: PyTree,
    estimate: PyTree,
    *,
    num_directions: int,
) -> Certificate:
    """Slopes of the outer loss along an estimated hypergradient and across it.

    The slope along ĝ/‖ĝ‖ is exact. Across it, n random orthonormal directions u_i of the m = d − 1
    that there are give ‖g⊥‖² ≈ (m/n) Σ (g·u_i)², whose relative variance is 2 (m − n)/(n (m + 2)).

    Args:
        run: The run.
        state: Its initial state.
        hparams: Hyperparameters λ.
        outer_batch: What the outer loss takes.
        estimate: ĝ, like `hparams`.
        num_directions: Number n of directions; all where there are fewer.

    Returns:
        A `Certificate`.
    """
    vector, unravel = ravel_pytree(tree.widen(estimate))
    num_others = vector.size - 1
    count = min(num_directions, num_others)
    directions = _directions(vector, count, run.draw_key())
    along = jax.vmap(lambda row: tree.cast_like(unravel(row), hparams))(directions)
    tangents = initial_tangents(run.start, hparams, along)
    final, tangents = push(run, state, hparams, tangents, along)

    _, cotangent = outer_cotangent(run.problem, final, hparams, outer_batch)
    slopes = contract(cotangent.state, tangents) + contract(cotangent.hparams, along)
    slopes = slopes.astype(vector.dtype)
    length = jnp.linalg.norm(vector)
    ratio = slopes[0] / jnp.where(length > 0, length, 1)
    if num_directions == 0:
        return Certificate(slopes[0], ratio)
    across = num_others / max(count, 1) * jnp.sum(slopes[1:] ** 2)
    norm = jnp.sqrt(slopes[0] ** 2 + across)
    safe = jnp.where(norm > 0, norm, 1)
    relative = math.sqrt(2 * (num_others - count) / (max(count, 1) * (num_others + 2)))
    error = jnp.abs(slopes[0]) * across * relative / (2 * safe**3)
    return Certificate(slopes[0], ratio, norm, slopes[0] / safe, error)


def _directions(vector: Float[Array, " d"], count: int, key: Array) -> Float[Array, "n d"]:
    """ĝ/‖ĝ‖, and directions of the same length that are orthogonal to it and to each other."""
    noise = jax.random.normal(key, (vector.size, count), vector.dtype)
    length = jnp.linalg.norm(vector)
    first = vector / jnp.where(length > 0, length, 1)
    basis, _ = jnp.linalg.qr(jnp.concatenate([first[:, None], noise], axis=1))
    return jnp.concatenate([first[None], basis.T[1:]])
