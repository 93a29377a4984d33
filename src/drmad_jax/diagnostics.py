"""How near a hypergradient is to the exact one, and to what tuning needs."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax.check import check_inexact
from drmad_jax.gradient import Curvature
from drmad_jax.hypergradient import outer_cotangent
from drmad_jax.method import Method
from drmad_jax.problem import Problem, TrainState, init_state
from drmad_jax.reverse import Reverse
from drmad_jax.step import Cotangent, ReverseInfo
from drmad_jax.unroll import Run


class Agreement(NamedTuple):
    """How a hypergradient agrees with a reference, all entries of both taken as one vector.

    Attributes:
        cosine: Of the angle between them, in [-1, 1]; 0 where one of them is zero.
        norm_ratio: ‖hypergradient‖ / ‖reference‖.
        sign_agreement: Share of the reference's nonzero entries whose sign is the same, in [0, 1]:
            all that sign updates see.
    """

    cosine: Float[Array, ""]
    norm_ratio: Float[Array, ""]
    sign_agreement: Float[Array, ""]


def agreement(grad: PyTree, reference: PyTree) -> Agreement:
    """Compares a hypergradient with a reference, by three numbers that only together say enough.

    A cosine hides a magnitude that is off by a factor, a norm ratio hides the direction, and the
    agreement of signs hides which entries matter.

    Args:
        grad: A hypergradient.
        reference: The one to compare it with, of the same structure.

    Returns:
        An `Agreement` of scalars; NaN where an argument is not finite.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> found = dj.agreement(jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0]))
        >>> [round(float(x), 3) for x in found]
        [0.707, 1.414, 0.5]
    """
    (grad, norm), (reference, reference_norm) = _unit(grad), _unit(reference)
    same = jnp.sign(grad) == jnp.sign(reference)
    counted = reference != 0
    share = jnp.sum(same & counted) / jnp.maximum(jnp.sum(counted), 1)
    finite = jnp.isfinite(norm) & jnp.isfinite(reference_norm)
    return Agreement(
        cosine=jnp.vdot(grad, reference),
        norm_ratio=norm / reference_norm,
        sign_agreement=jnp.where(finite, share, jnp.nan).astype(norm.dtype),
    )


def leave_one_out(grads: PyTree, references: PyTree) -> Agreement:
    """How each seed's hypergradient agrees with the mean reference over the other seeds.

    Tuning follows the expected hypergradient, of which that of one seed is a noisy sample, the
    exact one no less. These numbers say how good a sample it is; compare a method's with those of
    the exact method, `leave_one_out(exact, exact)`.

    Args:
        grads: Hypergradients of one method, leading axis n ≥ 2, one entry per seed.
        references: Exact hypergradients of the same seeds. Seeds where they are not finite are
            left out of the means.

    Returns:
        An `Agreement` of arrays of shape (n,), NaN where the seed's own hypergradient is not
        finite.

    Raises:
        ValueError: With fewer than two seeds.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> exact = jnp.array([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]])
        >>> found = dj.leave_one_out(exact, exact)  # means (1, -.5), (1, .5), (1, 0)
        >>> [round(float(cosine), 3) for cosine in found.cosine]
        [0.316, 0.316, 1.0]
    """
    flatten = jax.vmap(lambda grad: ravel_pytree(grad)[0])
    grads, references = flatten(grads), flatten(references)
    count = references.shape[0]
    if count < 2:
        raise ValueError(f"leave_one_out: needs at least two seeds, got {count}")
    usable = jnp.all(jnp.isfinite(references), axis=1, keepdims=True)
    references = jnp.where(usable, references, 0)
    # Not the sum over all less the seed's own: one of them may be larger by many orders.
    weights = (1 - jnp.eye(count, dtype=references.dtype)) * usable.T.astype(references.dtype)
    num_others = jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1)
    return jax.vmap(agreement)(grads, jnp.dot(weights / num_others, references))


def cotangent_norms(
    problem: Problem, *, num_steps: int, method: Method
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The norm of the weights' cotangent at every reverse step: where on its way a method expands.

    Runs on the host: the compiled way back reports each step to it. For looking at single runs.

    Args:
        problem: The problem.
        num_steps: Number of inner steps T.
        method: A method whose way back takes reverse steps; others report nothing.

    Returns:
        A function of the arguments of a hypergradient, which returns where the visited steps stand
        on the way of training, in steps from its start, and ‖w̄‖ after each; NumPy arrays of the
        same length, in the order of training.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, lambda w, l2, x: jnp.sum((w - x) ** 2), optax.sgd(0.125))
        >>> norms = dj.cotangent_norms(problem, num_steps=3, method=dj.stored())
        >>> steps, found = norms(1.0, jnp.zeros(1), jnp.ones((3, 1)), jnp.ones(1))
        >>> (found[1:] / found[:-1]).round(2).tolist()  # 1 / (1 − .125 · (2 + 2 l2))
        [2.0, 2.0]
    """

    def call(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        reported: dict[int, float] = {}

        def report(step: Array, norm: Array) -> None:
            reported[int(step)] = float(norm)

        @jax.jit
        def go(hparams, params, inner_batches, outer_batch, model_state, key):
            start = lambda hparams: init_state(problem, hparams, params, model_state=model_state)
            run = _Reporting(problem, num_steps, hparams, inner_batches, key, start, report=report)
            state = tree.cast_like(start(hparams), start(hparams))
            final, trace = method.forward(run, state)
            _, cotangent = outer_cotangent(problem, final, hparams, outer_batch)
            return method.backward(run, trace, cotangent)[0]

        hparams, params = check_inexact("hparams", hparams), check_inexact("params", params)
        go(hparams, params, inner_batches, outer_batch, model_state, key)
        jax.effects_barrier()
        steps = np.array(sorted(reported), int)
        return _places(method, num_steps, steps), np.array([reported[step] for step in steps])

    return call


@dataclasses.dataclass(frozen=True)
class _Reporting(Run):
    """A run that reports the cotangent after each reverse step."""

    report: Callable[[Array, Array], None] = lambda step, norm: None

    def reverse_step(
        self, state: TrainState, cotangent: Cotangent, weight: PyTree, *, curvature: Curvature
    ) -> tuple[Cotangent, ReverseInfo]:
        cotangent, info = super().reverse_step(state, cotangent, weight=weight, curvature=curvature)
        jax.debug.callback(self.report, state.step, info.cotangent_norm)
        return cotangent, info


def _places(method: Method, num_steps: int, steps: np.ndarray) -> np.ndarray:
    """Where steps are linearised: published DrMAD takes its batches elsewhere than its weights."""
    visits = method.steps(num_steps) if isinstance(method, Reverse) else None
    if visits is None or not visits.static:
        return steps.astype(float)
    return np.asarray(visits.position, float)[np.searchsorted(visits.step, steps)]


def _unit(vector: PyTree) -> tuple[Float[Array, " m"], Float[Array, ""]]:
    """A pytree as one vector of length one (or zero), and its norm."""
    flat, _ = ravel_pytree(vector)
    flat = flat.astype(tree.accumulation_dtype(flat.dtype))
    # The squares of a hypergradient that has exploded would overflow long before itself does.
    scale = jnp.max(jnp.abs(flat), initial=0)
    scaled = flat / jnp.where(scale > 0, scale, 1)
    norm = jnp.sqrt(jnp.sum(jnp.square(scaled)))
    return scaled / jnp.where(norm > 0, norm, 1), scale * norm
