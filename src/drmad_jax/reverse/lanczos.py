"""The flow dz/dτ = −K z by Lanczos, with the positive part of K's spectrum."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree


class Flow(NamedTuple):
    """Where the flow leads.

    Attributes:
        end: z(τ) at the end of the interval.
        integral: `(a, b) -> ∫ z dτ` from time a to time b.
        eigenvalues: Ritz values θ of K, before those below zero were set to zero, shape (m,).
        residual: Of K ∫z = z(0) − z(n), relative to z(0): what more products would change.
        curvatures: ⟨z, K z⟩/⟨z, z⟩ at both ends, shape (2,).
    """

    end: PyTree
    integral: Callable[[Array | float, Array | float], PyTree]
    eigenvalues: Float[Array, " m"]
    residual: Float[Array, ""]
    curvatures: Float[Array, "2"]


def positive_flow(
    product: Callable[[PyTree], PyTree],
    metric: PyTree,
    start: PyTree,
    length: Float[Array, ""] | float,
    *,
    num_products: int,
    decay: PyTree = None,
) -> Flow:
    """Follows dz/dτ = −K⁺ z from `start` for a time `length`.

    K must be self-adjoint in the inner product ⟨a, b⟩ = aᵀ P b, with P a diagonal that may have
    zeros: K = C P + D with a symmetric C. Lanczos' recursion in that inner product needs neither
    the root nor the inverse of P, so that entries with a tiny P do no harm. Its Ritz values θ
    that are negative are set to zero: along negative curvature z stays as it is, where the flow
    itself would grow without bound.

    z(n) ≈ ‖z‖ V Y e^{−nθ⁺} Yᵀ e₁ and ∫z ≈ ‖z‖ V Y ((1 − e^{−nθ⁺})/θ⁺) Yᵀ e₁, with V the basis and
    Y diag(θ) Yᵀ = Vᵀ P K V (Saad 1992).

    Entries without any P (frozen weights, signs of gradients, weights held at a bound) lie outside
    that inner product. They act on no other, and are followed apart: dz/dτ = −D z − (C P z), the
    latter from the others' space, its decay from the whole interval.

    Args:
        product: z ↦ K z.
        metric: The diagonal P ≥ 0, like `start`.
        start: z(0), any pytree of arrays of at least float32.
        length: Length n of the interval.
        num_products: Number m of products.
        decay: The diagonal D, of which K has its part, like `start`; none if `None`.

    Returns:
        A `Flow`.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.reverse.lanczos import positive_flow
        >>> scales = jnp.array([0.5, -2.0])
        >>> flow = positive_flow(
        ...     lambda z: scales * z, jnp.ones(2), jnp.ones(2), 2.0, num_products=2
        ... )
        >>> [round(x, 4) for x in flow.end.tolist()]  # exp(−1), and no growth along the second axis
        [0.3679, 1.0]
        >>> [round(x, 4) for x in flow.integral(0.0, 2.0).tolist()]
        [1.2642, 2.0]
    """
    inner = lambda a, b: tree.dot(a, jax.tree.map(jnp.multiply, metric, b))
    seen = _responding(metric, start)
    norm = jnp.sqrt(inner(seen, seen))
    # Where the metric sees nothing, nothing moves: any scale serves.
    scale = jnp.where(norm > 0, norm, 1)
    first = _scaled(seen, 1 / scale)
    basis, projected, beyond = _basis(product, metric, inner, first, num_products)
    values, vectors = jnp.linalg.eigh(projected)
    positive, weights = jnp.maximum(values, 0), scale * vectors[0]
    decay = tree.zeros_like(start) if decay is None else decay
    time = lambda t: jnp.asarray(t, values.dtype)

    total = lambda factors: _combination(vectors @ (factors * weights), basis)
    decayed = lambda a, width, rate: jnp.exp(-a * rate) * width * _mean_decay(width * rate)
    choose = lambda responding, others: jax.tree.map(
        lambda p, x, y: jnp.where(p > 0, x, y), metric, responding, others
    )

    def integral(a, b):
        a, width = time(a), time(b) - time(a)
        others = jax.tree.map(lambda z, d: decayed(a, width, d) * z, start, decay)
        return choose(total(decayed(a, width, positive)), others)

    length = time(length)
    driven = lambda z, d, drive: jnp.exp(-length * d) * z - _mean_decay(length * d) * drive
    others = jax.tree.map(driven, start, decay, total(decayed(0, length, positive)))
    end = choose(total(jnp.exp(-length * positive)), others)
    of_last = vectors[-1] @ (decayed(0, length, positive) * vectors[0])
    shares = jnp.stack([vectors[0] ** 2, (jnp.exp(-length * positive) * vectors[0]) ** 2])
    curvatures = shares @ values / jnp.sum(shares, axis=1)
    return Flow(end, integral, values, beyond * jnp.abs(of_last), curvatures)


def _responding(metric: PyTree, z: PyTree) -> PyTree:
    return jax.tree.map(lambda p, x: jnp.where(p > 0, x, 0), metric, z)


def _basis(
    product: Callable[[PyTree], PyTree],
    metric: PyTree,
    inner: Callable[[PyTree, PyTree], Array],
    first: PyTree,
    count: int,
) -> tuple[PyTree, Float[Array, "m m"], Float[Array, ""]]:
    """An orthonormal basis of the Krylov space, K in that basis, and how far it leads beyond it.

    Orthogonalised against all earlier vectors, twice: in float32 the three-term recursion alone
    loses orthogonality within a few steps, and finds eigenvalues twice. Entries that do not
    respond hold K v_j in place of v_j.
    """
    # No zeros: what is not made of anything is made, and held, long before it is needed.
    basis = jax.tree.map(lambda z: jnp.broadcast_to(z, (count, *z.shape)), first)
    places = jnp.arange(count)

    def extend(basis, index):
        put = lambda b, z, i: jax.lax.dynamic_update_index_in_dim(b, z, i, 0)
        row_at = lambda i: jax.tree.map(lambda b: b[i], basis)
        # The rows that are made: what the others hold is no part of it.
        made = lambda row: jnp.where(places <= index, row, 0)
        coefficients_of = lambda z: made(jax.vmap(lambda v: inner(v, z))(basis))
        vector = row_at(index)
        image = product(vector)
        row_of = lambda p, v, i: jnp.where(p > 0, v, i)
        own = jax.tree.map(row_of, metric, vector, image)
        basis = jax.tree.map(lambda b, z: put(b, z, index), basis, own)
        row = coefficients_of(image)
        rest = tree.add_scaled(image, -1, _combination(row, basis))
        again = coefficients_of(rest)
        rest = _responding(metric, tree.add_scaled(rest, -1, _combination(again, basis)))
        row = row + again
        norm = jnp.sqrt(inner(rest, rest))
        # Below the rounding error of what was subtracted, the space is exhausted.
        exhausted = norm <= 10 * jnp.finfo(row.dtype).eps * jnp.sqrt(jnp.sum(row**2) + norm**2)
        norm = jnp.where(exhausted, 0, norm)
        vector = _scaled(rest, jnp.where(exhausted, 0, 1 / jnp.where(exhausted, 1, norm)))
        following = jnp.minimum(index + 1, count - 1)
        keep = lambda b, z: put(b, jnp.where(index + 1 < count, z, b[following]), following)
        return jax.tree.map(keep, basis, vector), (row, norm)

    basis, (rows, norms) = jax.lax.scan(extend, basis, places)
    # Row j holds K v_j in terms of v_0 … v_j: the lower triangle, entry j of it the diagonal.
    lower = jnp.tril(rows, -1)
    return basis, lower + lower.T + jnp.diag(jnp.diag(rows)), norms[-1]


def _mean_decay(x: Float[Array, " m"]) -> Float[Array, " m"]:
    """(1 − e^{−x})/x, 1 at x = 0."""
    safe = jnp.where(x > 0, x, 1)
    return jnp.where(x > 0, -jnp.expm1(-safe) / safe, 1)


def _combination(coefficients: Float[Array, " m"], basis: PyTree) -> PyTree:
    # No matrix product: it may want the basis in another layout, a second copy of all of it. Row by
    # row, since a sum along the first axis is slow on a CPU.
    def sum_of(b):
        scale = coefficients.astype(b.dtype)
        return functools.reduce(jnp.add, (scale[j] * b[j] for j in range(len(b))))

    return jax.tree.map(sum_of, basis)


def _scaled(z: PyTree, scale: Array) -> PyTree:
    return jax.tree.map(lambda x: x * scale.astype(x.dtype), z)
