"""Implicit differentiation: the hypergradient at the end of training, by a linear solve."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_choice, check_count, check_key, check_number
from drmad_jax.methods.linear_solve import (
    ConjugateGradient,
    LinearSolver,
    NeumannSeries,
    Nystrom,
    add_scaled,
)
from drmad_jax.methods.reverse import truncated
from drmad_jax.problem import TrainState
from drmad_jax.protocol import Info
from drmad_jax.reverse.method import Reverse
from drmad_jax.training.curvature import (
    CURVATURES,
    Curvature,
    curvature_product,
    inner_gradient,
    resolve_curvature,
)
from drmad_jax.training.run import Run, forward_scan
from drmad_jax.training.step import Cotangent

_SOLVERS = {"cg": ConjugateGradient, "neumann": NeumannSeries, "nystrom": Nystrom}


@dataclasses.dataclass(frozen=True)
class Implicit:
    """The implicit function theorem at the final weights; made by `implicit`."""

    solver: LinearSolver
    curvature: str
    damping: float
    num_batches: int
    key: Array | None

    def forward(self, run: Run, state: TrainState) -> tuple[TrainState, TrainState]:
        """Trains, remembering only the end."""
        resolve_curvature(run.problem, self.curvature)
        final, _ = forward_scan(run.step, state, [run.num_steps])
        return final, final

    def backward(self, run: Run, trace: TrainState, cotangent: Cotangent) -> tuple[Cotangent, Info]:
        """Solves (B + damping · I) x = ∂E/∂w, and subtracts (∂²L/∂λ∂w)ᵀ x."""
        curvature = resolve_curvature(run.problem, self.curvature)
        rhs = _widen(cotangent.state.params)
        # Entries near one, or the squares in the solver would underflow for tiny gradients.
        scale = _largest_entry(rhs)
        unit = jax.tree.map(lambda b: b / jnp.where(scale > 0, scale, 1), rhs)
        product = lambda v: self._product(run, trace, v, curvature)[0]
        key = run.draw_key() if self.key is None else self.key
        unit_x, count = self.solver(product, unit, damping=self.damping, key=key)
        # Not the solver's own residual, which drifts away from the true one in float32.
        image, mixed = self._product(run, trace, unit_x, curvature)
        rest = add_scaled(add_scaled(unit, -1, image), -self.damping, unit_x)
        residual_norm = _relative_norm(rest, unit)
        grad = jax.tree.map(lambda g, m: g - scale.astype(g.dtype) * m, cotangent.hparams, mixed)
        info = Info(
            jnp.array(True), jnp.int32(0), residual_norm=residual_norm, num_iterations=count
        )
        return Cotangent(cotangent.state, grad), info

    def reaches_start(self, run: Run) -> bool:
        """Never: the way training went is not looked at."""
        return False

    def sees(self, run: Run, state: TrainState) -> Callable[[PyTree], PyTree]:
        """What acts in the inner gradient; nothing inside the optimizer or the initial state."""
        batch, key = run.inputs(state.step)
        gradient = inner_gradient(run.problem, None)
        return lambda hparams: gradient(state.params, hparams, state.model_state, batch, key)[0]

    def _product(
        self, run: Run, final: TrainState, vector: PyTree, curvature: Curvature
    ) -> tuple[PyTree, PyTree]:
        """B v and (∂²L/∂λ∂w)ᵀ v, each the mean over the last `num_batches` inner batches."""
        narrow = tree.cast_like(vector, final.params)

        def on_batch(step: Array) -> tuple[PyTree, PyTree]:
            batch, key = run.inputs(step)
            model_state = final.model_state
            image, mixed = curvature_product(
                run.problem,
                curvature,
                final.params,
                run.hparams,
                batch,
                narrow,
                model_state=model_state,
                key=key,
            )
            return _widen(image), tree.widen(mixed)

        count = min(self.num_batches, run.num_steps)
        total = on_batch(jnp.int32(run.num_steps - count))
        if count == 1:
            return total
        steps = np.arange(run.num_steps - count + 1, run.num_steps, dtype=np.int32)
        add = lambda total, step: (jax.tree.map(jnp.add, total, on_batch(step)), None)
        return jax.tree.map(lambda x: x / count, jax.lax.scan(add, total, steps)[0])


def implicit(
    *,
    solver: str | LinearSolver = "cg",
    max_iterations: int | None = None,
    tolerance: float | None = None,
    num_terms: int | None = None,
    step_size: float | None = None,
    rank: int | None = None,
    damping: float | None = None,
    curvature: str = "auto",
    num_batches: int = 1,
    key: Array | None = None,
) -> Implicit:
    """Approximate: the implicit function theorem at the trained weights, as if training converged.

    dE/dλ = ∂E/∂λ − (∂²L/∂λ∂w)ᵀ (B + ρI)⁻¹ ∂E/∂w, all at w_T (Larsen et al. 1996; Pedregosa 2016
    for conjugate gradient). B is the inner loss's curvature on the last inner batches; with
    full-batch training that is the whole inner loss.

    Args:
        solver: "cg" (conjugate gradient), "neumann" (truncated Neumann series, Lorraine et al.
            2020), "nystrom" (Hataya and Yamada 2023), or one's own `LinearSolver`.
        max_iterations: For "cg", largest number of iterations; 100 if `None`.
        tolerance: For "cg", the relative residual at which it ends; 1e-5 if `None`.
        num_terms: For "neumann", the number of terms; 20 if `None`.
        step_size: For "neumann", its step size, below 2 over the largest curvature; with that of
            plain gradient descent and `num_terms` = K it equals
            `truncated(num_reverse_steps=K, frozen=True)` on the same batch. If `None`, one over
            the largest curvature, estimated with ten products.
        rank: For "nystrom", the rank, at one product each; 20 if `None`.
        damping: ρ ≥ 0, in units of the curvature; `None` for 0, and for 0.01 with "nystrom",
            which cannot do without.
        curvature: "gauss_newton", "hessian", or "auto": Gauss–Newton for a `composite_loss`, the
            Hessian for any other loss.
        num_batches: How many of the last inner batches B and the mixed term are averaged over; at
            most num_steps are. A noisy B⁻¹ is biased: with small batches, average over many.
        key: Key of the solver's random vectors, which may be traced; if `None`, it comes from the
            key with which the hypergradient is called, and is a fixed one without.

    Cost:
        Memory: one training state, and five vectors like the weights for "cg", three for
        "neumann", 3 · rank for "nystrom". Backward: one curvature product (two to three
        gradients) on `num_batches` batches for each iteration, and one more for the residual.
    Bias:
        Biased by the distance of w_T from an optimum of the batches used, by the damping, and by
        what the solver left over. A model state is held fixed. Learning rates and initial weights
        do not act at an optimum, and are refused. `info.residual_norm` is the true
        ‖∂E/∂w − (B + ρI)x‖ / ‖∂E/∂w‖: near or above one, do not trust the hypergradient. Well
        above the tolerance with `info.num_iterations` below `max_iterations`, conjugate gradient
        met negative curvature and kept its best x so far: add damping, take Gauss–Newton
        curvature, or average over more batches.

    Raises:
        ValueError: On an unknown name, an option that the solver does not have, or a value out of
            range.
        TypeError: On a count or number of the wrong type.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, lambda w, l2, x: jnp.sum((w - x) ** 2), optax.sgd(0.1))
        >>> method = dj.implicit(solver="cg")
        >>> step = jax.jit(dj.hypergradient(problem, num_steps=50, method=method))
        >>> out = step(1.0, jnp.zeros(1), jnp.ones((50, 1)), jnp.ones(1))
        >>> round(float(out.grad), 4), int(out.info.num_iterations)  # w = 1/(1+l2)
        (0.25, 1)
    """
    given = {
        "max_iterations": max_iterations,
        "tolerance": tolerance,
        "num_terms": num_terms,
        "step_size": step_size,
        "rank": rank,
    }
    solve = _solver(solver, {name: x for name, x in given.items() if x is not None})
    check_choice("implicit", "curvature", curvature, ("auto", *CURVATURES))
    check_count("implicit", "num_batches", num_batches)
    check_key("implicit", key)
    if damping is None:
        damping = 0.01 if isinstance(solve, Nystrom) else 0.0
    check_number("implicit", "damping", damping, least=0.0)
    if isinstance(solve, Nystrom):
        check_number("implicit", 'damping` with solver="nystrom', damping, above=0.0)
    return Implicit(solve, curvature, float(damping), num_batches, key)


def one_step() -> Reverse:
    """Approximate: only the last training step is differentiated (T1–T2, Luketina et al. 2016).

    dE/dλ ≈ ∂E/∂λ + (∂Φ/∂λ)ᵀ ∂E/∂w at the last step Φ; for gradient descent with step size α,
    −α (∂²L/∂λ∂w)ᵀ ∂E/∂w, the inverse Hessian replaced by αI. It is
    `truncated(num_reverse_steps=1)`, and with num_steps=1 and the final weights handed on to the
    next call it is the published algorithm, which updates weights and hyperparameters in turn.

    Cost:
        Memory: one training state. Reverse pass: one reverse step.
    Bias:
        Biased: greedy. What acts in earlier steps is not seen; magnitudes shrink with the step
        size, and directions of low curvature count too little.

    Example:
        >>> import drmad_jax as dj
        >>> dj.one_step() == dj.truncated(num_reverse_steps=1)
        True
    """
    return truncated(num_reverse_steps=1)


def _solver(solver: str | LinearSolver, options: dict[str, float]) -> LinearSolver:
    if not isinstance(solver, str) and callable(solver):
        names: list[str] = []
    else:
        check_choice("implicit", "solver", solver, tuple(_SOLVERS))
        names = [field.name for field in dataclasses.fields(_SOLVERS[str(solver)])]
    for option in options:
        if option not in names:
            raise ValueError(
                f"implicit: `{option}` is no option of solver={solver!r}, which takes {names}"
            )
    return _SOLVERS[solver](**options) if isinstance(solver, str) else solver


def _widen(vector: PyTree) -> PyTree:
    """All leaves in one dtype, float32 or wider, in which a solver may add them up."""
    dtypes = [tree.accumulation_dtype(leaf.dtype) for leaf in jax.tree.leaves(vector)]
    dtype = max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)
    return jax.tree.map(lambda x: x.astype(dtype), vector)


def _largest_entry(vector: PyTree) -> Float[Array, ""]:
    return jax.tree.reduce(jnp.maximum, jax.tree.map(lambda x: jnp.max(jnp.abs(x)), vector))


def _relative_norm(vector: PyTree, other: PyTree) -> Float[Array, ""]:
    """‖vector‖ / ‖other‖, zero where both are."""
    norm, scale = tree.squared_norm(vector), tree.squared_norm(other)
    return jnp.sqrt(norm / jnp.where(scale > 0, scale, 1))
