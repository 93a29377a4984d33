"""Which leaves of a pytree a function depends on, read off its jaxpr."""

from collections.abc import Callable

import jax
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
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(argument)]
    names = map(jax.tree_util.keystr, paths)
    return list(zip(names, used, strict=True))
