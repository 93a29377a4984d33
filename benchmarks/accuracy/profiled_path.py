"""A path that the study asks about: the line, each leaf at its own measured progress along it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Record, StandIn
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class ProfiledLine(StandIn):
    """w_t ≈ w_0 + s_t (w_T − w_0), s_t = ⟨w_t − w_0, w_T − w_0⟩/‖w_T − w_0‖² for each leaf.

    The line of DrMAD with t/T replaced by what training did. Since w_T must be known to measure
    it, training runs twice: the best that a profile kept in one run could do.
    """

    def lengths(self, run: Run, visits: Visits) -> list[int]:
        """From one visited step to the next; the first may be the first of all."""
        stops = [0, *map(int, visits.step), run.num_steps]
        return list(map(int, np.diff(stops)))

    def room(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> PyTree:
        """The line, found by training ahead, and room for the progress of each leaf."""
        along = jax.tree.map(jnp.subtract, run.train(state, hparams).params, state.params)
        zeros = jax.tree.map(lambda x: jnp.zeros(len(visits.step), x.dtype), along)
        return state.params, along, zeros

    def note(
        self, run: Run, track: Record, index: Array, when: Array | bool, visits: Visits
    ) -> Record:
        """The progress of each leaf at a visited step."""
        start, along, shares = track.kept
        moved = jax.tree.map(jnp.subtract, track.state.params, start)
        share = lambda m, a: jnp.sum(m * a) / jnp.maximum(jnp.sum(a * a), 1e-30)
        # Before the first visited step the progress is zero.
        when, row = when & (index > 0), jnp.maximum(index - 1, 0)
        shares = tree.put(shares, row, jax.tree.map(share, moved, along), when)
        return track._replace(kept=(start, along, shares))

    def places(self, run: Run, track: Record, visits: Visits) -> PyTree:
        """How far each leaf is along the line."""
        return track.kept[2]

    def stand_in(self, track: Record, place: PyTree) -> TrainState:
        """Each leaf at its own place on the line."""
        start, along, _ = track.kept
        at = lambda share, start, along: start + share * along
        params = jax.tree.map(at, place, start, along)
        return tree.partition(track.state)[0]._replace(params=params)
