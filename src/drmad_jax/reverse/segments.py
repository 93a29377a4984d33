"""A whole segment of training taken back at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.inside_segment import EACH, Segment, read_steps
from drmad_jax.reverse.lanczos import positive_flow
from drmad_jax.reverse.optimizer_fit import misfit
from drmad_jax.reverse.optimizer_response import geometric_limit
from drmad_jax.reverse.paths.base import At
from drmad_jax.reverse.steps import ReverseSteps, Spacing, Visits, middles, stretches
from drmad_jax.training.curvature import Curvature, said_of
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent, ReverseInfo

# Steps of a segment on whose batches the model is evaluated.
NUM_BATCH_TERMS = 50
# From here on five products in each segment serve as well as ten.
LONG = 800


@dataclasses.dataclass(frozen=True)
class Segments(ReverseSteps):
    """The whole run in segments, each taken at once.

    Attributes:
        count: Number of segments; that of steps where the run is shorter.
        num_products: Curvature products in each; `None` for ten where they take fewer than 800
            steps, five elsewhere.
        num_batches: Inner batches over which each product is averaged.
        spacing: As of `StridedSteps`.
        num_terms: At how many of a segment's steps, evenly spread, the terms of the hypergradient
            are taken, 0 for each; 1 takes the mean over the batches at the middle step. `None`
            for what the hyperparameters read: 1 for those that read nothing of a step (penalties),
            each where only the optimizer's counters and the step's key are read (schedules), 50
            where the model has to be evaluated on the step's batch (example weights).
    """

    count: int
    num_products: int | None
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
        return 1.5 * self.count * self._products(num_steps) * self.num_batches < num_steps

    def read(self, run: Run, state: TrainState, hparams: PyTree) -> bool:
        """As far as its own terms do."""
        return self._read(run, state, hparams) != "nothing"

    def _read(self, run: Run, state: TrainState, hparams: PyTree) -> str:
        return Segment.of(run, hparams, state, 1, None, 1).terms_read()

    def resolve(self, run: Run, state: TrainState, hparams: PyTree) -> "Segments":
        """With the number of terms chosen by what the hyperparameters read."""
        chosen = dataclasses.replace(self, num_products=self._products(run.length))
        if self.num_terms is not None:
            return chosen
        counts = {"nothing": 1, "step": EACH, "batch": NUM_BATCH_TERMS}
        return dataclasses.replace(chosen, num_terms=counts[self._read(run, state, hparams)])

    def _products(self, num_steps: int) -> int:
        if self.num_products is not None:
            return self.num_products
        return 5 if num_steps >= LONG else 10

    def unfit(self, run: Run, state: TrainState, hparams: PyTree) -> str | None:
        """Losses whose curvature need not be symmetric, and optimizers without a mean response."""
        rules = run.rules_in_loss(state, hparams)
        return said_of(rules) if rules else misfit(run, state, hparams)

    def reads(self, run: Run, visits: Visits, index: int) -> np.ndarray:
        """Those of the products, those of the terms, and that of the last step where it begins."""
        edges = np.asarray(visits.edges)
        low, length = int(edges[index]), int(edges[index + 1] - edges[index])
        num_terms = EACH if self.num_terms is None else self.num_terms
        steps = read_steps(low, length, self.num_batches, num_terms)
        return np.union1d(steps, run.end - 1) if edges[index + 1] == run.end else steps

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
        way around negative curvature, which its stand-in does not. The cotangent of the optimizer's
        state is taken along, that of the model's comes back zero.
        """
        segment = Segment.of(run, hparams, state, weight, at, self.num_batches)
        grads, memory, response, is_straight = segment.answer()

        def product(z):
            pushed = jax.tree.map(jnp.multiply, response.to_gradient, z)
            curved, _ = segment.curved(pushed, curvature)
            if response.to_params is None:
                return curved
            return jax.tree.map(lambda c, d, x: c + d * x, curved, response.to_params, z)

        start = tree.cast_like(cotangent.state.params, response.to_gradient)
        length = segment.length.astype(jnp.float32)
        flow = positive_flow(
            product,
            response.to_gradient,
            start,
            length,
            num_products=self._products(run.length),
            decay=response.to_params,
        )
        d_hparams, num_terms = cotangent.hparams, self.num_terms or EACH
        if num_terms == 1:
            pushed = jax.tree.map(jnp.multiply, response.to_gradient, flow.integral(0, length))
            _, mixed = segment.curved(pushed, curvature)
            d_hparams = tree.add_scaled(d_hparams, -1, mixed)
        piece = segment.piece(memory, grads, is_straight, num_terms)
        terms = d_hparams, tree.cast_like(cotangent.state.opt_state, memory.kept)
        terms = segment.over_pieces(num_terms, flow, piece, terms)
        params = tree.cast_like(flow.end, cotangent.state.params)
        d_state = tree.zeros_like(cotangent.state)
        opt_state = tree.cast_like(terms[1], d_state.opt_state)
        d_state = d_state._replace(params=params, opt_state=opt_state)
        norm = jnp.sqrt(tree.squared_norm(params))
        return Cotangent(d_state, terms[0]), ReverseInfo(norm, flow.residual, flow.curvatures)
