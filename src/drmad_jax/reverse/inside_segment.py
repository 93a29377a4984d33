"""Inside one segment: its batches, the response of the optimizer, the terms of its steps."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import subjaxprs
from jax.interpreters import partial_eval
from jaxtyping import Array, Int, PyTree

from drmad_jax import tree
from drmad_jax._checks.unused import used_leaves
from drmad_jax.problem import TrainState
from drmad_jax.reverse.lanczos import Flow
from drmad_jax.reverse.optimizer_response import (
    Memory,
    Response,
    Transposed,
    Update,
    mean_response,
    memory,
    together,
    transposed_update,
)
from drmad_jax.reverse.paths.base import At
from drmad_jax.training.curvature import Curvature, inner_gradient
from drmad_jax.training.run import Run
from drmad_jax.training.step import optimizer_update

# Of `Segments.num_terms`: the terms of each step.
EACH = 0
# In how many pieces of a segment the flow and the optimizer's memory are followed.
NUM_PIECES = 20
# Up to here some gradients move the weights as their mean does.
LARGEST_APART = 0.1

# A number of steps, known at trace time or not.
Steps = Any
# Cotangents of the hyperparameters and of the optimizer's state.
Terms = tuple[PyTree, PyTree]
# (first step of a piece, its length, a step in it, the integral over it, what there is) -> with its
# own
Piece = Callable[[Array, Array, Array, PyTree, Terms], Terms]


class Answer(NamedTuple):
    """How the optimizer answers to gradients in a segment.

    Attributes:
        mean: Mean gradient of the sampled steps' batches, at the stand-in.
        memory: How long the optimizer remembers.
        response: Its response, the mean over the sampled steps, each with its own batch's gradient.
            Never negative: what moves along its gradient is left where it is.
        is_straight: Whether these gradients move the weights, together, as their mean does.
    """

    mean: PyTree
    memory: Memory
    response: Response
    is_straight: Array


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment: where it stands, which steps it has, and what they add to the hypergradient.

    Attributes:
        run: The run.
        hparams: Hyperparameters.
        state: The stand-in for all its states, with the counters of one of its steps.
        low: Its first step.
        length: Its number of steps.
        sampled: Steps spread over it, whose batches the curvature averages, shape (num_batches,).
        at: The stand-in with another step's counters.
    """

    run: Run
    hparams: PyTree
    state: TrainState
    low: Int[Array, ""]
    length: Int[Array, ""]
    sampled: Int[Array, " num_batches"]
    at: At

    @staticmethod
    def of(run, hparams, state, weight, at, num_batches: int) -> "Segment":
        """The segment in whose middle `state` stands, `weight` steps long."""
        length = jnp.rint(jnp.asarray(1 if weight is None else weight)).astype(jnp.int32)
        low = state.step - (length - 1) // 2
        sampled = sampled_steps(low, length, num_batches)

        def own(step):
            return together(at(step) if at else state, step)

        return Segment(run, hparams, state, low, length, sampled, own)

    def answer(self) -> Answer:
        """The optimizer's answer to the sampled steps' gradients: `Answer`.

        Their mean has to be known before each of them is looked at. Both are one loop gone through
        twice, so that the program holds the model's gradient once for both.
        """
        params = self.state.params
        decays = bool(
            used_leaves(lambda p: self._updates(self.state._replace(params=p), params), params)
        )
        wide = tree.widen(params)
        like = Response(wide, wide if decays else None), wide, wide

        def respond(mean, remembers, grads, step):
            own = self.at(step)
            at_mean, at_batch = self._transposed(own, mean), self._transposed(own, grads)
            # Since the run began: what lasts longer than that is yet to come.
            lasting = (step + self.run.first).astype(jnp.float32)
            response = mean_response(
                remembers, lasting, at_mean, at_batch, own.params, decays=decays
            )
            return tree.cast_like(
                (response, self._updates(own, grads), self._updates(own, mean)), like
            )

        def sweep(carry, is_first):
            mean, _ = carry
            of_mean = lambda mean: memory(self._transposed(self.state, mean), params)
            unknown = jax.tree.map(lambda x: jnp.zeros((), x.dtype), Memory(inexact, inexact))
            remembers = jax.lax.cond(is_first, lambda _: unknown, of_mean, mean)

            def of_step(step):
                grads = self.gradient(step)
                none = lambda grads: tree.zeros_like(like)
                known = lambda grads: respond(mean, remembers, grads, step)
                return grads, jax.lax.cond(is_first, none, known, grads)

            new, answers = self.run.mean(of_step, self.sampled, (params, like))
            choose = lambda new, mean: jnp.where(is_first, new, mean)
            return (jax.tree.map(choose, new, mean), answers), remembers

        inexact = tree.widen(tree.partition(self.state.opt_state)[0])
        start = tree.zeros_like((wide, like))
        (mean, answers), remembers = jax.lax.scan(sweep, start, jnp.array([True, False]))
        response, each, at_once = answers
        apart = tree.squared_norm(tree.add_scaled(each, -1, at_once))
        is_straight = apart < LARGEST_APART**2 * tree.squared_norm(each)
        response = jax.tree.map(lambda x: jnp.maximum(x, 0), response)
        return Answer(mean, jax.tree.map(lambda x: x[-1], remembers), response, is_straight)

    def curved(self, vector: PyTree, curvature: Curvature) -> tuple[PyTree, PyTree]:
        """B v and (∂²L/∂λ∂w)ᵀ v, means over the sampled steps' batches."""
        run, hparams = self.run, self.hparams
        return run.curved(self.at, hparams, vector, self.sampled, curvature=curvature)

    def gradient(self, step: Int[Array, ""]) -> PyTree:
        """That of one step's batch, at the stand-in."""
        own, (batch, key) = self.at(step), self.run.inputs(step)
        gradient = inner_gradient(self.run.problem, None)
        return gradient(own.params, self.hparams, own.model_state, batch, key)[0]

    def over_pieces(self, num_terms: int, flow: Flow, piece: Piece, terms: Terms) -> Terms:
        """Adds each piece's terms, the last piece's first."""
        if num_terms == 1:
            count = jnp.int32(len(self.sampled))
        else:
            count = jnp.minimum(self.length, min(num_terms or NUM_PIECES, NUM_PIECES))
        since = lambda step: (self.length - step).astype(jnp.float32)

        def add(done, terms):
            index = count - 1 - done
            low, length = part_of(self.length, index, count)
            step = self.low + jnp.minimum(low + length // 2, self.length - 1)
            if num_terms == 1:
                step = self.sampled[index]
            integral = flow.integral(since(low + length), since(low))
            return piece(self.low + low, length, step, integral, terms)

        return jax.lax.fori_loop(0, count, add, terms)

    def piece(self, memory: Memory, mean: PyTree, is_straight: Array, num_terms: int) -> Piece:
        """What one piece adds to the cotangents of the hyperparameters and the optimizer's state.

        (∂(u, s')/∂λ)ᵀ (W̄, S̄) with u the optimizer's update, s' its new state and S̄ the cotangent
        that later steps have given to that; and, but for one term alone, the same through the
        gradient of each step that stands for its part of the piece. What a hyperparameter does to
        the gradient of one batch meets that batch's own gradient in an adaptive optimizer (it
        hardly minds its scale); for others the mean does, unless the optimizer bends it (clipping).
        """
        mixed = num_terms != 1
        gradient = self._met(mean, is_straight, mixed=mixed)

        def of_step(step, d_update, d_state):
            back = self._transposed(self.at(step), gradient(step))(d_update, d_state)
            if not mixed:
                return back.hparams
            d_grads = tree.cast_like(back.grads, self.state.params)
            return tree.add(back.hparams, self.mixed_term(step, d_grads))

        def add(low, length, middle, integral, terms):
            d_hparams, d_opt_state = terms
            # In a segment of few steps there may be pieces without any.
            some = jnp.maximum(length, 1)
            at_mean = self._transposed(self.at(middle), mean)
            given = memory.amplified(at_mean(_share(integral, 1, some)).opt_state)
            inside = memory.during(some, d_opt_state, given)
            count = terms_in_piece(some, num_terms) if mixed else 1
            parts = _share(integral, 1, count), _share(inside, length, count)

            def add_step(index, d_hparams):
                step = low + (2 * index + 1) * length // (2 * count) if mixed else middle
                return tree.add(d_hparams, of_step(step, *parts))

            d_hparams = jax.lax.fori_loop(0, count, add_step, d_hparams)
            back = at_mean(integral, _share(inside, length, 1)).opt_state
            # With what the leaves of the state give to each other.
            given = jax.tree.map(
                lambda x, kept, inside: x - kept * inside,
                _share(back, 1, some),
                memory.kept,
                inside,
            )
            return d_hparams, memory.before(length, d_opt_state, given)

        return add

    def _met(self, mean: PyTree, is_straight: Array, *, mixed: bool) -> Callable[[Array], PyTree]:
        """The gradient that a step's hyperparameters meet in the optimizer."""
        if self._is_linear():
            return lambda step: mean
        alone = lambda step: tree.cast_like(self.gradient(step), mean)
        if mixed and self.terms_read() == "batch":
            return alone
        return lambda step: tree.either(is_straight, lambda: mean, lambda: alone(step))

    def mixed_term(self, step: Int[Array, ""], along: PyTree) -> PyTree:
        """(∂²L_t/∂λ∂w)ᵀ v of one step, like the hyperparameters.

        The gradient in λ of the loss's derivative along v: what does not depend on λ is not gone
        back through.
        """
        batch, key = self.run.inputs(step)

        def slope(hparams):
            def loss(params):
                return self.run.problem.inner(params, hparams, batch, self.state.model_state, key)[
                    0
                ]

            return jax.jvp(loss, (self.state.params,), (along,))[1]

        return jax.grad(slope)(self.hparams)

    def terms_read(self) -> Literal["nothing", "step", "batch"]:
        """What of a step the terms of the hypergradient read."""
        params, (inexact, rest) = self.state.params, tree.partition(self.state.opt_state)

        def terms(given):
            step, rest = given
            state = self.state._replace(opt_state=tree.combine(inexact, rest))
            of_optimizer = self._transposed(state, params)(params, inexact).hparams
            return self.mixed_term(step, params), of_optimizer

        if not used_leaves(terms, (self.state.step, rest)):
            return "nothing"
        mixed = jax.make_jaxpr(self.mixed_term)(self.state.step, params).jaxpr
        mixed, _ = partial_eval.dce_jaxpr(mixed, [True] * len(mixed.outvars))
        return "batch" if _multiplies(mixed) else "step"

    def _transposed(self, state: TrainState, grads: PyTree) -> Callable[..., Transposed]:
        return transposed_update(self._update, self.hparams, state.opt_state, grads, state.params)

    def _updates(self, state: TrainState, grads: PyTree) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):
            return self._update(self.hparams)(grads, state.opt_state, state.params)[0]

    def _is_linear(self) -> bool:
        """Whether the update is linear in the gradient, read off its trace."""
        grads = self.state.params
        updates = lambda grads: self._updates(self.state, grads)
        pushed = lambda at, along: jax.jvp(updates, (at,), (along,))[1]
        if used_leaves(lambda at: pushed(at, grads), grads):
            return False
        # The derivative of a sign reads neither.
        return used_leaves(updates, grads) == used_leaves(lambda x: pushed(grads, x), grads)

    def _update(self, hparams: PyTree) -> Update:
        update = optimizer_update(self.run.problem, hparams)
        # Those that read the loss do not come here.
        loss = jnp.zeros((), jnp.result_type(*jax.tree.leaves(self.state.params)))
        return lambda grads, opt_state, params: update(grads, opt_state, params, loss)


def sampled_steps(low: Steps, length: Steps, num_batches: int) -> Steps:
    """Steps spread over a segment.

    One in each of as many equal parts, at the multiples of the golden ratio: evenly spaced ones
    would meet the same batches again wherever batches come in cycles.
    """
    index = np.arange(num_batches)
    places = ((index + (0.5 + index * 0.6180339887498949) % 1) / num_batches).astype(np.float32)
    return low + (places * length.astype(np.float32)).astype(np.int32)


def part_of(length: Steps, index: Steps, count: Steps) -> tuple[Steps, Steps]:
    """Where part `index` of `count` parts of a length begins, and its own length."""
    size, larger = length // count, length % count
    begins = lambda index: index * size + _least(index, larger)
    return begins(index), begins(index + 1) - begins(index)


def terms_in_piece(length: Steps, num_terms: int) -> Steps:
    """Of how many of its steps a piece takes the terms."""
    return length if num_terms == EACH else _least(length, -(-num_terms // NUM_PIECES))


def _least(first: Steps, second: Steps) -> Steps:
    return min(first, second) if isinstance(first, int) else jnp.minimum(first, second)


def read_steps(low: int, length: int, num_batches: int, num_terms: int) -> np.ndarray:
    """The steps of a segment whose batches are read."""
    sampled = sampled_steps(np.int32(low), np.int32(length), num_batches)
    if num_terms == 1:
        return np.unique(sampled)
    read, count = [sampled], min(length, min(num_terms or NUM_PIECES, NUM_PIECES))
    for piece in range(count):
        begin, size = part_of(length, piece, count)
        terms = terms_in_piece(size, num_terms)
        read.append(low + begin + (2 * np.arange(terms) + 1) * size // (2 * terms))
    return np.unique(np.concatenate(read))


def _share(z: PyTree, part: Array | int, whole: Array | int) -> PyTree:
    ratio = lambda dtype: jnp.asarray(part, dtype) / jnp.asarray(whole, dtype)
    return jax.tree.map(lambda x: x * ratio(x.dtype), z)


def _multiplies(jaxpr: Any) -> bool:
    """Whether there is a matrix product or a convolution in a jaxpr: a model is evaluated."""
    names = {"dot_general", "conv_general_dilated"}
    if any(equation.primitive.name in names for equation in jaxpr.eqns):
        return True
    return any(map(_multiplies, subjaxprs(jaxpr)))
