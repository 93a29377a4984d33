"""The means of stretches of training: smoother than the states at their edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Carry, Path, Record, Visit, record, weights_of
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run, reverse_scan


@dataclasses.dataclass(frozen=True)
class Means(Path):
    """w_t stands at the mean of all the states of its stretch, optimizer and model state included.

    The steps say how training is divided (`Visits.edges`).
    """

    needs_edges = True

    def remember(
        self, run: Run, state: TrainState, hparams: PyTree, visits: Visits
    ) -> tuple[TrainState, Record]:
        """Trains, keeping the mean of each stretch."""
        edges = np.asarray(visits.edges)
        starts = jnp.asarray(edges, jnp.int32)

        def follow(mean: TrainState, state: TrainState) -> TrainState:
            stretch = jnp.searchsorted(starts, state.step, side="right") - 1
            # One for the first state of a stretch, which replaces the mean of the one before.
            count = state.step - starts[stretch] + 1
            move = lambda m, x: m + (x.astype(m.dtype) - m) / count.astype(m.dtype)
            return jax.tree.map(move, mean, tree.partition(state)[0])

        zeros = tree.widen(tree.zeros_like(tree.partition(state)[0]))
        lengths = [*map(int, np.diff(edges)), 0]
        keep = lambda state, mean: mean
        trace = record(run, state, hparams, lengths, keep, start=zeros, follow=follow)
        # What is kept at the start of a stretch is the mean of the one before.
        return trace.final, trace._replace(kept=jax.tree.map(lambda x: x[1:], trace.kept))

    def revisit(
        self,
        run: Run,
        trace: Record,
        hparams: PyTree,
        visit: Visit[Carry],
        carry: Carry,
        visits: Visits,
    ) -> Carry:
        """Visits the stretches, each at its mean."""
        inexact, _ = tree.partition(trace.final)

        def visit_mean(carry, x):
            mean, step, weight = x
            mean = tree.cast_like(mean, inexact)
            return visit(carry, trace.state_at(step, mean.params, mean), weight)

        xs = (trace.kept, visits.step.astype(np.int32), weights_of(visits))
        return reverse_scan(visit_mean, carry, xs)
