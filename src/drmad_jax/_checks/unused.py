"""Which leaves of a pytree a function depends on, read off its jaxpr."""

from collections.abc import Callable

import jax
from jax.interpreters import partial_eval
from jaxtyping import PyTree


def unused_leaves(function: Callable[[PyTree], PyTree], argument: PyTree) -> list[str]:
    """Names of the leaves of `argument` on which no output of `function` depends.

    Args:
        function: A pure function of one pytree.
        argument: Where it is traced; only shapes and dtypes matter.

    Returns:
        The paths of the leaves without influence, as `jax.tree_util.keystr` writes them.

    Example:
        >>> from drmad_jax._checks.unused import unused_leaves
        >>> unused_leaves(lambda h: h["a"] * 2, {"a": 1.0, "b": 2.0})
        ["['b']"]
    """
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(argument)]
    pairs = zip(paths, used, strict=True)
    return [jax.tree_util.keystr(path) for path, is_used in pairs if not is_used]
