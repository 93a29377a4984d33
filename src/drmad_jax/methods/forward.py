"""Forward mode: tangents of the training state travel with it, and nothing is remembered."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_choice, check_count, hold_key
from drmad_jax.methods.directions import (
    DISTRIBUTIONS,
    Directions,
    Distribution,
    EveryEntry,
    RandomDirections,
)
from drmad_jax.problem import TrainState
from drmad_jax.protocol import Info, Method
from drmad_jax.training.run import Run, forward_loop
from drmad_jax.training.step import Cotangent
from drmad_jax.training.tangents import contract, initial_tangents, push_tangents


@dataclasses.dataclass(frozen=True)
class Forward(Method):
    """Forward mode, given by its directions and by how many of them travel at a time.

    Attributes:
        directions: Along which directions of hyperparameter space training is differentiated.
        chunk_size: How many tangents travel at a time; `None` for all.
    """

    directions: Directions
    chunk_size: int | None

    def begin(self, run: Run, state: TrainState, hparams: PyTree) -> Any:
        """The state and its tangents; or the state alone, where tangents come in chunks later."""
        if self._in_chunks(hparams):
            return state, state
        return state, initial_tangents(run.start, hparams, self._all(run, hparams))

    def advance(
        self,
        run: Run,
        tape: Any,
        hparams: PyTree,
        begin: Array | int = 0,
        until: Array | int | None = None,
    ) -> Any:
        """Trains, with all tangents or alone."""
        state, other = tape
        if self._in_chunks(hparams):
            return run.train(state, hparams, begin=begin, until=until), other
        return push(run, state, hparams, other, self._all(run, hparams), begin, until)

    def ended(self, run: Run, tape: Any, hparams: PyTree) -> tuple[TrainState, Any]:
        """The final state, and its tangents or the initial state."""
        return tape

    def reads(self, run: Run) -> list[np.ndarray]:
        """None; or all, for the tangents that come in chunks later."""
        return [np.arange(run.num_steps if self.chunk_size is not None else 0)]

    def arrived(self, run: Run, back: Any, hparams: PyTree) -> tuple[Cotangent, Info]:
        """Contracts the final cotangent with the tangents; the direct term stays exact."""
        trace, cotangent = back
        if self._in_chunks(hparams):
            derivatives = self._chunk_by_chunk(run, trace, hparams, cotangent)
        else:
            derivatives = contract(cotangent.state, trace)
        gradient, error = self.directions.gradient(run, hparams, derivatives)
        info = Info(num_reverse_steps=jnp.int32(0), standard_error=error)
        return cotangent._replace(hparams=tree.add(cotangent.hparams, gradient)), info

    def reaches_start(self, run: Run) -> bool:
        """Never: tangents know nothing of the initial weights."""
        return False

    def _in_chunks(self, hparams: PyTree) -> bool:
        return self.chunk_size is not None and self.chunk_size < self.directions.count(hparams)

    def _all(self, run: Run, hparams: PyTree) -> PyTree:
        indices = jnp.arange(self.directions.count(hparams), dtype=jnp.int32)
        return self.directions.at(run, hparams, indices)

    def _chunk_by_chunk(
        self, run: Run, state: TrainState, hparams: PyTree, cotangent: Cotangent
    ) -> Array:
        size, count = self.chunk_size, self.directions.count(hparams)

        def chunk(start):
            indices = start + jnp.arange(size, dtype=jnp.int32)
            directions = self.directions.at(run, hparams, indices)
            tangents = initial_tangents(run.start, hparams, directions)
            _, tangents = push(run, state, hparams, tangents, directions)
            return contract(cotangent.state, tangents)

        starts = jnp.arange(0, count, size, dtype=jnp.int32)
        return jax.lax.map(chunk, starts).reshape(-1)[:count]


def forward(*, chunk_size: int | None = None) -> Forward:
    """Exact: one tangent of the training state for each hyperparameter entry travels forward.

    Z ← A_t Z + B_t, dE/dλ = ∂E/∂s_T · Z_T + ∂E/∂λ (Franceschi et al. 2017, Alg. 2, Forward-HG).
    For few hyperparameters and long training. Entries shared over blocks of steps or over layers
    keep them few (Micaelli and Storkey 2021): see `per_block`.

    Args:
        chunk_size: Tangents that travel at a time; `None` for all of them.

    Cost:
        Memory: N training states for N hyperparameter entries, or `chunk_size` of them, at any T.
        Time: each tangent costs about 1.5 trainings; each chunk also repeats the training itself.
    Bias:
        Exact. There is no gradient with respect to the initial weights.

    Raises:
        ValueError, TypeError: If `chunk_size` is no positive Python int.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: jnp.sum((w - x) ** 2)
        >>> problem = dj.Problem(loss, loss, lambda lr: optax.sgd(lr))
        >>> compute = jax.jit(dj.hypergradient(problem, num_steps=2, method=dj.forward()))
        >>> out = compute(jnp.float32(0.25), jnp.zeros(1), jnp.ones((2, 1)), jnp.ones(1))
        >>> float(out.grad)  # E = (1 − 2 lr)⁴, dE/dlr = −8 (1 − 2 lr)³
        -1.0
    """
    if chunk_size is not None:
        check_count("forward", "chunk_size", chunk_size)
    return Forward(EveryEntry(), chunk_size)


def forward_gradient(
    *,
    num_directions: int,
    key: Array | None = None,
    distribution: Distribution = "rademacher",
    chunk_size: int | None = None,
) -> Forward:
    """Unbiased estimate: training is differentiated along a few random directions.

    dE/dλ ≈ (1/n) Σ_i (dE/dλ · u_i) u_i with E[u uᵀ] = I: (FG)²U (Shen et al. 2024,
    arXiv 2406.14095). The direct term ∂E/∂λ is exact; only the part through training is estimated.

    Args:
        num_directions: Number n of directions.
        key: Key of the directions, which may be traced: make the method inside the jitted outer
            step, with a new key each time, and nothing is compiled twice. `None` derives it from
            the key with which the hypergradient is called, so that new run keys bring new
            directions.
        distribution: "rademacher" (entries ±1, the smaller variance) or "normal".
        chunk_size: Directions that travel at a time; `None` for all of them. It does not change
            the directions.

    Cost:
        Memory: n training states, or `chunk_size` of them, and n copies of the hyperparameters, at
        any T. Time: each direction costs about 1.5 trainings; each chunk also repeats the
        training itself.
    Bias:
        Unbiased, but noisy: with N entries the variance of each is about ‖dE/dλ‖²/n, so that the
        whole is useful for n of the order of N, or under an outer optimizer that averages.
        `info.standard_error` says how noisy (infinite for n = 1, where it cannot be told).

    Raises:
        ValueError, TypeError: On a count that is no positive Python int, an unknown distribution,
            a `key` that is no key, or no key at all.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: jnp.sum((w - x) ** 2)
        >>> problem = dj.Problem(loss, loss, lambda lr: optax.sgd(lr))
        >>> @jax.jit
        ... def outer_step(lr, key):
        ...     method = dj.forward_gradient(num_directions=4, key=key)
        ...     compute = dj.hypergradient(problem, num_steps=2, method=method)
        ...     return compute(lr, jnp.zeros(1), jnp.ones((2, 1)), jnp.ones(1))
        >>> out = outer_step(jnp.float32(0.25), jax.random.key(0))
        >>> float(out.grad), float(out.info.standard_error)  # exact for a single entry
        (-1.0, 0.0)
    """
    check_count("forward_gradient", "num_directions", num_directions)
    check_choice("forward_gradient", "distribution", distribution, DISTRIBUTIONS)
    if chunk_size is not None:
        check_count("forward_gradient", "chunk_size", chunk_size)
    held = hold_key("forward_gradient", key)
    return Forward(RandomDirections(num_directions, distribution, held), chunk_size)


def push(
    run: Run,
    state: TrainState,
    hparams: PyTree,
    tangents: PyTree,
    directions: PyTree,
    begin: Array | int = 0,
    until: Array | int | None = None,
) -> tuple[TrainState, PyTree]:
    """Trains with tangents along these directions, as `Run.train` does."""
    step = lambda carry: push_tangents(run.step, carry[0], hparams, carry[1], directions)
    carry = state, tangents
    return forward_loop(step, carry, [run.num_steps], begin=begin, until=until)
