"""Finds functions in a loss whose derivative is a rule of their own.

Such a rule (`jax.custom_vjp`, `jax.custom_jvp`) may be anything: a reversed or clipped gradient,
one that goes straight through a rounding. What training follows is then no gradient of the loss,
its Jacobian need not be symmetric, and a curvature product must be its transpose.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_context
from jax.extend.core import jaxpr_as_fun, subjaxprs
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax._checks.warning import JAX

# Above this many entries in what it takes, a rule is not tried.
LARGEST = 2**24
# Of a tangent, by the rule and by differentiating the function itself.
TOLERANCE = 1e-3


def own_rules(function: Callable[..., PyTree], *arguments: PyTree) -> list[str]:
    """Names of the functions inside `function` that bring along a rule for their derivative.

    Of those under `jax.custom_jvp`, JAX's own and those whose rule is found to be the derivative
    are left out. A function under `jax.custom_vjp` counts whatever its rule: it cannot be
    differentiated forwards.

    Args:
        function: A pure function.
        *arguments: Where it is traced; only shapes and dtypes matter.

    Returns:
        Their names, each once.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from drmad_jax._checks.own_rules import own_rules
        >>> straight_through = jax.custom_jvp(lambda x: jnp.round(x))
        >>> rule = straight_through.defjvp(lambda x, t: (jnp.round(x[0]), t[0]))
        >>> own_rules(lambda x: jax.nn.relu(straight_through(x)), 1.0)
        ['<lambda>']
    """
    found = _found(jax.make_jaxpr(function)(*arguments).jaxpr)
    return list(dict.fromkeys(found))


def _found(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name.startswith("custom_vjp_call"):
            yield _source(equation)[0]
        elif name.startswith("custom_jvp_call"):
            function, file = _source(equation)
            if not file.startswith(JAX) and not _is_derivative(equation):
                yield function
    for inner in subjaxprs(jaxpr):
        yield from _found(inner)


def _source(equation: Any) -> tuple[str, str]:
    """The name of the function behind a rule, and the file that it is written in."""
    info = equation.params["call_jaxpr"].jaxpr.debug_info
    name, _, place = (info.func_src_info or "").partition(" at ")
    return name or "a function", place


def _is_derivative(equation: Any) -> bool:
    """Whether a forward rule agrees with the function's own derivative, at random inputs."""
    inputs = [x.aval for x in equation.invars]
    if sum(x.size for x in inputs) > LARGEST:
        return False
    body = equation.params["call_jaxpr"]
    by_itself = jaxpr_as_fun(body)
    # Of the equation alone, in the names that the function itself has for what it takes.
    alone = equation.replace(invars=body.jaxpr.invars)
    by_rule = jaxpr_as_fun(
        body.replace(jaxpr=body.jaxpr.replace(eqns=[alone], outvars=alone.outvars))
    )
    draws = np.random.default_rng(0)

    def draw(aval):
        shape, dtype = aval.shape, aval.dtype
        inexact = jnp.issubdtype(dtype, jnp.inexact)
        return jnp.asarray(draws.normal(size=shape) if inexact else np.ones(shape), dtype)

    def tangents(function, points, along):
        of_inexact = lambda *some: function(*tree.combine(some, points[1]))
        return tree.partition(jax.jvp(of_inexact, points[0], along)[1])[0]

    try:
        with eval_context(), jax.debug_nans(False):
            points, along = tree.partition(tuple(map(draw, inputs))), tuple(map(draw, inputs))
            along = tree.partition(along)[0]
            found = [jax.tree.leaves(tangents(f, points, along)) for f in (by_rule, by_itself)]
            pairs = zip(*found, strict=True)
            return all(np.allclose(a, b, TOLERANCE, TOLERANCE, equal_nan=True) for a, b in pairs)
    except Exception:
        # What cannot be tried is not trusted.
        return False
