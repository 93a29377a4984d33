"""A whole segment of training taken back at once."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from drmad_jax import tree
from drmad_jax.problem import CompositeLoss, Problem, TrainState
from drmad_jax.reverse.lanczos import positive_flow
from drmad_jax.reverse.optimizer_response import (
    NUM_TERMS,
    Response,
    geometric_limit,
    mean_response,
)
from drmad_jax.reverse.steps import ReverseSteps, Spacing, Visits, middles, stretches
from drmad_jax.training.curvature import Curvature, curvature_operator, inner_gradient
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent, ReverseInfo, optimizer_update


@dataclasses.dataclass(frozen=True)
class Segments(ReverseSteps):
    """The whole run in segments, each taken at once.

    Attributes:
        count: Number of segments; that of steps where the run is shorter.
        num_products: Curvature products in each.
        num_batches: Inner batches over which each product is averaged.
        spacing: As of `StridedSteps`.
    """

    count: int
    num_products: int
    num_batches: int
    spacing: Spacing = "dense"

    takes_stretches = True
    has_edges = True

    def __call__(self, num_steps: int) -> Visits:
        """The middle of each segment, weighted by its length."""
        return middles(stretches(num_steps, self.count, self.spacing))

    def unfit(self, state: TrainState) -> str | None:
        """Optimizers that move the weights at some steps only."""
        is_one = lambda x: isinstance(x, optax.MultiStepsState)
        if not any(map(is_one, jax.tree.leaves(state.opt_state, is_leaf=is_one))):
            return None
        return (
            "optax.MultiSteps moves the weights at some steps only, and has no mean response that "
            "segments could take"
        )

    def begin(
        self, run: Run, hparams: PyTree, final: TrainState, cotangent: Cotangent
    ) -> Cotangent:
        """Turns the model state's cotangent into one of the weights.

        Running statistics are remembered weights: a change of the weights that lasts reaches them
        in a geometric series, whose first terms come from reverse steps at the final state.
        """
        if not jax.tree.leaves(cotangent.state.model_state):
            return cotangent
        batch, key = run.inputs(jnp.int32(run.num_steps - 1))
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
        *,
        curvature: Curvature,
    ) -> tuple[Cotangent, ReverseInfo]:
        """Takes the cotangent back over a whole segment, all its steps linearised at `state`.

        Where steps are small the reverse pass is the flow dw̄/dτ = −(C P + D) w̄ in steps τ, with C
        the curvature, P the optimizer's response to the gradient and D its decay of the weights.
        The segment applies exp(−n(C P + D)), and its integral W̄ = ∫w̄ dτ to the mixed terms:
        λ̄ ← λ̄ − (∂²L/∂λ∂w)ᵀ P W̄ + (∂u/∂λ)ᵀ W̄, u the optimizer's update. Of the operator's spectrum
        only the positive part counts (see `positive_flow`): the true trajectory finds its way
        around negative curvature, which its stand-in does not. The cotangent of optimizer and model
        state comes back zero.
        """
        length = jnp.float32(1) if weight is None else weight
        batches, keys = _batches(run, state.step, length, self.num_batches)
        operator = curvature_operator(
            averaged(run.problem),
            curvature,
            state.params,
            hparams,
            batches,
            model_state=state.model_state,
            key=keys,
        )
        one = lambda x: jax.tree.map(lambda leaf: leaf[0], x)
        response, from_update = _optimizer(
            run.problem, hparams, state, operator.grads, one(batches), one(keys)
        )

        def product(z):
            pushed = jax.tree.map(jnp.multiply, response.to_gradient, z)
            curved = operator.product(tree.cast_like(pushed, state.params))
            return jax.tree.map(
                lambda c, d, x: c.astype(x.dtype) + d * x, curved, response.to_params, z
            )

        start = tree.cast_like(cotangent.state.params, response.to_gradient)
        count = self.num_products
        flow = positive_flow(product, response.to_gradient, start, length, num_products=count)
        pushed = jax.tree.map(jnp.multiply, response.to_gradient, flow.integral)
        mixed = operator.mixed(tree.cast_like(pushed, state.params))
        accumulated = jax.tree.map(lambda a, m: a - m.astype(a.dtype), cotangent.hparams, mixed)
        accumulated = from_update(accumulated, flow.integral)
        params = tree.cast_like(flow.end, cotangent.state.params)
        d_state = tree.zeros_like(cotangent.state)._replace(params=params)
        return Cotangent(d_state, accumulated), ReverseInfo(jnp.sqrt(tree.squared_norm(params)))


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


def _optimizer(
    problem: Problem,
    hparams: PyTree,
    state: TrainState,
    mean_grads: PyTree,
    batch: PyTree,
    key: Array | None,
) -> tuple[Response, Callable[[PyTree, PyTree], PyTree]]:
    """The optimizer's response, and what its own hyperparameters add to the hypergradient."""
    gradient = inner_gradient(problem, None)
    grads, (loss, _) = gradient(state.params, hparams, state.model_state, batch, key)

    def update(grads, opt_state, params):
        return optimizer_update(problem, hparams)(grads, opt_state, params, loss)

    response = mean_response(update, state.opt_state, grads, state.params)

    def from_update(accumulated, integral):
        def updates(hparams):
            step = optimizer_update(problem, hparams)
            return step(mean_grads, state.opt_state, state.params, loss)[0]

        made, pull = jax.vjp(updates, hparams)
        return tree.add(accumulated, pull(tree.cast_like(integral, made))[0])

    return response, from_update


def _batches(
    run: Run, middle: Int[Array, ""], length: Float[Array, ""], count: int
) -> tuple[PyTree, Array | None]:
    """Stacked batches and keys of `count` steps, evenly over the segment."""
    places = (np.arange(count, dtype=np.float32) + 0.5) / count - 0.5
    steps = middle + jnp.rint(places * jnp.asarray(length, jnp.float32)).astype(jnp.int32)
    return jax.vmap(run.inputs)(jnp.clip(steps, 0, run.num_steps - 1))


def _over_batches(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    def call(params, hparams, batches, model_state, keys):
        axes = (None, None, 0, None, None if keys is None else 0)
        return jax.vmap(function, axes)(params, hparams, batches, model_state, keys)

    return call
