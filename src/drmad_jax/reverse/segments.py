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
from drmad_jax.reverse.lanczos import positive_flow
from drmad_jax.reverse.optimizer_fit import misfit
from drmad_jax.reverse.optimizer_response import (
    NUM_TERMS,
    Response,
    geometric_limit,
    handed_on,
    mean_response,
)
from drmad_jax.reverse.paths.base import At
from drmad_jax.reverse.steps import ReverseSteps, Spacing, Visits, middles, stretches
from drmad_jax.training.curvature import Curvature, curvature_operator, inner_gradient
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent, ReverseInfo, optimizer_update

# Of `Segments.num_terms`.
EACH, NUM_BATCH_TERMS = 0, 100


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
            each where only the optimizer's counters and the step's key are read (schedules), 100
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

        def back(carry, _):
            d_model_state, total = carry
            d_params, d_model_state = pull(d_model_state)
            total = tree.add(total, d_params)
            return (d_model_state, total), total

        zeros = tree.widen(tree.zeros_like(final.params))
        carry = (cotangent.state.model_state, zeros)
        _, sums = jax.lax.scan(back, carry, None, length=NUM_TERMS)
        params = tree.add(cotangent.state.params, jax.tree.map(geometric_limit, sums))
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
        response = segment.response()

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
        kept = segment.handed_on(cotangent.state.opt_state)
        terms = (cotangent.hparams, kept)
        if self.num_terms == 1:
            integral = flow.integral(0, length)
            pushed = jax.tree.map(jnp.multiply, response.to_gradient, integral)
            mixed = operator.mixed(tree.cast_like(pushed, state.params))
            terms = (_subtract(terms[0], mixed), terms[1])
            terms = segment.own_terms(terms, state, operator.grads, integral)
        else:
            count = segment.length
            if self.num_terms != EACH:
                count = jnp.minimum(count, self.num_terms or NUM_BATCH_TERMS)

            def add_piece(index, terms):
                low, high = index * segment.length // count, (index + 1) * segment.length // count
                # The way back reaches the segment's last step first.
                since = lambda step: (segment.length - step).astype(jnp.float32)
                integral = flow.integral(since(high), since(low))
                pushed = jax.tree.map(jnp.multiply, response.to_gradient, integral)
                step = jnp.minimum(low + (high - low) // 2, segment.length - 1) + segment.low
                along = tree.cast_like(pushed, state.params)
                accumulated, kept = terms
                accumulated = _subtract(accumulated, segment.mixed_term(step, along))
                own = segment.at(step)
                return segment.own_terms((accumulated, kept), own, operator.grads, integral)

            terms = jax.lax.fori_loop(0, count, add_piece, terms)
        params = tree.cast_like(flow.end, cotangent.state.params)
        d_state = tree.zeros_like(cotangent.state)
        opt_state = tree.combine(terms[1], d_state.opt_state)
        d_state = d_state._replace(params=params, opt_state=opt_state)
        return Cotangent(d_state, terms[0]), ReverseInfo(jnp.sqrt(tree.squared_norm(params)))


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

    def response(self) -> Response:
        """The optimizer's, its mean over the sampled steps, each with its own batch's gradient.

        Never negative: what moves along its gradient is left where it is.
        """

        def add(total, step):
            own = self.at(step)
            batch, key = self.run.inputs(step)
            gradient = inner_gradient(self.run.problem, None)
            grads, (loss, _) = gradient(own.params, self.hparams, own.model_state, batch, key)
            update = lambda g, s, p: self._update(self.hparams)(g, s, p, loss)
            return tree.add(total, mean_response(update, own.opt_state, grads, own.params)), None

        zeros = tree.widen(tree.zeros_like(self.state.params))
        total, _ = jax.lax.scan(add, Response(zeros, zeros), self.sampled)
        return jax.tree.map(lambda x: jnp.maximum(x / len(self.sampled), 0), total)

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

    def own_terms(
        self, terms: tuple[PyTree, PyTree], state: TrainState, grads: PyTree, integral: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Adds (∂u/∂λ)ᵀ W̄, and the same for what the optimizer's state only hands on."""
        loss = jnp.zeros((), jnp.result_type(*jax.tree.leaves(state.params)))

        def updates(hparams, kept):
            opt_state = tree.combine(kept, state.opt_state)
            return self._update(hparams)(grads, opt_state, state.params, loss)[0]

        made, pull = jax.vjp(updates, self.hparams, self.handed_on(state.opt_state))
        return tree.add(terms, pull(tree.cast_like(integral, made)))

    def terms_read(self) -> Literal["nothing", "step", "batch"]:
        """What of a step the terms of the hypergradient read."""
        grads, (_, rest) = self.state.params, tree.partition(self.state.opt_state)
        none = (
            tree.zeros_like(self.hparams),
            self.handed_on(tree.partition(self.state.opt_state)[0]),
        )

        def terms(step, rest):
            opt_state = tree.combine(tree.partition(self.state.opt_state)[0], rest)
            own = self.own_terms(none, self.state._replace(opt_state=opt_state), grads, grads)
            return self.mixed_term(step, grads), own

        if not used_leaves(lambda given: terms(*given), (self.state.step, rest)):
            return "nothing"
        mixed = jax.make_jaxpr(self.mixed_term)(self.state.step, grads).jaxpr
        mixed, _ = partial_eval.dce_jaxpr(mixed, [True] * len(mixed.outvars))
        return "batch" if _multiplies(mixed) else "step"

    def handed_on(self, opt_state: PyTree) -> PyTree:
        """The leaves that the optimizer hands on as they are, `None` for the others."""
        own, params = self.state.opt_state, self.state.params
        loss = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        update = lambda s: self._update(self.hparams)(params, s, params, loss)[1]
        kept = handed_on(update, own)
        return jax.tree.map(
            lambda keep, x: x if keep and x is not None and tree.is_inexact(x) else None,
            kept,
            opt_state,
        )

    def _update(self, hparams: PyTree) -> Callable[..., tuple[PyTree, PyTree]]:
        return optimizer_update(self.run.problem, hparams)


def _subtract(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: x - y.astype(x.dtype), a, b)


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
