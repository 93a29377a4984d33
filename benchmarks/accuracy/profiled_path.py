"""A path that the study asks about: the line, each leaf at its own measured progress along it."""

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
class ProfiledLine(StandIn):
    """w_t ≈ w_0 + s_t (w_T − w_0), s_t = ⟨w_t − w_0, w_T − w_0⟩/‖w_T − w_0‖² for each leaf.

    The line of DrMAD with t/T replaced by what training did. Since w_T must be known to measure
    it, training runs twice: the best that a profile kept in one run could do.
    """

    def remember(
        self, run: Run, state: TrainState, hparams: PyTree, visits: Visits
    ) -> tuple[TrainState, Record]:
        """Trains, and trains again for the progress of each leaf at the visited steps."""
        final = run.train(state, hparams)
        along = jax.tree.map(jnp.subtract, final.params, state.params)

        def progress(state_now):
            moved = jax.tree.map(jnp.subtract, state_now.params, state.params)
            share = lambda m, a: jnp.sum(m * a) / jnp.maximum(jnp.sum(a * a), 1e-30)
            return jax.tree.map(share, moved, along)

        stops = [0, *map(int, visits.step), run.num_steps]
        lengths = [*map(int, np.diff(stops)), 0]
        trace, _ = record(run, state, hparams, lengths, keep=progress)
        # Between the start, whose progress is zero, and the end, whose progress is one.
        shares = jax.tree.map(lambda s: s[1:-1], trace.kept)
        return trace.final, trace._replace(kept=(state.params, shares))

    def places(self, run: Run, trace: Record, visits: Visits) -> PyTree:
        """How far each leaf is along the line."""
        return trace.kept[1]

    def stand_in(self, trace: Record, place: PyTree) -> TrainState:
        """Each leaf at its own place on the line."""
        along = lambda share, w_0, w_T: w_0 + share * (w_T - w_0)
        params = jax.tree.map(along, place, trace.kept[0], trace.final.params)
        return tree.partition(trace.final)[0]._replace(params=params)
