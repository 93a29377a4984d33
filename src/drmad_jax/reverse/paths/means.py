"""The means of stretches of training: smoother than the states at their edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Record, StandIn, record
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class Means(StandIn):
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

    def places(self, run: Run, trace: Record, visits: Visits) -> TrainState:
        """The means themselves."""
        return trace.kept

    def stand_in(self, trace: Record, place: TrainState) -> TrainState:
        """The mean, in the dtypes of the state."""
        return tree.cast_like(place, tree.partition(trace.final)[0])
