"""How near a hypergradient is to the exact one, and to what tuning needs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree


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

    Raises:
        ValueError: If the two differ in structure or shapes.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> found = dj.agreement(jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0]))
        >>> [round(float(x), 3) for x in found]
        [0.707, 1.414, 0.5]
    """
    _check_alike("agreement", grad, reference)
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


def agreement_with_other_seeds(grads: PyTree, references: PyTree) -> Agreement:
    """How each seed's hypergradient agrees with the mean reference over the other seeds.

    Tuning follows the expected hypergradient, of which that of one seed is a noisy sample, the
    exact one no less. These numbers say how good a sample it is; compare a method's with those of
    the exact method, `agreement_with_other_seeds(exact, exact)`.

    Args:
        grads: Hypergradients of one method, leading axis n ≥ 2, one entry per seed.
        references: Exact hypergradients of the same seeds. Seeds where they are not finite are
            left out of the means.

    Returns:
        An `Agreement` of arrays of shape (n,), NaN where the seed's own hypergradient is not
        finite.

    Raises:
        ValueError: With fewer than two seeds, or if the two differ in structure or shapes.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> exact = jnp.array([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0]])
        >>> found = dj.agreement_with_other_seeds(exact, exact)  # means (1, -.5), (1, .5), (1, 0)
        >>> [round(float(cosine), 3) for cosine in found.cosine]
        [0.316, 0.316, 1.0]
    """
    _check_alike("agreement_with_other_seeds", grads, references)
    flatten = jax.vmap(lambda grad: ravel_pytree(grad)[0])
    grads, references = flatten(grads), flatten(references)
    count = references.shape[0]
    if count < 2:
        raise ValueError(f"agreement_with_other_seeds: needs at least two seeds, got {count}")
    usable = jnp.all(jnp.isfinite(references), axis=1, keepdims=True)
    references = jnp.where(usable, references, 0)
    # Not the sum over all less the seed's own: one of them may be larger by many orders.
    weights = (1 - jnp.eye(count, dtype=references.dtype)) * usable.T.astype(references.dtype)
    num_others = jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1)
    return jax.vmap(agreement)(grads, jnp.dot(weights / num_others, references))


def _check_alike(where: str, grad: PyTree, reference: PyTree) -> None:
    shapes = [jax.tree.map(jnp.shape, x) for x in (grad, reference)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{where}: both must have the same structure and shapes, got {shapes[0]} and "
            f"{shapes[1]}"
        )


def _unit(vector: PyTree) -> tuple[Float[Array, " m"], Float[Array, ""]]:
    """A pytree as one vector of length one (or zero), and its norm."""
    flat, _ = ravel_pytree(vector)
    flat = flat.astype(tree.accumulation_dtype(flat.dtype))
    # The squares of a hypergradient that has exploded would overflow long before itself does.
    scale = jnp.max(jnp.abs(flat), initial=0)
    scaled = flat / jnp.where(scale > 0, scale, 1)
    norm = jnp.sqrt(jnp.sum(jnp.square(scaled)))
    return scaled / jnp.where(norm > 0, norm, 1), scale * norm
