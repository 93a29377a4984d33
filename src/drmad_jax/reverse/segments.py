"""A whole segment of training taken back at once."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import subjaxprs
from jax.interpreters import partial_eval
from jaxtyping import Array, Int, PyTree

from drmad_jax import tree
from drmad_jax._checks.unused import used_leaves
from drmad_jax.problem import CompositeLoss, Problem, TrainState
from drmad_jax.reverse.lanczos import Flow, positive_flow
from drmad_jax.reverse.optimizer_fit import misfit
from drmad_jax.reverse.optimizer_response import (
    Memory,
    Response,
    Transposed,
    Update,
    geometric_limit,
    mean_response,
    memory,
    transposed_update,
)
from drmad_jax.reverse.paths.base import At
from drmad_jax.reverse.steps import ReverseSteps, Spacing, Visits, middles, stretches
from drmad_jax.training.curvature import Curvature, curvature_operator, inner_gradient
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent, ReverseInfo, optimizer_update

# Of `Segments.num_terms`.
EACH, NUM_BATCH_TERMS = 0, 50
# In how many pieces of a segment the flow and the optimizer's memory are followed.
NUM_PIECES = 20
# Up to here some gradients move the weights as their mean does.
LARGEST_APART = 0.1

# Cotangents of the hyperparameters and of the optimizer's state.
Terms = tuple[PyTree, PyTree]
# (first step of a piece, its length, a step in it, the integral over it, what there is) -> with its
# own
Piece = Callable[[Array, Array, Array, PyTree, Terms], Terms]


@dataclasses.dataclass(frozen=True)
class Segments(ReverseSteps):
    """The whole run in segments, each taken at once.

    Attributes:
        count: Number of segments; that of steps where the run is shorter.
        num_products: Curvature products in each.
        num_batches: Inner batches over which each product is averaged.
        spacing: As of `StridedSteps`.
        num_terms: At how many of a segment's steps, evenly spread, the terms of the hypergradient
            are taken, 0 for each; 1 takes the mean over the batches at the middle step. `None`
            for what the hyperparameters read: 1 for those that read nothing of a step (penalties),
            each where only the optimizer's counters and the step's key are read (schedules), 50
            where the model has to be evaluated on the step's batch (example weights).
    """

    count: int
    num_products: int
    num_batches: int
    spacing: Spacing = "dense"
    num_terms: int | None = None

    takes_stretches = True
    has_edges = True

    def __call__(self, num_steps: int) -> Visits:
        """The middle of each segment, weighted by its length."""
        return middles(stretches(num_steps, self.count, self.spacing))

    def saves(self, num_steps: int) -> bool:
        """Whether there are clearly more steps than curvature products, on a batch each."""
        return 1.5 * self.count * self.num_products * self.num_batches < num_steps

    def read(self, run: Run, state: TrainState, hparams: PyTree) -> bool:
        """As far as its own terms do."""
        return self._read(run, state, hparams) != "nothing"

    def _read(self, run: Run, state: TrainState, hparams: PyTree) -> str:
        return _Segment.of(run, hparams, state, 1, None, 1).terms_read()

    def resolve(self, run: Run, state: TrainState, hparams: PyTree) -> "Segments":
        """With the number of terms chosen by what the hyperparameters read."""
        if self.num_terms is not None:
            return self
        counts = {"nothing": 1, "step": EACH, "batch": NUM_BATCH_TERMS}
        return dataclasses.replace(self, num_terms=counts[self._read(run, state, hparams)])

    def unfit(self, run: Run, state: TrainState, hparams: PyTree) -> str | None:
        """Optimizers without a mean response."""
        return misfit(run, state, hparams)

    def begin(
        self, run: Run, hparams: PyTree, final: TrainState, cotangent: Cotangent
    ) -> Cotangent:
        """Turns the model state's cotangent into one of the weights.

        Running statistics are remembered weights: a change of the weights that lasts reaches them
        in a geometric series, whose first terms come from reverse steps at the final state.
        """
        if not jax.tree.leaves(cotangent.state.model_state):
            return cotangent
        batch, key = run.inputs(jnp.int32(run.end - 1))
        inexact, rest = tree.partition(final.model_state)

        def new_model_state(params, inexact):
            before = tree.combine(inexact, rest)
            new = run.problem.inner(params, hparams, batch, before, key)[1]
            return tree.cast_like(tree.partition(new)[0], inexact)

        pull = jax.vjp(new_model_state, final.params, inexact)[1]

        # The sum of a change's later effects, and what these come from.
        own = tree.widen(cotangent.state.model_state)
        back = lambda later: tree.add(own, pull(tree.cast_like(later, inexact))[1])
        lasting = geometric_limit(back, tree.zeros_like(own))
        params = tree.add(cotangent.state.params, pull(tree.cast_like(lasting, inexact))[0])
        model_state = tree.zeros_like(cotangent.state.model_state)
        return cotangent._replace(
            state=cotangent.state._replace(params=params, model_state=model_state)
        )

    def take(
        self,
        run: Run,
        hparams: PyTree,
        state: TrainState,
        cotangent: Cotangent,
        weight: PyTree,
        at: At | None,
        *,
        curvature: Curvature,
    ) -> tuple[Cotangent, ReverseInfo]:
        """Takes the cotangent back over a whole segment, all its steps linearised at `state`.

        Where steps are small the reverse pass is the flow dw̄/dτ = −(C P + D) w̄ in steps τ, with C
        the curvature, P the optimizer's response to the gradient and D its decay of the weights.
        The segment applies exp(−n(C P + D)), and each step's integral W̄ = ∫w̄ dτ to that step's
        terms: λ̄ ← λ̄ − (∂²L/∂λ∂w)ᵀ P W̄ + (∂u/∂λ)ᵀ W̄, u the optimizer's update. Of the operator's
        spectrum only the positive part counts (see `positive_flow`): the true trajectory finds its
        way around negative curvature, which its stand-in does not. The cotangent of optimizer and
        model state comes back zero, but for what the optimizer only hands on.
        """
        segment = _Segment.of(run, hparams, state, weight, at, self.num_batches)
        batches, keys = jax.vmap(run.inputs)(segment.sampled)
        operator = curvature_operator(
            averaged(run.problem),
            curvature,
            state.params,
            hparams,
            batches,
            model_state=state.model_state,
            key=keys,
        )
        memory = segment.memory(operator.grads)
        response, is_straight = segment.response(memory, operator.grads)

        def product(z):
            pushed = jax.tree.map(jnp.multiply, response.to_gradient, z)
            curved = operator.product(tree.cast_like(pushed, state.params))
            return jax.tree.map(
                lambda c, d, x: c.astype(x.dtype) + d * x, curved, response.to_params, z
            )

        start = tree.cast_like(cotangent.state.params, response.to_gradient)
        length = segment.length.astype(jnp.float32)
        flow = positive_flow(
            product,
            response.to_gradient,
            start,
            length,
            num_products=self.num_products,
            decay=response.to_params,
        )
        d_hparams, num_terms = cotangent.hparams, self.num_terms or EACH
        if num_terms == 1:
            pushed = jax.tree.map(jnp.multiply, response.to_gradient, flow.integral(0, length))
            d_hparams = _subtract(d_hparams, operator.mixed(tree.cast_like(pushed, state.params)))
        piece = segment.piece(memory, operator.grads, is_straight, num_terms)
        terms = d_hparams, tree.cast_like(cotangent.state.opt_state, memory.kept)
        terms = segment.over_pieces(num_terms, flow, piece, terms)
        params = tree.cast_like(flow.end, cotangent.state.params)
        d_state = tree.zeros_like(cotangent.state)
        opt_state = tree.cast_like(terms[1], d_state.opt_state)
        d_state = d_state._replace(params=params, opt_state=opt_state)
        norm = jnp.sqrt(tree.squared_norm(params))
        return Cotangent(d_state, terms[0]), ReverseInfo(norm, flow.residual, flow.curvatures)


@dataclasses.dataclass(frozen=True)
class _Segment:
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
    def of(run, hparams, state, weight, at, num_batches: int) -> "_Segment":
        """The segment in whose middle `state` stands, `weight` steps long."""
        length = jnp.rint(jnp.asarray(1 if weight is None else weight)).astype(jnp.int32)
        low = state.step - (length - 1) // 2
        index = np.arange(num_batches)
        # One in each of as many equal parts, at the multiples of the golden ratio: evenly spaced
        # ones would meet the same batches again wherever batches come in cycles.
        places = (index + (0.5 + index * 0.6180339887498949) % 1) / num_batches
        sampled = low + (places.astype(np.float32) * length.astype(jnp.float32)).astype(jnp.int32)
        return _Segment(run, hparams, state, low, length, sampled, at or (lambda step: state))

    def memory(self, mean: PyTree) -> Memory:
        """How long the optimizer remembers, `mean` the gradient of the sampled batches."""
        return memory(self._transposed(self.state, mean), self.state.opt_state, self.state.params)

    def response(self, memory: Memory, mean: PyTree) -> tuple[Response, Array]:
        """The optimizer's, its mean over the sampled steps, each with its own batch's gradient.

        Never negative: what moves along its gradient is left where it is. Beside it whether these
        gradients move the weights, together, as their mean does.
        """

        def add(total, step):
            own, grads = self.at(step), self.gradient(step)
            at_mean, at_batch = self._transposed(own, mean), self._transposed(own, grads)
            # Since the run began: what lasts longer than that is yet to come.
            lasting = step.astype(jnp.float32)
            response = mean_response(memory, lasting, at_mean, at_batch, own.params)
            return tree.add(total, (response, self._updates(own, grads), self._updates(own, mean)))

        zeros = tree.widen(tree.zeros_like(self.state.params))
        start = (Response(zeros, zeros), zeros, zeros)
        (total, each, at_once), _ = jax.lax.scan(
            lambda c, t: (add(c, t), None), start, self.sampled
        )
        apart = tree.squared_norm(_subtract(each, at_once))
        is_straight = apart < LARGEST_APART**2 * tree.squared_norm(each)
        return jax.tree.map(lambda x: jnp.maximum(x / len(self.sampled), 0), total), is_straight

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
        size, larger = self.length // count, self.length % count
        since = lambda step: (self.length - step).astype(jnp.float32)

        def add(done, terms):
            index = count - 1 - done
            low = index * size + jnp.minimum(index, larger)
            length = size + (index < larger).astype(low.dtype)
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
        gradient = self._met(mean, is_straight, own=mixed and self.terms_read() == "batch")

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
            count = 1
            if mixed:
                count = (
                    some if num_terms == EACH else jnp.minimum(some, -(-num_terms // NUM_PIECES))
                )
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

    def _met(self, mean: PyTree, is_straight: Array, *, own: bool) -> Callable[[Array], PyTree]:
        """The gradient that a step's hyperparameters meet in the optimizer."""
        if self._is_linear():
            return lambda step: mean
        alone = lambda step: tree.cast_like(self.gradient(step), mean)
        if own:
            return alone
        return lambda step: jax.lax.cond(is_straight, lambda: mean, lambda: alone(step))

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


def _subtract(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: x - y.astype(x.dtype), a, b)


def _share(z: PyTree, part: Array | int, whole: Array | int) -> PyTree:
    ratio = lambda dtype: jnp.asarray(part, dtype) / jnp.asarray(whole, dtype)
    return jax.tree.map(lambda x: x * ratio(x.dtype), z)


def _multiplies(jaxpr: Any) -> bool:
    """Whether there is a matrix product or a convolution in a jaxpr: a model is evaluated."""
    names = {"dot_general", "conv_general_dilated"}
    if any(equation.primitive.name in names for equation in jaxpr.eqns):
        return True
    return any(map(_multiplies, subjaxprs(jaxpr)))


def averaged(problem: Problem) -> Problem:
    """The same problem on stacked batches (and keys): the inner loss is the mean over them.

    One large product instead of many small ones, since the weights are not batched.
    """
    loss = problem.inner_loss
    if not isinstance(loss, CompositeLoss):

        def mean(params, hparams, batches, *, model_state=None, key=None):
            value, new = _over_batches(problem.inner)(params, hparams, batches, model_state, key)
            return jnp.mean(value) if model_state is None else (jnp.mean(value), new)

        return dataclasses.replace(problem, inner_loss=mean)

    def predict(params, hparams, batches, *, model_state=None, key=None):
        outputs, new = _over_batches(loss.outputs)(params, hparams, batches, model_state, key)
        return outputs if model_state is None else (outputs, new)

    def criterion(outputs, hparams, batches):
        return jnp.mean(jax.vmap(loss.criterion, (0, None, 0))(outputs, hparams, batches))

    composite = CompositeLoss(predict, criterion, loss.penalty)
    return dataclasses.replace(problem, inner_loss=composite)


def _over_batches(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    def call(params, hparams, batches, model_state, keys):
        axes = (None, None, 0, None, None if keys is None else 0)
        return jax.vmap(function, axes)(params, hparams, batches, model_state, keys)

    return call
