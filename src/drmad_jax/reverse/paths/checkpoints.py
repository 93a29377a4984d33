"""The true trajectory: stored whole, or in part with the rest computed again."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import (
    LARGE_STATE,
    Carry,
    Path,
    Visit,
    pass_over_unweighted,
    weights_of,
)
from drmad_jax.reverse.paths.schedule import (
    MOST_EVALUATIONS,
    Schedule,
    binomial,
    evaluations,
    nested,
    schedule,
    slots_for,
)
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run

# States kept where memory is scarce.
FEW = 4


class Track(NamedTuple):
    """What is remembered of the true trajectory.

    Attributes:
        state: Where training stands.
        slots: States, stacked; on the way back handed from visit to visit.
        total: Sum of weights and model state over all states so far, if wanted; their mean, once
            training has ended.
    """

    state: TrainState
    slots: PyTree
    total: PyTree


@dataclasses.dataclass(frozen=True)
class Checkpoints(Path):
    """w_t is the state that training passed through.

    Attributes:
        intervals: Steps between checkpoints, level by level, each a divisor of the one before,
            the last one 1. (1,) stores every state; (k, 1) stores every k-th and computes the k
            states of one interval again on the way back. `None` leaves the choice to `levels`.
        levels: How often each step is computed at most, training included; in as few states as
            that allows (binomial checkpoints). `None` for 2, or for a budget of `FEW` states where
            the state is large (`LARGE_STATE`).
        budget: Number of states that may be stored at a time; each step is computed as seldom as
            fits.
        on_host: Whether states are stored in the memory of the host.
        averages: Whether the mean of weights and model state over all states is wanted.
    """

    intervals: tuple[int, ...] | None = (1,)
    levels: int | None = 2
    budget: int | None = None
    on_host: bool = False
    averages: bool = False

    def resolve(self, state: TrainState) -> "Checkpoints":
        """With a number of levels, or a budget where the state is large."""
        if (self.intervals, self.levels, self.budget) != (None, None, None):
            return self
        if tree.num_bytes(state) < LARGE_STATE:
            return dataclasses.replace(self, levels=2)
        return dataclasses.replace(self, budget=FEW)

    def is_true(self, num_steps: int) -> bool:
        """Always."""
        return True

    def lengths(self, run: Run, visits: Visits) -> list[int]:
        """Up to the first visited step, then from one stored state to the next."""
        start, plan = self._plan(run, visits)
        return [*_before(start), *map(int, np.diff([*plan.kept, run.length - start]))]

    def blank(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> Track:
        """Room for the states."""
        total = tree.widen(_summed(state)) if self.averages else None
        slots = tree.rows(state, self._plan(run, visits)[1].num_slots)
        return Track(state, tree.on_host(slots) if self.on_host else slots, total)

    def step(self, run: Run, track: Track, hparams: PyTree) -> Track:
        """A step of training."""
        state, total = run.step(track.state, hparams), track.total
        if self.averages:
            total = tree.add(total, _summed(state))
        return track._replace(state=state, total=total)

    def note(
        self, run: Run, track: Track, index: Array, when: Array | bool, visits: Visits
    ) -> Track:
        """Stores the state in the next slot."""
        before = len(_before(self._plan(run, visits)[0]))
        if before:
            when = when & (index >= before)
        slots = tree.put(track.slots, jnp.maximum(index - before, 0), track.state, when)
        return track._replace(slots=slots)

    def ended(self, run: Run, track: Track, visits: Visits) -> Track:
        """The sum becomes the mean."""
        return track._replace(total=jax.tree.map(lambda x: x / (run.length + 1), track.total))

    def last(self, track: Track) -> TrainState:
        """Where training stands."""
        return track.state

    def turn(self, run: Run, track: Track, visits: Visits) -> tuple[Track, PyTree]:
        """The slots are written to on the way back."""
        return track._replace(slots=None), track.slots

    def num_visits(self, run: Run, visits: Visits) -> int:
        """Every step from the first visited one, those that are passed over included."""
        return run.length - self._plan(run, visits)[0]

    def again(self, run: Run, visits: Visits, index: int) -> tuple[np.ndarray, int | None]:
        """Those from a stored state on."""
        start, plan = self._plan(run, visits)
        step = run.begin + start + index
        visit = int(np.searchsorted(visits.step, step))
        visited = visit < len(visits.step) and visits.step[visit] == step
        return np.arange(step - plan.ahead[index], step), visit if visited else None

    def revisit(
        self,
        run: Run,
        track: Track,
        hparams: PyTree,
        visit: Visit[Carry],
        own: PyTree,
        carry: Carry,
        index: Array,
        visits: Visits,
    ) -> tuple[PyTree, Carry]:
        """Visits a step, after computing again what was not stored."""
        start, plan = self._plan(run, visits)
        at = lambda table: jnp.asarray(table, jnp.int32)[index]
        slots = own
        state = tree.row(slots, at(plan.slot))
        if np.any(plan.ahead):
            begin, store = at(plan.begin), jnp.asarray(plan.store, jnp.int32)

            def again(i, both):
                state = run.step(both[0], hparams)
                return state, tree.put(both[1], store[begin + i], state)

            state, slots = jax.lax.fori_loop(0, at(plan.ahead), again, (state, slots))
        weights = weights_of(visits)
        if weights is None and len(visits.step) == self.num_visits(run, visits):
            return slots, visit(carry, state, None, None)
        table = np.zeros(self.num_visits(run, visits), np.float32)
        table[visits.step - run.begin - start] = visits.weight
        given = (lambda c, s, w, at: visit(c, s, None, at)) if weights is None else visit
        return slots, pass_over_unweighted(given)(carry, state, jnp.asarray(table)[index], None)

    def _plan(self, run: Run, visits: Visits) -> tuple[int, Schedule]:
        """Steps before the first visited one, and the schedule of those from it on."""
        start = int(visits.step[0]) - run.begin
        return start, planned(self, run.length - start)


@functools.lru_cache(maxsize=256)
def planned(path: Checkpoints, count: int) -> Schedule:
    """The schedule of the last `count` steps.

    Raises:
        ValueError: If the budget is too small for them.
    """
    if path.intervals is not None:
        # An interval longer than the run would store nothing.
        fitting = tuple(every for every in path.intervals if every <= count)
        return schedule(count, nested(fitting or (1,)))
    if path.budget is None:
        return schedule(count, binomial(slots_for(count, min(path.levels or 2, MOST_EVALUATIONS))))
    if path.budget >= count:
        return schedule(count, nested((1,)))
    # One for the states that are stored for nobody.
    num_slots = path.budget - 1
    if num_slots < 1 or evaluations(count, num_slots) > MOST_EVALUATIONS:
        raise ValueError(
            f"checkpointed: {count} steps cannot be reversed with `budget` = {path.budget} stored "
            f"states unless some are computed more than {MOST_EVALUATIONS} times: "
            f"{slots_for(count, MOST_EVALUATIONS) + 1} is the least"
        )
    return schedule(count, binomial(num_slots))


def _before(start: int) -> list[int]:
    return [start] if start else []


def _summed(state: TrainState) -> PyTree:
    return tree.partition(state._replace(opt_state=None))[0]
