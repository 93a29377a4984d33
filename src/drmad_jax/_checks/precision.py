"""Finds weights and losses with too few bits to be differentiated twice."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.warning import warn

FEWEST_BITS = 32


def warn_of_few_bits(params: PyTree, loss: Callable[[PyTree], Array]) -> None:
    """Warns of weights, or of a loss, below float32.

    A hypergradient differentiates the gradient once more. With the eight bits of a bfloat16 the
    weights' steps and differences of gradients round away: products of their curvature have been
    found with a cosine of −.4 to the true ones. With weights and the loss's value in float32 and a
    model that computes in bfloat16 they are right to that model's own rounding.

    Args:
        params: Weights; only structure, shapes and dtypes matter.
        loss: The inner loss as a function of them; traced.

    Example:
        >>> import jax.numpy as jnp, warnings
        >>> from drmad_jax._checks.precision import warn_of_few_bits
        >>> loss = lambda w: jnp.sum(w["a"].astype(jnp.bfloat16) ** 2)
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     warn_of_few_bits({"a": jnp.ones(2)}, loss)
        ...     warn_of_few_bits({"a": jnp.ones(2)}, lambda w: loss(w).astype(jnp.float32))
        >>> [str(x.message).split(":")[0] for x in caught]
        ['the inner loss is a bfloat16']
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    few = [f"`params{jax.tree_util.keystr(p)}` ({x.dtype})" for p, x in leaves if _is_coarse(x)]
    if few:
        warn(
            f"weights below float32, {', '.join(few)}: a hypergradient differentiates the gradient "
            "once more, of which rounding may leave nothing, wrong signs included. Keep the "
            "weights in float32, and let the loss cast them, such as "
            "jax.tree.map(lambda w: w.astype(jax.numpy.bfloat16), params)"
        )
        return
    value = jax.eval_shape(loss, params)
    if _is_coarse(value):
        warn(
            f"the inner loss is a {value.dtype}: what is left of it after two derivatives may be "
            "rounding alone, wrong signs included. Let the model compute in lower precision, but "
            "cast its outputs to float32 before the loss is taken of them"
        )


def _is_coarse(x: Array | jax.ShapeDtypeStruct) -> bool:
    dtype = jnp.result_type(x)
    return tree.is_inexact(x) and jnp.finfo(dtype).bits < FEWEST_BITS
