"""How an optimizer answers a lasting change of the gradient: its linear response."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree

# (gradient, opt_state, params) -> (update, opt_state)
Update = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]

# Terms of the response that are computed; the rest of the geometric series is extrapolated.
NUM_TERMS = 8


class Response(NamedTuple):
    """Diagonals like the parameters, in at least float32.

    Attributes:
        to_gradient: P, by how much one step moves against a gradient that has long been larger by
            one: α/(1 − γ) for momentum, about α/√v for Adam.
        to_params: D, the part of itself that a weight loses in one step whatever its gradient: αλ
            for decoupled weight decay.
    """

    to_gradient: PyTree
    to_params: PyTree


def mean_response(update: Update, opt_state: PyTree, grads: PyTree, params: PyTree) -> Response:
    """The response of an optimizer near one of its states.

    A lasting change δ of the gradient moves step j by ∂u_j/∂g δ + Σ_{i<j} ∂u_j/∂s ∂s_j/∂g_i δ. Its
    terms come from `jax.jvp` of the optimizer's update with gradient and state held where they are,
    and the limit from their geometric decay, leaf by leaf. δ has signs without a pattern, so that
    the entries of an optimizer that does not act entry by entry (clipping by a norm) do not mix.

    Args:
        update: The optimizer's update.
        opt_state: Where it is differentiated.
        grads: The gradient there: that of one minibatch, since clipping looks at its norm.
        params: The weights there.

    Returns:
        A `Response`. Entries without a finite derivative (Adam's square root at zero) have none.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from drmad_jax.reverse.optimizer_response import mean_response
        >>> optimizer, w = optax.sgd(0.1, momentum=0.9), jnp.ones(2)
        >>> response = mean_response(optimizer.update, optimizer.init(w), w, w)
        >>> response.to_gradient.round(4).tolist()  # 0.1 / (1 − 0.9)
        [1.0, 1.0]
    """
    # In half precision the small differences of a geometric decay would be rounding.
    inexact, rest = tree.partition(opt_state)
    inexact, params = tree.widen(inexact), tree.widen(params)
    grads, signs = tree.cast_like(grads, params), _signs(params)

    def step(grads, inexact, params):
        # The hyperparameters inside the optimizer keep their own precision.
        with jax.numpy_dtype_promotion("standard"):
            updates, new = update(grads, tree.combine(inexact, rest), params)
        new = tree.cast_like(tree.partition(new)[0], inexact)
        return tree.cast_like(updates, params), new

    def respond(d_state, _):
        tangents = (signs, d_state, tree.zeros_like(params))
        d_updates, d_state = jax.jvp(step, (grads, inexact, params), tangents)[1]
        return d_state, d_updates

    _, responses = jax.lax.scan(respond, tree.zeros_like(inexact), None, length=NUM_TERMS)
    limit = jax.tree.map(lambda r, s: -geometric_limit(r) * s, responses, signs)
    own = lambda p: step(grads, inexact, p)[0]
    d_own = jax.jvp(own, (params,), (signs,))[1]
    decay = jax.tree.map(lambda d, s: -d * s, d_own, signs)
    finite = lambda x: jnp.where(jnp.isfinite(x), x, 0)
    return jax.tree.map(finite, Response(limit, decay))


def handed_on(update: Callable[[PyTree], PyTree], opt_state: PyTree) -> PyTree:
    """Which leaves of its state an optimizer hands on as they are, read off its trace.

    Args:
        update: Old state to new state.
        opt_state: Where it is traced; only shapes and dtypes matter.

    Returns:
        A bool for each leaf.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from drmad_jax.reverse.optimizer_response import handed_on
        >>> w, sgd = jnp.ones(2), optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
        >>> handed_on(lambda s: sgd.update(w, s, w)[1], sgd.init(w)).hyperparams
        {'learning_rate': True}
    """
    jaxpr = jax.make_jaxpr(update)(opt_state).jaxpr
    same = [new is old for new, old in zip(jaxpr.outvars, jaxpr.invars, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(opt_state), same)


def geometric_limit(terms: Float[Array, "n ..."]) -> Float[Array, "..."]:
    """The limit of a sequence whose differences shrink by one common factor (Aitken).

    One factor for the whole leaf: entry by entry it would be a quotient of noise.
    """
    differences = jnp.where(jnp.isfinite(terms), terms, 0)
    differences = differences[1:] - differences[:-1]
    last, before = differences[-1], differences[-2]
    squared = jnp.sum(before**2)
    ratio = jnp.sum(last * before) / jnp.where(squared > 0, squared, 1)
    # A momentum above .9999 is taken for that.
    ratio = jnp.clip(ratio, 0, 0.9999)
    return terms[-1] + last * ratio / (1 - ratio)


def _signs(like: PyTree) -> PyTree:
    """Signs without a pattern, from a hash of each entry's number.

    `jax.random` would do as well, but compiles into a long program for every leaf.
    """
    leaves, structure = jax.tree.flatten(like)

    def draw(index, leaf):
        number = jax.lax.iota(jnp.uint32, leaf.size) + jnp.uint32(index * 0x61C88647 % 2**32)
        mixed = (number ^ (number >> 16)) * jnp.uint32(0x7FEB352D)
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x846CA68B)
        heads = (mixed >> 31).reshape(leaf.shape)
        return jnp.where(heads == 1, jnp.ones_like(leaf), -jnp.ones_like(leaf))

    return jax.tree.unflatten(structure, list(map(draw, range(len(leaves)), leaves)))
