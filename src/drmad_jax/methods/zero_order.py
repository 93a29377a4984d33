"""Evolution strategies: the hypergradient from the outer losses of whole runs alone."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from drmad_jax._checks.arguments import (
    HeldKey,
    check_count,
    check_directions,
    check_number,
    choose_key,
    hold_key,
)
from drmad_jax.methods.weighted_mean import weighted_mean
from drmad_jax.problem import TrainState
from drmad_jax.protocol import Evaluate, Info


@dataclasses.dataclass(frozen=True)
class EvolutionStrategies:
    """Antithetic evolution strategies; made by `evolution_strategies`."""

    num_pairs: int
    sigma: float
    chunk_size: int
    key: HeldKey | None

    def estimate(
        self, evaluate: Evaluate, hparams: PyTree, key: Array | None
    ) -> tuple[Float[Array, ""], TrainState, PyTree, Info]:
        """Trains once as it is, and num_pairs times with each sign of a perturbation."""
        check_directions("evolution_strategies", hparams)
        key = choose_key("evolution_strategies", self.key, key)
        keys = jax.random.split(key, self.num_pairs)
        noise = lambda key: draw_noise(hparams, key, self.sigma)

        def difference(key):
            losses, _ = jax.vmap(evaluate)(both_signs(hparams, noise(key)))
            return losses[0] - losses[1]

        value, final = evaluate(hparams)
        differences = jax.lax.map(difference, keys, batch_size=self.chunk_size)
        grad, standard_error = weighted_mean(noise, keys, differences / (2 * self.sigma**2))
        info = Info(num_reverse_steps=jnp.int32(0), standard_error=standard_error)
        return value, final, grad, info


def evolution_strategies(
    *, num_pairs: int, sigma: float, chunk_size: int | None = None, key: Array | None = None
) -> EvolutionStrategies:
    """Approximate: the slope of the outer loss between pairs of runs, perturbed both ways.

    g = (1/n) Σᵢ εᵢ (E(λ + εᵢ) − E(λ − εᵢ)) / (2σ²) with εᵢ ~ N(0, σ²I): evolution strategies with
    antithetic pairs (Salimans et al. 2017). All runs share their batches and their key.

    Args:
        num_pairs: Number n of pairs.
        sigma: Standard deviation σ of every hyperparameter's perturbation, in its own unit.
        chunk_size: How many pairs train at once; `None` for all. It does not change the
            perturbations.
        key: Key of the perturbations, which may be traced: make the method inside the jitted outer
            step, with a new key each time, and nothing is compiled twice. If `None`, it comes from
            the key with which the hypergradient is called.

    Cost:
        Memory: 2 · chunk_size training states and the activations of a step of each. Time: 2n + 1
        trainings; no reverse pass.
    Bias:
        Unbiased for the smoothed loss E_ε[E(λ + ε)], whose gradient is O(σ²) away from that of
        E(λ). Noisy: the error of the whole, relative to the gradient's norm, is about
        √(number of hyperparameters / n); `info.standard_error` says it for each entry (infinite
        for n = 1, where it cannot be told). It sees every hyperparameter and needs no derivative,
        hence no smoothness.

    Raises:
        ValueError: If a count is below 1, `sigma` is not positive, or there is no key at all.
        TypeError: If they are no Python numbers, or `key` is no key.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: 0.5 * jnp.sum((w - h) ** 2)
        >>> problem = dj.Problem(loss, lambda w, h, x: jnp.sum(w), optax.sgd(0.5))
        >>> @jax.jit
        ... def outer_step(target, key):
        ...     method = dj.evolution_strategies(num_pairs=8, sigma=0.1, key=key)
        ...     compute = dj.hypergradient(problem, num_steps=2, method=method)
        ...     return compute(target, jnp.zeros(1), jnp.zeros(2), None)
        >>> out = outer_step(jnp.float32(1), jax.random.key(0))
        >>> bool(abs(out.grad - 0.75) < 3 * out.info.standard_error)
        True
    """
    check_count("evolution_strategies", "num_pairs", num_pairs)
    check_number("evolution_strategies", "sigma", sigma, above=0.0)
    chunk_size = num_pairs if chunk_size is None else chunk_size
    check_count("evolution_strategies", "chunk_size", chunk_size)
    held = hold_key("evolution_strategies", key)
    return EvolutionStrategies(num_pairs, float(sigma), min(chunk_size, num_pairs), held)


def draw_noise(like: PyTree, key: Array, sigma: float) -> PyTree:
    """A perturbation ε ~ N(0, σ²I)."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draw = lambda key, leaf: sigma * jax.random.normal(key, leaf.shape, leaf.dtype)
    return jax.tree.unflatten(structure, list(map(draw, keys, leaves)))


def both_signs(hparams: PyTree, noise: PyTree) -> PyTree:
    """λ + ε and λ − ε, stacked."""
    return jax.tree.map(lambda h, e: jnp.stack([h + e, h - e]), hparams, noise)
