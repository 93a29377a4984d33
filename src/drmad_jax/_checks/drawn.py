"""Finds hyperparameters that decide random draws: of those a derivative sees a part at most.

A mask is drawn as `uniform < rate`, a category as the largest of logits with noise. Neither has a
derivative in what it is compared with, and JAX takes it for zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Literal, jaxprs_in_params
from jax.interpreters import partial_eval
from jaxtyping import Array, PyTree

# What a value depends on: names of hyperparameters, and these two.
DRAW, WEIGHTS = "the key", "the weights"
Sources = frozenset[str]
NONE: Sources = frozenset()
_COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}
_CHOICES = {"argmax", "argmin"}


def drawn_by(
    loss: Callable[[PyTree, PyTree, Array], Array], params: PyTree, hparams: PyTree, key: Array
) -> list[str]:
    """Names of the hyperparameters that are compared with something drawn, in what a loss is.

    Args:
        loss: `(params, hparams, key) -> scalar`.
        params: Where it is traced, as the others; only shapes and dtypes matter.
        hparams: Hyperparameters.
        key: What is drawn from.

    Returns:
        Their paths, as `jax.tree_util.keystr` writes them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from drmad_jax._checks.drawn import drawn_by
        >>> def loss(w, h, key):
        ...     kept = jax.random.bernoulli(key, 1 - h["rate"], w.shape)
        ...     noise = h["scale"] * jax.random.normal(key, w.shape)
        ...     return jnp.sum(jnp.where(kept, w, 0) / (1 - h["rate"]) + noise)
        >>> drawn_by(loss, jnp.ones(3), {"rate": 0.1, "scale": 0.2}, jax.random.key(0))
        ["['rate']"]
    """
    jaxpr = jax.make_jaxpr(loss)(params, hparams, key).jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(hparams)]
    sources = [WEIGHTS] * len(jax.tree.leaves(params)) + names + [DRAW] * len(jax.tree.leaves(key))
    found: set[str] = set()
    _follow(jaxpr, [frozenset({source}) for source in sources], found)
    return [name for name in names if name in found]


def _follow(jaxpr: Any, inputs: Sequence[Sources], found: set[str]) -> list[Sources]:
    """What the outputs depend on; adds to `found` what is compared with a draw on the way."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    read = lambda x: NONE if isinstance(x, Literal) else known.get(x, NONE)
    for equation in jaxpr.eqns:
        sources = [read(x) for x in equation.invars]
        name = equation.primitive.name
        if name in _COMPARISONS:
            for one, other in (sources, sources[::-1]):
                found.update(other - {DRAW, WEIGHTS} if one == {DRAW} else NONE)
        if name in _CHOICES and DRAW in sources[0] and WEIGHTS not in sources[0]:
            found.update(sources[0] - {DRAW})
        outputs = _INSIDE.get(name, _call)(equation, sources, found)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _call(equation: Any, sources: list[Sources], found: set[str]) -> list[Sources]:
    """Of a function inside, if there is one that takes what the equation does."""
    inner = [x for x in jaxprs_in_params(equation.params) if len(x.invars) == len(sources)]
    if len(inner) == 1 and len(inner[0].outvars) == len(equation.outvars):
        return _follow(inner[0], sources, found)
    return [frozenset().union(*sources)] * len(equation.outvars)


def _scan(equation: Any, sources: list[Sources], found: set[str]) -> list[Sources]:
    first, count = equation.params["num_consts"], equation.params["num_carry"]
    (body,) = jaxprs_in_params(equation.params)
    carry = sources[first : first + count]
    while True:
        outputs = _follow(body, [*sources[:first], *carry, *sources[first + count :]], found)
        more = [old | new for old, new in zip(carry, outputs[:count], strict=True)]
        if more == carry:
            return outputs
        carry = more


def _while(equation: Any, sources: list[Sources], found: set[str]) -> list[Sources]:
    of_cond, of_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    condition, body = equation.params["cond_jaxpr"].jaxpr, equation.params["body_jaxpr"].jaxpr
    carry = sources[of_cond + of_body :]
    while True:
        _follow(condition, [*sources[:of_cond], *carry], found)
        outputs = _follow(body, [*sources[of_cond : of_cond + of_body], *carry], found)
        more = [old | new for old, new in zip(carry, outputs, strict=True)]
        if more == carry:
            return more
        carry = more


def _cond(equation: Any, sources: list[Sources], found: set[str]) -> list[Sources]:
    branches = [_follow(b.jaxpr, sources[1:], found) for b in equation.params["branches"]]
    return [sources[0].union(*each) for each in zip(*branches, strict=True)]


_INSIDE = {"scan": _scan, "while": _while, "cond": _cond}
