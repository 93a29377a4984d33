"""Metasmoothness: whether the outcome of training responds smoothly to the hyperparameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_inexact
from drmad_jax.hypergradient import trained
from drmad_jax.problem import Problem


class Metasmoothness(NamedTuple):
    """What three runs along one direction say; see `metasmoothness`.

    Attributes:
        agreement: Of the trained weights, Ŝ in [-1, 1]: near 1 they move on in the direction in
            which they moved before; near 0 or below, a hypergradient says little about a step of
            this size.
        outer_agreement: Of the outer loss: 1 if it goes on rising or falling, -1 if it turns.
        curvature: Second difference S of the outer loss; the smaller, the smoother.
        slopes: The two slopes of the outer loss.
    """

    agreement: Float[Array, ""]
    outer_agreement: Float[Array, ""]
    curvature: Float[Array, ""]
    slopes: Float[Array, "2"]


def metasmoothness(problem: Problem, *, num_steps: int) -> Callable[..., Metasmoothness]:
    """How smoothly training responds to a step in hyperparameter space, by three trainings.

    With w(λ) the trained weights, E(λ) the outer loss, h the step size, v the direction, and Δ₁, Δ₂
    the differences of w between λ, λ + hv and λ + 2hv:

    Ŝ = Σᵢ dᵢ sign(Δ₁ᵢ) sign(Δ₂ᵢ) / Σᵢ dᵢ with dᵢ = |w(λ + 2hv) − w(λ)|ᵢ (Engstrom et al. 2025,
    arXiv 2503.13751, Definition 2), and
    S = |E(λ + 2hv) − 2E(λ + hv) + E(λ)| / h² (Definition 1).

    Where Ŝ is low, no hypergradient method helps, the exact one included: make training smoother
    first (smaller steps, larger batches, `eps_root`), or take smaller outer steps.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_steps: Number of inner steps T.

    Returns:
        A pure function `(hparams, direction, params, inner_batches, outer_batch, *, step_size,
        model_state=None, key=None) -> Metasmoothness`, to be jitted or vmapped over directions.
        `direction`: like `hparams`. `step_size`: h > 0, in units of `direction`; of the order of
        one outer update. The others as for `hypergradient`.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: jnp.sum((w - h) ** 2)
        >>> problem = dj.Problem(loss, lambda w, h, x: jnp.sum(w**2), optax.sgd(0.5))
        >>> measure = jax.jit(dj.metasmoothness(problem, num_steps=1))
        >>> zero, one = jnp.zeros(()), jnp.ones(())
        >>> out = measure(zero, one, jnp.ones(2), jnp.ones(1), None, step_size=1.0)
        >>> float(out.agreement), out.slopes.tolist(), float(out.curvature)  # w = λ, E = 2 λ²
        (1.0, [2.0, 6.0], 4.0)
    """
    training = outcome(problem, num_steps=num_steps)

    def measure(
        hparams: PyTree,
        direction: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        step_size: float | Float[Array, ""],
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Metasmoothness:
        start = check_inexact("hparams", hparams)
        direction = check_inexact("direction", direction)
        run = lambda count: training(
            moved(start, direction, count, step_size),
            params, inner_batches, outer_batch, model_state=model_state, key=key,
        )  # fmt: skip
        # One after the other: three at once would hold three training states.
        weights, values = jax.lax.map(run, jnp.arange(3))
        return smoothness(weights, values, step_size)

    return measure


def outcome(problem: Problem, *, num_steps: int) -> Callable[..., tuple[Array, Array]]:
    """Training without any derivative, and what it came to: the weights, flat, and the outer loss.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_steps: Number of inner steps T.

    Returns:
        A pure function of the arguments of a hypergradient.
    """
    training = trained(problem, num_steps=num_steps)

    def run(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> tuple[Array, Array]:
        final = training(hparams, params, inner_batches, model_state=model_state, key=key)
        value = problem.outer(final.params, hparams, outer_batch, final.model_state)
        flat, _ = ravel_pytree(final.params)
        return flat.astype(tree.accumulation_dtype(flat.dtype)), value

    return run


def moved(
    hparams: PyTree, direction: PyTree, count: Array, step_size: float | Float[Array, ""]
) -> PyTree:
    """Hyperparameters some steps along a direction."""

    def move(h: Array, v: Array) -> Array:
        step = count.astype(h.dtype) * jnp.asarray(step_size, h.dtype)
        return h + step * v.astype(h.dtype)

    return jax.tree.map(move, hparams, direction)


def smoothness(
    weights: Float[Array, "3 n"], values: Float[Array, "3"], step_size: float | Float[Array, ""]
) -> Metasmoothness:
    """What the outcomes of three runs say, 0, 1 and 2 steps along a direction."""
    slopes = jnp.diff(values) / step_size
    return Metasmoothness(
        agreement=_sign_agreement(weights[0], weights[1], weights[2]),
        outer_agreement=jnp.prod(jnp.sign(slopes)),
        curvature=jnp.abs(slopes[1] - slopes[0]) / step_size,
        slopes=slopes,
    )


def _sign_agreement(first: Array, second: Array, third: Array) -> Float[Array, ""]:
    """Ŝ; one where nothing moves at all."""
    distance = jnp.abs(third - first)
    total = jnp.sum(distance)
    agreeing = jnp.sum(distance * jnp.sign(second - first) * jnp.sign(third - second))
    return jnp.where(total == 0, 1, agreeing / jnp.where(total == 0, 1, total))
