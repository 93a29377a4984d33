"""Persistent evolution strategies: hypergradients from windows of a run, without their bias."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import (
    check_batches,
    check_count,
    check_directions,
    check_given,
    check_key,
    check_number,
)
from drmad_jax.methods.weighted_mean import weighted_mean
from drmad_jax.methods.zero_order import both_signs, draw_noise
from drmad_jax.problem import Problem, TrainState, init_state
from drmad_jax.training.run import Run


class ParticleState(NamedTuple):
    """What persistent evolution strategies carry from window to window.

    Attributes:
        particles: Training states, each leaf with leading axes [num_pairs, 2]. At step 0 a run
            has just ended, and the weights are its last ones.
        accumulated: Sum of each pair's perturbations since its run began, like the hyperparameters
            with leading axis [num_pairs]; the second particle of a pair has the negative.
        window: Number of windows so far, over all runs, int32 scalar.
    """

    particles: TrainState
    accumulated: PyTree
    window: Int[Array, ""]


class ParticleInfo(NamedTuple):
    """What a window reports.

    Attributes:
        value: Mean over the particles of the outer loss at the window's end.
        grad: Estimate of that loss's hypergradient, like the hyperparameters.
        standard_error: Of each entry of `grad`, from the spread over the pairs; infinite for one.
        finite: Whether `value` and `grad` are.
    """

    value: Float[Array, ""]
    grad: PyTree
    standard_error: PyTree
    finite: Bool[Array, ""]


class PersistentES(NamedTuple):
    """Persistent evolution strategies as two pure functions; made by `persistent_es`.

    Attributes:
        init: `(hparams, params, *, model_state=None) -> ParticleState`.
        step: `(state, hparams, params, inner_batches, outer_batch, *, key, model_state=None,
            inner_key=None) -> (ParticleState, ParticleInfo)`.
    """

    init: Callable[..., ParticleState]
    step: Callable[..., tuple[ParticleState, ParticleInfo]]


def persistent_es(
    problem: Problem,
    *,
    num_pairs: int,
    sigma: float,
    num_steps: int,
    unroll_length: int,
    chunk_size: int | None = None,
) -> PersistentES:
    """Unbiased estimate from truncated unrolls, for outer steps in the middle of a run.

    Persistent evolution strategies (Vicol et al. 2021, Alg. 2): n pairs of particles train side by
    side, each window of K steps at λ ± εᵢ with εᵢ ~ N(0, σ²I). The perturbations of a run add up,
    ξᵢ ← ξᵢ + εᵢ, and g = (1/n) Σᵢ ξᵢ (E(wᵢ⁺, λ + εᵢ) − E(wᵢ⁻, λ − εᵢ)) / (2σ²) is an estimate of
    the whole hypergradient of the outer loss at the window's end, through all windows before it.
    The sum over a run's windows belongs to the sum of their losses.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_pairs: Number n of pairs.
        sigma: Standard deviation σ of every hyperparameter's perturbation, in its own unit.
        num_steps: Steps T in a run, after which the particles start again.
        unroll_length: Steps K in a window, a divisor of T.
        chunk_size: How many pairs train at once; `None` for all.

    Returns:
        `init` and `step`, for a loop of one's own that updates `hparams` after each window. In
        `step`, `params` and `model_state` say where runs start; `inner_batches` has T entries, or
        is a callable pytree; `key` is that of the perturbations and may be the same in all calls;
        `inner_key` is the key of the run, for inner losses that take one.

    Cost:
        Memory: 2n training states, carried. Time: 2n windows of K steps for one hypergradient.
    Bias:
        Unbiased for the loss smoothed over the perturbations as long as λ stays the same; when it
        moves within a run, windows already past were trained at older values. The variance grows
        with the number of windows since the run began.

    Raises:
        ValueError: If a count is below 1, `sigma` is not positive, or K is no divisor of T.
        TypeError: If an argument is not of its kind.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: 0.5 * jnp.sum((w - h) ** 2)
        >>> problem = dj.Problem(loss, lambda w, h, x: jnp.sum(w), optax.sgd(0.5))
        >>> pes = dj.persistent_es(problem, num_pairs=4, sigma=0.1, num_steps=6, unroll_length=3)
        >>> batches, key = jnp.zeros(6), jax.random.key(0)
        >>> state = pes.init(1.0, jnp.zeros(1))
        >>> state, info = jax.jit(pes.step)(state, 1.0, jnp.zeros(1), batches, None, key=key)
        >>> int(state.window), bool(info.finite)
        (1, True)
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"`problem` must be a drmad_jax.Problem, got {type(problem).__name__}")
    chunk_size = num_pairs if chunk_size is None else chunk_size
    counts = {
        "num_pairs": num_pairs,
        "num_steps": num_steps,
        "unroll_length": unroll_length,
        "chunk_size": chunk_size,
    }
    for name, count in counts.items():
        check_count("persistent_es", name, count)
    check_number("persistent_es", "sigma", sigma, above=0.0)
    if num_steps % unroll_length:
        raise ValueError(
            "persistent_es: `unroll_length` must be a divisor of num_steps = "
            f"{num_steps}, got {unroll_length}"
        )
    windows = _Windows(
        problem, num_pairs, float(sigma), num_steps, unroll_length, min(chunk_size, num_pairs)
    )
    return PersistentES(windows.init, windows.step)


@dataclasses.dataclass(frozen=True)
class _Windows:
    problem: Problem
    num_pairs: int
    sigma: float
    num_steps: int
    unroll_length: int
    chunk_size: int

    def init(self, hparams: PyTree, params: PyTree, *, model_state: PyTree = None) -> ParticleState:
        """Particles at the start of a run."""
        hparams, params = check_given(hparams, params)
        state = init_state(self.problem, hparams, params, model_state=model_state)
        repeat = lambda *axes: lambda x: jnp.broadcast_to(x, (*axes, *jnp.shape(x)))
        particles = jax.tree.map(repeat(self.num_pairs, 2), state)
        accumulated = jax.tree.map(repeat(self.num_pairs), tree.zeros_like(hparams))
        return ParticleState(particles, accumulated, jnp.int32(0))

    def step(
        self,
        state: ParticleState,
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        key: Array,
        model_state: PyTree = None,
        inner_key: Array | None = None,
    ) -> tuple[ParticleState, ParticleInfo]:
        """Trains all particles through one window."""
        hparams, params = check_given(hparams, params)
        inner_batches = check_batches(inner_batches, self.num_steps)
        check_directions("persistent_es", hparams)
        check_key("persistent_es", key)
        check_key("persistent_es", inner_key)

        def train(hparams: PyTree, particle: TrainState) -> tuple[Array, TrainState]:
            start = lambda h: init_state(self.problem, h, params, model_state=model_state)
            fresh = particle.step == 0
            begin = lambda new, old: jnp.where(fresh, new, old)
            particle = jax.tree.map(begin, tree.cast_like(start(hparams), particle), particle)
            run = Run(self.problem, self.num_steps, inner_batches, inner_key, start)
            end = run.stretch(0, self.unroll_length).train(particle, hparams)
            loss = self.problem.outer(end.params, hparams, outer_batch, end.model_state)
            return loss, end._replace(step=end.step % self.num_steps)

        def train_pair(pair):
            noise, particles = pair
            return jax.vmap(train)(both_signs(hparams, noise), particles)

        keys = jax.random.split(jax.random.fold_in(key, state.window), self.num_pairs)
        noise = jax.vmap(lambda key: draw_noise(hparams, key, self.sigma))(keys)
        fresh = state.particles.step[0, 0] == 0
        add = lambda old, new: jnp.where(fresh, 0, old) + new
        accumulated = jax.tree.map(add, state.accumulated, noise)
        losses, particles = jax.lax.map(
            train_pair, (noise, state.particles), batch_size=self.chunk_size
        )
        info = self._info(hparams, accumulated, losses)
        return ParticleState(particles, accumulated, state.window + 1), info

    def _info(
        self, hparams: PyTree, accumulated: PyTree, losses: Float[Array, "pairs 2"]
    ) -> ParticleInfo:
        slopes = (losses[:, 0] - losses[:, 1]) / (2 * self.sigma**2)
        grad, standard_error = weighted_mean(lambda noise: noise, accumulated, slopes)
        value = jnp.mean(losses)
        grad = tree.cast_like(grad, hparams)
        finite = jnp.isfinite(value) & tree.all_finite(grad)
        return ParticleInfo(value, grad, standard_error, finite)
