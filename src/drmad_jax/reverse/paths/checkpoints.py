"""The true trajectory: stored whole, or in part with the rest computed again."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import (
    Carry,
    Path,
    Visit,
    divided,
    pass_over_unweighted,
    weights_of,
)
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run, forward_scan, reverse_scan


@dataclasses.dataclass(frozen=True)
class Checkpoints(Path):
    """w_t is the state that training passed through.

    Attributes:
        intervals: Steps between checkpoints, level by level, each a divisor of the one before,
            the last one 1. (1,) stores every state; (k, 1) stores every k-th and computes the k
            states of one interval again on the way back. `None` leaves the choice to `levels`.
        levels: Number of levels n of equal ratio r = ⌈T^(1/n)⌉: at most n·r states at a time.
        budget: Number of states that may be stored at a time; takes as few levels as fit.
    """

    intervals: tuple[int, ...] | None = (1,)
    levels: int = 2
    budget: int | None = None

    def is_true(self, num_steps: int) -> bool:
        """Always."""
        return True

    def remember(
        self, run: Run, state: TrainState, hparams: PyTree, visits: Visits
    ) -> tuple[TrainState, PyTree]:
        """Trains, storing the states that start an interval of the first level."""
        start, count = _span(run, visits)
        if start > run.begin:
            state = run.train(state, hparams, start - run.begin)
        lengths = divided(count, self._intervals(count)[0])
        step = lambda state: run.step(state, hparams)
        return forward_scan(step, state, lengths, keep=lambda state: state)

    def remember_with_mean(
        self, run: Run, state: TrainState, hparams: PyTree
    ) -> tuple[TrainState, PyTree, TrainState]:
        """As `remember` for every step, with the mean of weights and model state at all states."""
        seen = lambda state: tree.partition(state._replace(opt_state=None))[0]
        add = lambda total, state: tree.add(total, seen(state))

        def step(carry):
            state, total = carry
            state = run.step(state, hparams)
            return state, add(total, state)

        carry = (state, tree.widen(seen(state)))
        lengths = divided(run.length, self._intervals(run.length)[0])
        (final, total), kept = forward_scan(step, carry, lengths, keep=lambda carry: carry[0])
        return final, kept, jax.tree.map(lambda x: x / (run.length + 1), total)

    def revisit(
        self,
        run: Run,
        trace: PyTree,
        hparams: PyTree,
        visit: Visit[Carry],
        carry: Carry,
        visits: Visits,
    ) -> Carry:
        """Visits the steps, computing again level by level what was not stored."""
        _, count = _span(run, visits)
        intervals = self._intervals(count)
        ragged = count % intervals[0] != 0
        visit = _at_visited_steps(visit, run, visits, ragged)

        def step(state):
            one = lambda state: run.step(state, hparams)
            if not ragged:
                return one(state)
            return jax.lax.cond(state.step < run.end, one, lambda s: s, state)

        def reverse(level: int, starts: PyTree, carry: Carry) -> Carry:
            def visit_start(carry: Carry, state: TrainState) -> Carry:
                if level + 1 == len(intervals):
                    return visit(carry, state, None, None)
                inner = intervals[level + 1]
                lengths = [inner] * (intervals[level] // inner)
                _, states = forward_scan(step, state, lengths, keep=lambda state: state)
                return reverse(level + 1, states, carry)

            return reverse_scan(visit_start, carry, starts)

        return reverse(0, trace, carry)

    def _intervals(self, count: int) -> tuple[int, ...]:
        if self.intervals is None:
            levels = self.levels if self.budget is None else _levels_within(self.budget, count)
            ratio = _ratio(count, levels)
            intervals = tuple(ratio**level for level in reversed(range(levels)))
        else:
            intervals = self.intervals
        # An interval longer than the run would only add steps to skip.
        return tuple(every for every in intervals if every <= count) or (1,)


def _ratio(count: int, levels: int) -> int:
    """The smallest r ≥ 2 with r^levels ≥ count."""
    ratio = max(2, round(count ** (1 / levels)) - 1)
    while ratio**levels < count:
        ratio += 1
    return ratio


def _levels_within(budget: int, count: int) -> int:
    """The fewest levels whose states fit into the budget."""
    most = max(1, math.ceil(math.log2(count)))
    for levels in range(1, most + 1):
        if levels * _ratio(count, levels) <= budget:
            return levels
    least = min(levels * _ratio(count, levels) for levels in range(1, most + 1))
    raise ValueError(
        f"checkpointed: {count} steps cannot be reversed with `budget` = {budget} stored states: "
        f"{least} is the least"
    )


def _span(run: Run, visits: Visits) -> tuple[int, int]:
    """The first visited step, and how many steps there are from it to the end."""
    start = int(visits.step[0])
    return start, run.end - start


def _at_visited_steps(visit: Visit, run: Run, visits: Visits, ragged: bool) -> Visit:
    """Passes over steps that are not visited, or that only fill up the last interval."""
    start, count = _span(run, visits)
    weights = weights_of(visits)
    if not ragged and weights is None and len(visits.step) == count:
        return visit
    # One more entry than steps: every state past the end reads the zero there.
    table = np.zeros(count + 1, np.float32)
    table[visits.step - start] = visits.weight

    given = (lambda c, s, w, at: visit(c, s, None, at)) if weights is None else visit
    guarded = pass_over_unweighted(given)

    def visit_if_weighted(carry, state, _, at):
        weight = jnp.asarray(table)[jnp.minimum(state.step - start, count)]
        return guarded(carry, state, weight, at)

    return visit_if_weighted
