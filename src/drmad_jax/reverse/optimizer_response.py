"""How an optimizer answers a lasting change of the gradient: its update, transposed."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree

# (gradient, opt_state, params) -> (update, opt_state)
Update = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]

# A geometric series is known from its terms 1, 1 + STRIDE and 1 + 2 STRIDE.
STRIDE = 8


class Transposed(NamedTuple):
    """What an update gives back to what went in.

    Attributes:
        hparams: Like the hyperparameters.
        grads: Like the parameters.
        opt_state: Like the optimizer's state, `None` where that is not floating point.
        params: Like the parameters.
    """

    hparams: PyTree
    grads: PyTree
    opt_state: PyTree
    params: PyTree


def transposed_update(
    update: Callable[[PyTree], Update],
    hparams: PyTree,
    opt_state: PyTree,
    grads: PyTree,
    params: PyTree,
) -> Callable[..., Transposed]:
    """The transposed derivative of an optimizer's update, in at least float32.

    Args:
        update: Hyperparameters to the optimizer's update.
        hparams: Hyperparameters.
        opt_state: Where it is differentiated.
        grads: The gradient there.
        params: The weights there.

    Returns:
        Cotangents of the update and of the new state (`None` for none) to a `Transposed`. Entries
        without a finite derivative (Adam's square root at zero) have none.
    """
    # In half precision the small differences of a geometric decay would be rounding.
    inexact, rest = tree.partition(opt_state)
    inexact, params = tree.widen(inexact), tree.widen(params)

    def step(hparams, grads, inexact, params):
        # The hyperparameters inside the optimizer keep their own precision.
        with jax.numpy_dtype_promotion("standard"):
            updates, new = update(hparams)(grads, tree.combine(inexact, rest), params)
        new = tree.cast_like(tree.partition(new)[0], inexact)
        return tree.cast_like(updates, params), new

    grads = tree.cast_like(grads, params)

    def transposed(d_updates, d_state=None):
        # Differentiated anew by each call: what the derivative reads is soon computed, and held it
        # would be several more vectors like the weights.
        at = (grads, inexact, params), tree.cast_like(d_updates, params)
        at, d_updates = together(at, d_state)
        pull = jax.vjp(step, hparams, *at)[1]
        d_state = tree.zeros_like(inexact) if d_state is None else tree.cast_like(d_state, inexact)
        d_hparams, *others = pull((d_updates, d_state))
        finite = lambda x: jnp.where(jnp.isfinite(x), x, 0)
        return Transposed(d_hparams, *jax.tree.map(finite, others))

    return transposed


def together(x: PyTree, other: PyTree) -> PyTree:
    """The same x, but not before the other: in a loop's body, if that is of its step.

    What in a loop's body is the same at each step, XLA computes before the loop and holds, mostly
    as vectors like the weights: more memory than time.
    """
    return jax.lax.optimization_barrier((x, other))[0]


class Memory(NamedTuple):
    """How long each leaf of an optimizer's state remembers: its cotangent's geometric series.

    A leaf's cotangent s̄ goes back by one step as s̄ ← ρ s̄ + c.

    Attributes:
        kept: ρ: γ for a trace, 1 for what is only handed on.
        gain: How much larger c is than what the update gives to the leaf at once, since leaves of
            the state act on each other; 1 where they do not.
    """

    kept: PyTree
    gain: PyTree

    def amplified(self, given: PyTree) -> PyTree:
        """What the update gives to each leaf, by way of the others, too."""
        return jax.tree.map(jnp.multiply, self.gain, given)

    def before(self, length: Array | float, after: PyTree, given: PyTree) -> PyTree:
        """The cotangent `length` steps earlier, each of which gives `given` to it."""
        return self._combined(lambda x, n: (jnp.exp(-x * n), _sum(x, n)), length, after, given)

    def during(self, length: Array | float, after: PyTree, given: PyTree) -> PyTree:
        """Its mean over these steps, each counted with what comes from the later ones."""

        def factors(x, n):
            share = _sum(x, n) / n
            # Where nothing is forgotten, half of all steps come later; a series, since differences
            # would be rounding.
            series = (n - 1) / 2 * (1 - (n - 2) * x / 3 * (1 - (n - 1) * x / 4))
            forgotten = jnp.where(x > 0, -jnp.expm1(-x), 1)
            return share, jnp.where(x * n < 1e-2, series, (1 - share) / forgotten)

        return self._combined(factors, length, after, given)

    def _combined(self, factors, length, after, given):
        def of_leaf(kept, after, given):
            first, second = factors(_rate(kept), jnp.asarray(length, kept.dtype))
            return first * after + second * given

        return jax.tree.map(of_leaf, self.kept, after, given)


def _rate(kept: Array) -> Array:
    return -jnp.log(jnp.maximum(kept, 1e-30))


def _sum(x: Array, length: Array) -> Array:
    """Σ e^(−jx) over j below `length`."""
    return jnp.where(x > 0, jnp.expm1(-x * length) / jnp.expm1(-jnp.where(x > 0, x, 1)), length)


def memory(transposed: Callable[..., Transposed], params: PyTree) -> Memory:
    """The memory of an optimizer near one of its states.

    From the cotangent that a lasting one of the updates, with signs without a pattern, gives to the
    state, step after step: one ratio for a whole leaf, since entry by entry it would be a quotient
    of noise.

    Args:
        transposed: A `transposed_update` at that state and the mean gradient there: what remembers
            gradients meets those of other steps.
        params: The weights.

    Returns:
        A `Memory`, scalars for each leaf of the state.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from drmad_jax.reverse.optimizer_response import memory, transposed_update
        >>> w = jnp.ones(3)
        >>> optimizer = optax.sgd(0.1, momentum=0.9)
        >>> state = optimizer.init(w)
        >>> transposed = transposed_update(lambda h: optimizer.update, None, state, w, w)
        >>> [round(float(x), 4) for x in jax.tree.leaves(memory(transposed, w))]
        [0.9, 1.0]
    """
    signs = random_signs(tree.widen(params))

    def back(d_state):
        return transposed(signs, d_state).opt_state

    first, middle, last = geometric_terms(back, back(None))

    def gain(kept, first, last):
        squared = jnp.sum(first**2)
        total = jnp.sum(first * last) / jnp.where(squared > 0, squared, 1)
        return jnp.where(
            squared > 0, total / _sum(_rate(kept), jnp.asarray(1 + 2 * STRIDE, kept.dtype)), 1
        )

    kept = jax.tree.map(lambda *terms: _ratio(*terms) ** (1 / STRIDE), first, middle, last)
    return Memory(kept, jax.tree.map(gain, kept, first, last))


class Response(NamedTuple):
    """Diagonals like the parameters, in at least float32.

    Attributes:
        to_gradient: P, by how much one step moves against a gradient that has long been larger by
            one: α/(1 − γ) for momentum, about α/√v for Adam.
        to_params: D, the part of itself that a weight loses in one step whatever its gradient: αλ
            for decoupled weight decay. `None` where updates do not read the weights.
    """

    to_gradient: PyTree
    to_params: PyTree = None


def mean_response(
    memory: Memory,
    length: Array | float,
    at_mean: Callable[..., Transposed],
    at_batch: Callable[..., Transposed],
    params: PyTree,
    *,
    decays: bool = True,
) -> Response:
    """The response of an optimizer near one of its states to what has lasted for some steps.

    A lasting cotangent, with signs without a pattern: the entries of an optimizer that does not act
    entry by entry (clipping by a norm) then do not mix.

    Args:
        memory: Of the optimizer's state.
        length: For how many steps the gradient has been another.
        at_mean: A `transposed_update` at the mean gradient.
        at_batch: The same at the gradient of one minibatch, since clipping looks at its norm.
        params: The weights.
        decays: Whether the update reads the weights.

    Returns:
        A `Response`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from drmad_jax.reverse import optimizer_response as responses
        >>> w = jnp.ones(2)
        >>> optimizer = optax.sgd(0.1, momentum=0.9)
        >>> state = optimizer.init(w)
        >>> at = responses.transposed_update(lambda h: optimizer.update, None, state, w, w)
        >>> response = responses.mean_response(responses.memory(at, w), 1e3, at, at, w)
        >>> response.to_gradient.round(4).tolist()  # 0.1 / (1 − 0.9)
        [1.0, 1.0]
    """
    signs = random_signs(tree.widen(params))
    given = memory.amplified(at_mean(signs).opt_state)
    lasting = memory.before(length, tree.zeros_like(given), given)
    back = at_batch(signs, lasting)
    along = lambda x: jax.tree.map(lambda d, s: -d * s, x, signs)
    return Response(along(back.grads), along(at_batch(signs).params) if decays else None)


def geometric_terms(back: Callable[[PyTree], PyTree], first: PyTree) -> tuple[PyTree, ...]:
    """Partial sums of a series that `back` makes longer by one: of 1, 1 + k and 1 + 2k terms."""
    again = lambda _, x: back(x)
    middle = jax.lax.fori_loop(0, STRIDE, again, first)
    return first, middle, jax.lax.fori_loop(0, STRIDE, again, middle)


def geometric_limit(back: Callable[[PyTree], PyTree], zeros: PyTree) -> PyTree:
    """The limit of a series whose terms shrink by one common factor (Aitken), leaf by leaf."""

    def of_leaf(first, middle, last):
        # What is kept for more than ten thousand steps is taken for that.
        ratio = jnp.minimum(_ratio(first, middle, last), 0.9999**STRIDE)
        return last + (last - middle) * ratio / (1 - ratio)

    return jax.tree.map(of_leaf, *geometric_terms(back, back(zeros)))


def _ratio(first: Array, middle: Array, last: Array) -> Float[Array, ""]:
    """By which differences shrink; one for the whole leaf."""
    # Two differences, so that neither is held.
    squared = jnp.sum((first - middle) ** 2)
    ratio = jnp.sum((last - middle) * (middle - first)) / jnp.where(squared > 0, squared, 1)
    return jnp.clip(ratio, 0, 1)


def random_signs(like: PyTree) -> PyTree:
    """Signs without a pattern, from a hash of each entry's number.

    `jax.random` would do as well, but compiles into a long program for every leaf.
    """
    leaves, structure = jax.tree.flatten(like)

    def draw(index, leaf):
        offset = together(jnp.uint32(index * 0x61C88647 % 2**32), leaf)
        number = jax.lax.iota(jnp.uint32, leaf.size) + offset
        mixed = (number ^ (number >> 16)) * jnp.uint32(0x7FEB352D)
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x846CA68B)
        heads = (mixed >> 31).reshape(leaf.shape) == 1
        one = jnp.ones((), leaf.dtype)
        return tree.placed_like(jnp.where(heads, one, -one), leaf)

    return jax.tree.unflatten(structure, list(map(draw, range(len(leaves)), leaves)))
