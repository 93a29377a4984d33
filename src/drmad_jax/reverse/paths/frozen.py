"""The frozen path: every step is linearised at the end of training."""

import dataclasses

from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Record, StandIn
from drmad_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class Frozen(StandIn):
    """w_t stands at w_T. With the Hessian and the last K steps: K terms of the Neumann series."""

    reaches_start = False

    def unknown(self, run: Run, state: TrainState, hparams: PyTree) -> list[str]:
        """None: the end is all that is asked for."""
        return []

    def stand_in(self, track: Record, place: None) -> TrainState:
        """The final state."""
        return tree.partition(track.state)[0]
