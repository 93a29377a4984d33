"""The means of stretches of training: smoother than the states at their edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Record, StandIn, divided, record
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

    def remember(
        self, run: Run, state: TrainState, hparams: PyTree, visits: Visits
    ) -> tuple[TrainState, Record]:
        """Trains, keeping the mean of each stretch."""
        edges = np.asarray(visits.edges)
        starts = jnp.asarray(edges, jnp.int32)
        pieces = [divided(n, max(1, n // self.most)) for n in map(int, np.diff(edges))]
        counts = np.array(list(map(len, pieces)))

        def follow(sums: TrainState, state: TrainState) -> TrainState:
            stretch = jnp.searchsorted(starts, state.step, side="right") - 1
            add = lambda sums, x: sums.at[stretch].add(x.astype(sums.dtype))
            return jax.tree.map(add, sums, tree.partition(state)[0])

        zeros = tree.widen(tree.zeros_like(tree.partition(state)[0]))
        zeros = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(counts), *x.shape)), zeros)
        lengths = [length for stretch in pieces for length in stretch]
        trace, sums = record(run, state, hparams, lengths, start=zeros, follow=follow)
        mean = jax.vmap(lambda sums, count: jax.tree.map(lambda x: x / count.astype(x.dtype), sums))
        return trace.final, trace._replace(kept=mean(sums, jnp.asarray(counts)))

    def places(self, run: Run, trace: Record, visits: Visits) -> TrainState:
        """The means themselves."""
        return trace.kept

    def stand_in(self, trace: Record, place: TrainState) -> TrainState:
        """The mean, in the dtypes of the state."""
        return tree.cast_like(place, tree.partition(trace.final)[0])
