"""Solvers of A x = b on pytrees, where A is known only by its products.

Written here because no library has all that is needed: lineax's conjugate gradient wants a matrix
that is definite and goes on through negative curvature, `jax.scipy`'s does not report how it
ended, and neither library has the Neumann series or the Nyström method.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_count, check_number

Product = Callable[[PyTree], PyTree]


class LinearSolver(Protocol):
    """A solver, a frozen value; one's own can be handed to `drmad_jax.implicit(solver=...)`.

    One that cannot do without damping says so by an attribute `default_damping` above zero.
    """

    def __call__(
        self, product: Product, rhs: PyTree, *, damping: float, key: Array
    ) -> tuple[PyTree, Int[Array, ""]]:
        """An approximate solution of (A + damping · I) x = rhs, and the number of iterations.

        Args:
            product: v ↦ A v, linear, A symmetric; like `rhs`.
            rhs: The right-hand side, any pytree of arrays of one dtype.
            damping: Added to the diagonal.
            key: For solvers that draw random vectors.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ConjugateGradient:
    """Conjugate gradient (Hestenes and Stiefel 1952), stopped at the first negative curvature.

    r ← r − α A p, p ← r + β p with α = ‖r‖²/pᵀA p and β = ‖r_new‖²/‖r‖². A direction with
    pᵀA p ≤ 0 says that A is not positive definite, and the steps before it may have been huge.
    Returned is the x of the smallest residual, zero being the first.

    Attributes:
        max_iterations: Largest number of iterations, one product each.
        tolerance: Ends when ‖r‖ ≤ tolerance · ‖rhs‖.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from drmad_jax.methods.linear_solve import ConjugateGradient
        >>> solve = ConjugateGradient()
        >>> scales, key = jnp.array([1.0, 4.0]), jax.random.key(0)
        >>> x, n = solve(lambda v: scales * v, jnp.array([1.0, 2.0]), damping=0.0, key=key)
        >>> x.round(4).tolist(), int(n)
        ([1.0, 0.5], 2)
    """

    max_iterations: int = 100
    tolerance: float = 1e-5

    def __post_init__(self):
        check_count("implicit", "max_iterations", self.max_iterations)
        check_number("implicit", "tolerance", self.tolerance, least=0.0)

    def __call__(
        self, product: Product, rhs: PyTree, *, damping: float, key: Array
    ) -> tuple[PyTree, Int[Array, ""]]:
        """The solution and the number of iterations."""
        multiply = _damped(product, damping)
        squared = tree.dot(rhs, rhs)
        goal = self.tolerance**2 * squared

        def unfinished(carry):
            *_, squared, count, positive, _ = carry
            return positive & (squared > goal) & (count < self.max_iterations)

        def iterate(carry):
            x, residual, direction, squared, count, _, best = carry
            image = multiply(direction)
            curvature = tree.dot(direction, image)
            # Both comparisons let NaN through to the solution, hence to `info.finite`.
            positive = ~(curvature <= 0)
            step = jnp.where(positive, squared / jnp.where(positive, curvature, 1), 0)
            x, residual = (
                tree.add_scaled(x, step, direction),
                tree.add_scaled(residual, -step, image),
            )
            new = tree.dot(residual, residual)
            direction = tree.add_scaled(residual, new / squared, direction)
            worse = new > best[1]
            best = jax.tree.map(lambda a, b: jnp.where(worse, b, a), (x, new), best)
            return x, residual, direction, new, count + 1, positive, best

        zeros = tree.zeros_like(rhs)
        start = (zeros, rhs, rhs, squared, jnp.int32(0), jnp.array(True), (zeros, squared))
        *_, count, _, (best, _) = jax.lax.while_loop(unfinished, iterate, start)
        return best, count


@dataclasses.dataclass(frozen=True)
class NeumannSeries:
    """The truncated series A⁻¹ ≈ α Σ_{j<K} (I − αA)ʲ (Lorraine et al. 2020, Alg. 3).

    Attributes:
        num_terms: Number K of terms, K − 1 products.
        step_size: The factor α, which must be below 2 over the largest eigenvalue; `None`
            estimates that eigenvalue by ten steps of power iteration and takes its inverse.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from drmad_jax.methods.linear_solve import NeumannSeries
        >>> solve = NeumannSeries(num_terms=3, step_size=0.5)
        >>> x, n = solve(lambda v: v, jnp.array(1.0), damping=0.0, key=jax.random.key(0))
        >>> float(x), int(n)  # 1/2 + 1/4 + 1/8
        (0.875, 3)
    """

    num_terms: int = 20
    step_size: float | None = None

    def __post_init__(self):
        check_count("implicit", "num_terms", self.num_terms)
        if self.step_size is not None:
            check_number("implicit", "step_size", self.step_size, above=0.0)

    def __call__(
        self, product: Product, rhs: PyTree, *, damping: float, key: Array
    ) -> tuple[PyTree, Int[Array, ""]]:
        """The sum and the number of its terms."""
        multiply = _damped(product, damping)
        step: Array | float | None = self.step_size
        if step is None:
            step = 1 / _largest_eigenvalue(multiply, rhs, key)

        def add_term(_, carry):
            total, term = carry
            term = tree.add_scaled(term, -step, multiply(term))
            return tree.add_scaled(total, 1, term), term

        total, _ = jax.lax.fori_loop(0, self.num_terms - 1, add_term, (rhs, rhs))
        return tree.add_scaled(tree.zeros_like(rhs), step, total), jnp.int32(self.num_terms)


@dataclasses.dataclass(frozen=True)
class Nystrom:
    """A low-rank stand-in for A, inverted in closed form (Hataya and Yamada 2023).

    A ≈ B Bᵀ = (AΩ)(ΩᵀAΩ)⁺(AΩ)ᵀ with k random vectors Ω, and by Woodbury's identity
    (B Bᵀ + ρI)⁻¹ b = (b − B (ρI + BᵀB)⁻¹ Bᵀb) / ρ. Its products do not wait for one another, as
    those of the other solvers do. Two departures from the paper: Ω is Gaussian where the paper
    takes k random coordinates, which halves the residual on a small network at k = 10 to 50
    (Frangella et al. 2023 give the theory); and directions of negative curvature are dropped.

    Attributes:
        rank: Number k of random vectors, one product each.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from drmad_jax.methods.linear_solve import Nystrom
        >>> scales, key = jnp.array([1.0, 3.0]), jax.random.key(0)
        >>> x, n = Nystrom(rank=2)(lambda v: scales * v, jnp.ones(2), damping=1.0, key=key)
        >>> x.round(3).tolist(), int(n)
        ([0.5, 0.25], 2)
    """

    rank: int = 20

    # It divides by the damping.
    default_damping: ClassVar[float] = 0.01

    def __post_init__(self):
        check_count("implicit", "rank", self.rank)

    def __call__(
        self, product: Product, rhs: PyTree, *, damping: float, key: Array
    ) -> tuple[PyTree, Int[Array, ""]]:
        """The solution and the number of products."""
        check_number("implicit", 'damping` with solver="nystrom', damping, above=0.0)
        probes = _normal_like(rhs, key, (self.rank,))
        images = jax.lax.map(product, probes)
        factor = _inverse_square_root(_gram(probes, images))
        basis = jax.tree.map(lambda y: _contract(factor.T, y), images)
        inner = _gram(basis, basis)
        inner = inner + damping * jnp.eye(self.rank, dtype=inner.dtype)
        projected = _gram(basis, jax.tree.map(lambda b: b[None], rhs))
        coefficients = jnp.linalg.solve(inner, projected).T
        removed = jax.tree.map(lambda y: _contract(coefficients, y)[0], basis)
        x = jax.tree.map(lambda b, r: (b - r) / damping, rhs, removed)
        return x, jnp.int32(self.rank)


def _damped(product: Product, damping: float) -> Product:
    return product if damping == 0 else lambda v: tree.add_scaled(product(v), damping, v)


def _largest_eigenvalue(product: Product, like: PyTree, key: Array) -> Float[Array, ""]:
    """‖A v‖ after power iteration: below the largest |eigenvalue|, by far less than half."""

    def iterate(_, vector):
        scale = 1 / jnp.sqrt(tree.dot(vector, vector))
        return product(jax.tree.map(lambda v: v * scale, vector))

    image = jax.lax.fori_loop(0, 10, iterate, _normal_like(like, key, ()))
    return jnp.sqrt(tree.dot(image, image))


def _inverse_square_root(core: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """F with F Fᵀ the pseudo-inverse of the positive part."""
    values, vectors = jnp.linalg.eigh((core + core.T) / 2)
    # Below the rounding error of the largest, an eigenvalue is noise of either sign.
    cutoff = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    kept = values > cutoff
    scale = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
    return vectors * scale[None]


def _normal_like(like: PyTree, key: Array, leading: tuple[int, ...]) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))

    def draw(key, leaf):
        return tree.placed_like(jax.random.normal(key, (*leading, *leaf.shape), leaf.dtype), leaf)

    return jax.tree.unflatten(structure, list(map(draw, keys, leaves)))


def _contract(matrix: Array, stacked: Array) -> Array:
    return jnp.tensordot(matrix, stacked, axes=1, precision=jax.lax.Precision.HIGHEST)


def _gram(first: PyTree, second: PyTree) -> Float[Array, "k l"]:
    """The inner products between two stacks of vectors."""

    def gram(a, b):
        inner = list(range(2, a.ndim + 1))
        # Where entries lie on several devices, the sharding of the result has to be said.
        return jnp.einsum(
            a, [0, *inner], b, [1, *inner], [0, 1],
            precision=jax.lax.Precision.HIGHEST, out_sharding=tree.replicated(a),
        )  # fmt: skip

    return jax.tree.reduce(jnp.add, jax.tree.map(gram, first, second))
