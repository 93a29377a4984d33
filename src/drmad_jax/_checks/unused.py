"""Which leaves of a pytree a function depends on, read off its jaxpr."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval
from jaxtyping import PyTree


def used_leaves(function: Callable[[PyTree], PyTree], argument: PyTree) -> list[str]:
    """Names of the leaves of `argument` on which an output of `function` depends.

    Args:
        function: A pure function of one pytree.
        argument: Where it is traced; only shapes and dtypes matter.

    Returns:
        Their paths, as `jax.tree_util.keystr` writes them.

    Example:
        >>> from drmad_jax._checks.unused import used_leaves
        >>> used_leaves(lambda h: h["a"] * 2, {"a": 1.0, "b": 2.0})
        ["['a']"]
    """
    return [name for name, is_used in _usage(function, argument) if is_used]


def unused_leaves(function: Callable[[PyTree], PyTree], argument: PyTree) -> list[str]:
    """Names of the leaves of `argument` on which no output of `function` depends.

    As `used_leaves`, but for the others.

    Example:
        >>> from drmad_jax._checks.unused import unused_leaves
        >>> unused_leaves(lambda h: h["a"] * 2, {"a": 1.0, "b": 2.0})
        ["['b']"]
    """
    return [name for name, is_used in _usage(function, argument) if not is_used]


def _usage(function: Callable[[PyTree], PyTree], argument: PyTree) -> list[tuple[str, bool]]:
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    leaves = zip(jax.tree_util.tree_leaves_with_path(argument), used, strict=True)
    # Nothing depends on a leaf without entries, and nothing is lost.
    return [(jax.tree_util.keystr(p), is_used) for (p, x), is_used in leaves if jnp.size(x)]
