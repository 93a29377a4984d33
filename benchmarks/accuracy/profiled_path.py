"""A path that the study asks about: the line, each leaf at its own measured progress along it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from drmad_jax import tree
from drmad_jax.paths.base import Carry, Record, Visit, record, weights_of
from drmad_jax.problem import TrainState
from drmad_jax.unroll import Run, forward_scan, reverse_scan
from drmad_jax.visits import Visits


@dataclasses.dataclass(frozen=True)
class ProfiledLine:
    """w_t ≈ w_0 + s_t (w_T − w_0), s_t = ⟨w_t − w_0, w_T − w_0⟩/‖w_T − w_0‖² for each leaf.

    The line of DrMAD with t/T replaced by what training did. Since w_T must be known to measure
    it, training runs twice: the best that a profile kept in one run could do.
    """

    def forward(self, run: Run, state: TrainState, visits: Visits) -> tuple[TrainState, Record]:
        """Trains, and trains again for the progress of each leaf at the visited steps."""
        final, _ = forward_scan(run.step, state, [run.num_steps])
        along = jax.tree.map(jnp.subtract, final.params, state.params)

        def progress(state_now, _):
            moved = jax.tree.map(jnp.subtract, state_now.params, state.params)
            share = lambda m, a: jnp.sum(m * a) / jnp.maximum(jnp.sum(a * a), 1e-30)
            return jax.tree.map(share, moved, along)

        stops = [0, *map(int, visits.step), run.num_steps]
        trace = record(run, state, [*map(int, np.diff(stops)), 0], progress)
        # Between the start, whose progress is zero, and the end, whose progress is one.
        shares = jax.tree.map(lambda s: s[1:-1], trace.kept)
        return trace.final, trace._replace(kept=(state.params, shares))

    def backward(
        self, run: Run, trace: Record, visit: Visit[Carry], carry: Carry, visits: Visits
    ) -> Carry:
        """Visits the steps, each leaf at its own place on the line."""
        start, shares = trace.kept
        inexact, _ = tree.partition(trace.final)
        place = lambda share, w_0, w_T: w_0 + share * (w_T - w_0)

        def visit_place(carry, x):
            share, step, weight = x
            params = jax.tree.map(place, share, start, trace.final.params)
            state = trace.state_at(step, params, inexact._replace(params=None))
            return visit(carry, state, weight)

        xs = (shares, visits.step.astype(np.int32), weights_of(visits))
        return reverse_scan(visit_place, carry, xs)
