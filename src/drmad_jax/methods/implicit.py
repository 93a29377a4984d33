"""Implicit differentiation: the hypergradient at the end of training, by a linear solve."""

import dataclasses
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import (
    HeldKey,
    check_choice,
    check_count,
    check_number,
    hold_key,
)
from drmad_jax._checks.warning import warn
from drmad_jax.methods.linear_solve import (
    ConjugateGradient,
    LinearSolver,
    NeumannSeries,
    Nystrom,
)
from drmad_jax.problem import TrainState
from drmad_jax.protocol import DependsOn, Info, Method
from drmad_jax.training.curvature import (
    CURVATURES,
    Curvature,
    inner_gradient,
    resolve_curvature,
    said_of,
)
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent

_SOLVERS = {"cg": ConjugateGradient, "neumann": NeumannSeries, "nystrom": Nystrom}


@dataclasses.dataclass(frozen=True)
class Implicit(Method):
    """The implicit function theorem at the final weights; made by `implicit`."""

    solver: LinearSolver
    curvature: str
    damping: float
    num_batches: int
    key: HeldKey | None

    differentiates_optimizer = False

    def resolve(self, run: Run, state: TrainState, hparams: PyTree) -> "Implicit":
        """With a curvature chosen: exact, unless told otherwise."""
        curvature = "hessian" if self.curvature == "auto" else self.curvature
        rules = run.rules_in_loss(state, hparams)
        if rules and not isinstance(self.solver, NeumannSeries):
            warn(
                f"{said_of(rules)}, and its Jacobian need not be symmetric, which the linear "
                'solver assumes: look at `info.residual_norm`, or take solver="neumann"'
            )
        return dataclasses.replace(self, curvature=resolve_curvature(run.problem, curvature))

    def reads(self, run: Run) -> list[np.ndarray]:
        """The last batches, for the products."""
        return [self._steps(run)]

    def _steps(self, run: Run) -> np.ndarray:
        count = min(self.num_batches, run.num_steps)
        return np.arange(run.num_steps - count, run.num_steps, dtype=np.int32)

    def arrived(
        self, run: Run, back: tuple[TrainState, Cotangent], hparams: PyTree
    ) -> tuple[Cotangent, Info]:
        """Solves (B + damping · I) x = ∂E/∂w, and subtracts (∂²L/∂λ∂w)ᵀ x."""
        final, cotangent = back
        rhs = _widen(cotangent.state.params)
        # Entries near one, or the squares in the solver would underflow for tiny gradients.
        scale = _largest_entry(rhs)
        unit = jax.tree.map(lambda b: b / jnp.where(scale > 0, scale, 1), rhs)
        product = lambda v: self._product(run, final, hparams, v)[0]
        key = run.draw_key() if self.key is None else self.key.key
        unit_x, count = self.solver(product, unit, damping=self.damping, key=key)
        # Not the solver's own residual, which drifts away from the true one in float32.
        image, mixed = self._product(run, final, hparams, unit_x)
        rest = tree.add_scaled(tree.add_scaled(unit, -1, image), -self.damping, unit_x)
        residual_norm = _relative_norm(rest, unit)
        grad = jax.tree.map(lambda g, m: g - scale.astype(g.dtype) * m, cotangent.hparams, mixed)
        info = Info(
            num_reverse_steps=jnp.int32(0), residual_norm=residual_norm, num_iterations=count
        )
        return Cotangent(cotangent.state, grad), info

    def reaches_start(self, run: Run) -> bool:
        """Never: the way training went is not looked at."""
        return False

    def sees(self, run: Run, state: TrainState) -> DependsOn:
        """What acts in the inner gradient; nothing inside the optimizer or the initial state."""
        batch, key = run.inputs(state.step)
        gradient = inner_gradient(run.problem, None)
        return lambda hparams: gradient(state.params, hparams, state.model_state, batch, key)[0]

    def _product(
        self, run: Run, final: TrainState, hparams: PyTree, vector: PyTree
    ) -> tuple[PyTree, PyTree]:
        """B v and (∂²L/∂λ∂w)ᵀ v, each the mean over the last `num_batches` inner batches."""
        curvature = cast(Curvature, self.curvature)
        return run.curved(
            lambda step: final, hparams, vector, self._steps(run), curvature=curvature
        )


def implicit(
    *,
    solver: Literal["cg", "neumann", "nystrom"] | LinearSolver = "cg",
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
        solver: `conjugate_gradient(…)`, `neumann_series(…)` (Lorraine et al. 2020), `nystrom(…)`
            (Hataya and Yamada 2023), or one's own `LinearSolver`; "cg", "neumann" and "nystrom"
            are these without arguments.
        damping: ρ ≥ 0, in units of the curvature; `None` for 0, and for 0.01 with `nystrom`,
            which cannot do without.
        curvature: "hessian" ("auto" is the same), or "gauss_newton" for a `composite_loss`: never
            negative, for weights that are not at a minimum, and biased even at one unless the
            residuals there are zero, of which `info.residual_norm` knows nothing.
        num_batches: How many of the last inner batches B and the mixed term are averaged over; at
            most num_steps are. A noisy B⁻¹ is biased: with small batches, average over many.
        key: Key of the solver's random vectors, which may be traced; if `None`, it comes from the
            key with which the hypergradient is called, and is a fixed one without.

    Cost:
        Memory: one training state, and five vectors like the weights for `conjugate_gradient`,
        three for `neumann_series`, 3 · rank for `nystrom`. Backward: one curvature product (two to
        three gradients) on `num_batches` batches for each iteration, and one more for the residual.
    Bias:
        Biased by the distance of w_T from an optimum of the batches used, by the damping, by what
        the solver left over, and by Gauss–Newton curvature where that is asked for. A model state
        is held fixed. Learning rates and initial weights do not act at an optimum, and are
        refused. `info.residual_norm` is the true
        ‖∂E/∂w − (B + ρI)x‖ / ‖∂E/∂w‖: near or above one, do not trust the hypergradient. Well
        above the tolerance with `info.num_iterations` below `max_iterations`, conjugate gradient
        met negative curvature and kept its best x so far: add damping, take Gauss–Newton
        curvature, or average over more batches.

    Raises:
        ValueError: On an unknown name or a value out of range.
        TypeError: On a count or number of the wrong type.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, lambda w, l2, x: jnp.sum((w - x) ** 2), optax.sgd(0.1))
        >>> method = dj.implicit(solver=dj.conjugate_gradient(max_iterations=20))
        >>> step = jax.jit(dj.hypergradient(problem, num_steps=50, method=method))
        >>> out = step(1.0, jnp.zeros(1), jnp.ones((50, 1)), jnp.ones(1))
        >>> round(float(out.grad), 4), int(out.info.num_iterations)  # w = 1/(1+l2)
        (0.25, 1)
    """
    if isinstance(solver, str):
        check_choice("implicit", "solver", solver, tuple(_SOLVERS))
        solve = _SOLVERS[solver]()
    elif callable(solver):
        solve = solver
    else:
        raise TypeError(f"implicit: `solver` must be a name or a LinearSolver, got {solver!r}")
    check_choice("implicit", "curvature", curvature, ("auto", *CURVATURES))
    check_count("implicit", "num_batches", num_batches)
    default = getattr(solve, "default_damping", 0.0)
    chosen = default if damping is None else damping
    least, above = (None, 0.0) if default > 0 else (0.0, None)
    check_number("implicit", "damping", chosen, least=least, above=above)
    return Implicit(solve, curvature, chosen, num_batches, hold_key("implicit", key))


def conjugate_gradient(*, max_iterations: int = 100, tolerance: float = 1e-5) -> ConjugateGradient:
    """Conjugate gradient (Hestenes and Stiefel 1952), stopped at the first negative curvature.

    Args:
        max_iterations: Largest number of iterations, one curvature product each.
        tolerance: The residual, relative to the right-hand side, at which it ends.

    Returns:
        A value for `implicit(solver=…)`.

    Raises:
        ValueError, TypeError: If a value is out of range or of the wrong type.

    Example:
        >>> import drmad_jax as dj
        >>> dj.implicit(solver=dj.conjugate_gradient(tolerance=1e-3)).solver.max_iterations
        100
    """
    return ConjugateGradient(max_iterations, tolerance)


def neumann_series(*, num_terms: int = 20, step_size: float | None = None) -> NeumannSeries:
    """The truncated Neumann series of the inverse (Lorraine et al. 2020, Alg. 3).

    Args:
        num_terms: Number K of terms, K − 1 curvature products.
        step_size: Its factor, below 2 over the largest curvature; with that of plain gradient
            descent it equals `truncated(num_reverse_steps=K, frozen=True)` on the same batch. If
            `None`, one over the largest curvature, estimated with ten products.

    Returns:
        A value for `implicit(solver=…)`.

    Raises:
        ValueError, TypeError: If a value is out of range or of the wrong type.

    Example:
        >>> import drmad_jax as dj
        >>> dj.implicit(solver=dj.neumann_series(num_terms=5)).solver.num_terms
        5
    """
    return NeumannSeries(num_terms, step_size)


def nystrom(*, rank: int = 20) -> Nystrom:
    """A low-rank stand-in for the curvature, inverted in closed form (Hataya and Yamada 2023).

    Args:
        rank: Number of random vectors, one curvature product each; they do not wait for one
            another.

    Returns:
        A value for `implicit(solver=…)`, which then needs damping.

    Raises:
        ValueError, TypeError: If `rank` is no positive Python int.

    Example:
        >>> import drmad_jax as dj
        >>> dj.implicit(solver=dj.nystrom(rank=10)).damping
        0.01
    """
    return Nystrom(rank)


def _widen(vector: PyTree) -> PyTree:
    """All leaves in one dtype, float32 or wider, in which a solver may add them up."""
    dtypes = [tree.accumulation_dtype(leaf.dtype) for leaf in jax.tree.leaves(vector)]
    dtype = max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)
    return jax.tree.map(lambda x: x.astype(dtype), vector)


def _largest_entry(vector: PyTree) -> Float[Array, ""]:
    return jax.tree.reduce(
        jnp.maximum, jax.tree.map(lambda x: jnp.max(jnp.abs(x), initial=0), vector)
    )


def _relative_norm(vector: PyTree, other: PyTree) -> Float[Array, ""]:
    """‖vector‖ / ‖other‖, zero where both are."""
    norm, scale = tree.squared_norm(vector), tree.squared_norm(other)
    return jnp.sqrt(norm / jnp.where(scale > 0, scale, 1))
