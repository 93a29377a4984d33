"""The frozen path: every step is linearised at the end of training."""

import dataclasses

import numpy as np
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Carry, Path, Record, Visit, record, weights_of
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run, reverse_scan


@dataclasses.dataclass(frozen=True)
class Frozen(Path):
    """w_t stands at w_T. With the Hessian and the last K steps: K terms of the Neumann series."""

    reaches_start = False

    def remember(
        self, run: Run, state: TrainState, hparams: PyTree, visits: Visits
    ) -> tuple[TrainState, Record]:
        """Trains, remembering only the end (and the counters)."""
        trace = record(run, state, hparams, [run.num_steps], keep=lambda state, _: None)
        return trace.final, trace

    def revisit(
        self,
        run: Run,
        trace: Record,
        hparams: PyTree,
        visit: Visit[Carry],
        carry: Carry,
        visits: Visits,
    ) -> Carry:
        """Visits the steps, each at the final state."""
        inexact, _ = tree.partition(trace.final)

        def visit_frozen(carry, x):
            step, weight = x
            return visit(carry, trace.state_at(step, inexact.params, inexact), weight)

        steps = visits.step.astype(np.int32)
        return reverse_scan(visit_frozen, carry, (steps, weights_of(visits)))
