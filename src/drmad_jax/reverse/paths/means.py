"""The means of stretches of training: smoother than the states at their edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import LARGE_STATE, Record, StandIn, divided
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run


def _to_bits(x: Array) -> Array:
    """In bfloat16, half the bytes; its error of 0.2% is far below the distance of mean and states.

    As integers: XLA may turn a whole array of bfloat16 into float32 before it takes a row of it.
    """
    return jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)


def _from_bits(bits: Array) -> Array:
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Means(StandIn):
    """w_t stands at the mean of its stretch's states, optimizer and model state included.

    The steps say how training is divided (`Visits.edges`).

    Attributes:
        most: The mean is over at most about this many states of a stretch, evenly spaced.
        on_host: Whether means are kept in the memory of the host.
        exact: Whether means are kept in at least float32; in bfloat16 if not. `None` for what the
            size of the state says (`LARGE_STATE`).
    """

    most: int = 32
    on_host: bool = False
    exact: bool | None = None

    needs_edges = True

    def resolve(self, state: TrainState) -> "Means":
        """In low precision where the state is large."""
        if self.exact is not None:
            return self
        return dataclasses.replace(self, exact=tree.num_bytes(state) < LARGE_STATE)

    def lengths(self, run: Run, visits: Visits) -> list[int]:
        """From one summed state to the next."""
        return [length for stretch in self._pieces(visits) for length in stretch]

    def room(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> PyTree:
        """Room for the sum so far of one stretch, and for the means of all."""
        inexact = tree.partition(state)[0]
        means = tree.rows(self._stored(tree.widen(inexact)), len(self._pieces(visits)))
        means = tree.on_host(means) if self.on_host else means
        return tree.widen(tree.zeros_like(inexact)), means

    def note(
        self, run: Run, track: Record, index: Array, when: Array | bool, visits: Visits
    ) -> Record:
        """Adds the state to the sum of its stretch; the mean so far is written down."""
        pieces = self._pieces(visits)
        at = lambda table: jnp.asarray(table, jnp.int32)[index]
        stretch = at([i for i, lengths in enumerate(pieces) for _ in lengths])
        number = at([1 + k for lengths in pieces for k in range(len(lengths))])
        sums, means = track.kept
        before = jax.tree.map(lambda x: jnp.where(number == 1, jnp.zeros_like(x), x), sums)
        now = tree.add(before, tree.partition(track.state)[0])
        mean = self._stored(jax.tree.map(lambda x: x / number.astype(x.dtype), now))
        keep = lambda new, old: jnp.where(when, new, old) if when is not True else new
        now = jax.tree.map(keep, now, sums)
        return track._replace(kept=(now, tree.put(means, stretch, mean, when)))

    def places(self, run: Run, track: Record, visits: Visits) -> TrainState:
        """The means themselves."""
        return track.kept[1]

    def stand_in(self, track: Record, place: TrainState) -> TrainState:
        """The mean, in the dtypes of the state."""
        if self.exact is False:
            place = jax.tree.map(_from_bits, place)
        return tree.cast_like(place, tree.partition(track.state)[0])

    def _stored(self, mean: PyTree) -> PyTree:
        return jax.tree.map(_to_bits, mean) if self.exact is False else mean

    def _pieces(self, visits: Visits) -> list[list[int]]:
        """Steps from one summed state to the next, stretch by stretch."""
        lengths = map(int, np.diff(np.asarray(visits.edges)))
        return [divided(n, max(1, n // self.most)) for n in lengths]
