"""The means of stretches of training: smoother than the states at their edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Record, StandIn, divided
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class Means(StandIn):
    """w_t stands at the mean of its stretch's states, optimizer and model state included.

    The steps say how training is divided (`Visits.edges`).

    Attributes:
        most: The mean is over at most about this many states of a stretch, evenly spaced.
    """

    most: int = 32

    needs_edges = True

    def lengths(self, run: Run, visits: Visits) -> list[int]:
        """From one summed state to the next."""
        return [length for stretch in self._pieces(visits) for length in stretch]

    def room(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> TrainState:
        """Room for the sums, one for each stretch."""
        zeros = tree.widen(tree.zeros_like(tree.partition(state)[0]))
        return tree.rows(zeros, len(self._pieces(visits)))

    def note(
        self, run: Run, track: Record, index: Array, when: Array | bool, visits: Visits
    ) -> Record:
        """Adds the state to its stretch's sum."""
        counts = [len(pieces) for pieces in self._pieces(visits)]
        stretch = jnp.asarray(np.repeat(np.arange(len(counts)), counts), jnp.int32)[index]
        sums = tree.add(tree.row(track.kept, stretch), tree.partition(track.state)[0])
        return track._replace(kept=tree.put(track.kept, stretch, sums, when))

    def ended(self, run: Run, track: Record, visits: Visits) -> Record:
        """The sums become means."""
        counts = np.array([len(pieces) for pieces in self._pieces(visits)])
        share = lambda x: x / jnp.asarray(counts, x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return track._replace(kept=jax.tree.map(share, track.kept))

    def places(self, run: Run, track: Record, visits: Visits) -> TrainState:
        """The means themselves."""
        return track.kept

    def stand_in(self, track: Record, place: TrainState) -> TrainState:
        """The mean, in the dtypes of the state."""
        return tree.cast_like(place, tree.partition(track.state)[0])

    def _pieces(self, visits: Visits) -> list[list[int]]:
        """Steps from one summed state to the next, stretch by stretch."""
        lengths = map(int, np.diff(np.asarray(visits.edges)))
        return [divided(n, max(1, n // self.most)) for n in lengths]
