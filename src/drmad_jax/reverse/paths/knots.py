"""The line from start to end of training (DrMAD), and its refinement by knots."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Record, StandIn
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run

StateOnPath = Literal["auto", "final", "interpolated"]
STATES_ON_PATH = ("auto", "final", "interpolated")


@dataclasses.dataclass(frozen=True)
class Knots(StandIn):
    """w_t stands on straight lines between the states at some steps, the knots.

    With two knots, w_t ≈ (1 − t/T) w_0 + (t/T) w_T (Fu et al. 2016, Alg. 2).

    Attributes:
        knots: Number of knots n, placed at T(k/(n−1))², dense where training moves fast; or the
            steps themselves, increasing from 0 to T. `None` for 8, or as many as fit.
        state: What stands for the optimizer's and the model's state: "final" their last value,
            "interpolated" as the weights; "auto" is final on the line, interpolated on knots.
    """

    knots: int | tuple[int, ...] | None = 2
    state: StateOnPath = "auto"

    def times(self, num_steps: int) -> np.ndarray:
        """Steps of the knots, strictly increasing from 0 to T."""
        if self.knots is None or isinstance(self.knots, int):
            count = min(8, num_steps + 1) if self.knots is None else self.knots
            if count > num_steps + 1:
                raise ValueError(
                    f"drmad: {count} knots do not fit into {num_steps} steps: "
                    f"`knots` may be at most num_steps + 1 = {num_steps + 1}"
                )
            k = np.arange(count)
            return np.maximum(np.rint(num_steps * (k / (count - 1)) ** 2).astype(int), k)
        if self.knots[-1] != num_steps:
            raise ValueError(
                f"drmad: the last of `knots` must be num_steps = {num_steps}, got {self.knots[-1]}"
            )
        return np.array(self.knots)

    def is_true(self, num_steps: int) -> bool:
        """With a knot at every step, and the optimizer's state there."""
        return len(self.times(num_steps)) == num_steps + 1 and not self._final_state

    def lengths(self, run: Run, visits: Visits) -> list[int]:
        """From knot to knot."""
        return list(map(int, np.diff(self.times(run.length))))

    def room(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> TrainState:
        """Room for the states at the knots."""
        return tree.rows(self._kept(state), len(self.times(run.length)))

    def note(
        self, run: Run, track: Record, index: Array, when: Array | bool, visits: Visits
    ) -> Record:
        """Keeps the state."""
        return track._replace(kept=tree.put(track.kept, index, self._kept(track.state), when))

    def ended(self, run: Run, track: Record, visits: Visits) -> Record:
        """With the last knot, the end of training."""
        last = len(self.times(run.length)) - 1
        return track._replace(kept=tree.put(track.kept, last, self._kept(track.state)))

    def places(self, run: Run, track: Record, visits: Visits) -> tuple[PyTree, PyTree]:
        """The piece between two knots in which each visit stands, and where in it, from 0 to 1."""
        numpy = np if visits.static else jnp
        times = (run.begin + self.times(run.length)).astype(visits.position.dtype)
        piece = numpy.searchsorted(numpy.asarray(times[1:-1]), visits.position, side="right")
        widths = numpy.asarray(np.diff(times))[piece]
        fraction = (visits.position - numpy.asarray(times)[piece]) / widths
        return piece.astype(np.int32), fraction

    def stand_in(self, track: Record, place: tuple[Array, Array]) -> TrainState:
        """The state between two knots; the optimizer's and the model's are the last, if asked."""
        state = _between(track.kept, *place)
        if self._final_state:
            return tree.partition(track.state)[0]._replace(params=state.params)
        return state

    @property
    def _final_state(self) -> bool:
        on_line = self.knots == 2 or (isinstance(self.knots, tuple) and len(self.knots) == 2)
        return self.state == "final" or (self.state == "auto" and on_line)

    def _kept(self, state: TrainState) -> TrainState:
        inexact, _ = tree.partition(state)
        return (
            TrainState(inexact.params, None, None, inexact.step) if self._final_state else inexact
        )


def _between(kept: PyTree, piece: Array, fraction: Array) -> PyTree:
    """(1 − β) · knot k + β · knot k+1, exact at β = 0."""

    def mix(knots):
        low = jax.lax.dynamic_index_in_dim(knots, piece, keepdims=False)
        high = jax.lax.dynamic_index_in_dim(knots, piece + 1, keepdims=False)
        dtype = tree.accumulation_dtype(knots.dtype)
        beta = jnp.asarray(fraction, dtype)
        mixed = (1 - beta) * low.astype(dtype) + beta * high.astype(dtype)
        return mixed.astype(knots.dtype)

    return jax.tree.map(mix, kept)
