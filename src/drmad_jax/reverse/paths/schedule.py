"""Which states are stored on the way there, and how the others are had again on the way back."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# (stored step, step wanted, slots in use) -> how many steps on from the stored one the next state
# is stored; `None` where no more is.
Split = Callable[[int, int, int], int | None]

# Nobody wants each step evaluated more often, and the list of what to store would not end.
MOST_EVALUATIONS = 32


class Schedule(NamedTuple):
    """The way back through n steps.

    Attributes:
        kept: Steps whose states training stores, in slots 0, 1, …
        num_slots: Number of slots.
        slot: From which slot the state of each step is had, shape (n,).
        ahead: How many steps of training lead there from the state in it, shape (n,).
        begin: Where these steps stand in `store`, shape (n,).
        store: Into which slot the state after each of them is put.
    """

    kept: np.ndarray
    num_slots: int
    slot: np.ndarray
    ahead: np.ndarray
    begin: np.ndarray
    store: np.ndarray


def schedule(num_steps: int, split: Split) -> Schedule:
    """The schedule that a rule makes, from the last step to the first.

    Args:
        num_steps: Number n of steps.
        split: The rule.

    Returns:
        A `Schedule`; what is stored for nobody goes into a slot of its own, the last one.

    Example:
        >>> from drmad_jax.reverse.paths.schedule import nested, schedule
        >>> plan = schedule(6, nested((3, 1)))
        >>> plan.kept.tolist(), plan.slot.tolist(), plan.ahead.tolist()
        ([0, 3, 4, 5], [0, 1, 0, 1, 2, 3], [0, 0, 2, 0, 0, 0])
    """
    stored = [0]
    _store_towards(num_steps - 1, stored, split)
    kept, most = np.array(stored), len(stored)
    slot, ahead, store = np.zeros(num_steps, int), np.zeros(num_steps, int), list[list[int]]()
    for step in reversed(range(num_steps)):
        while stored[-1] > step:
            stored.pop()
        start, in_use = stored[-1], len(stored)
        slot[step], ahead[step] = in_use - 1, step - start
        _store_towards(step, stored, split)
        put = [-1] * (step - start)
        for index in range(in_use, len(stored)):
            put[stored[index] - start - 1] = index
        store.append(put)
        most = max(most, len(stored))
    begin = np.concatenate([np.zeros(1, int), np.cumsum(ahead)])[:-1]
    flat = np.array([index for put in reversed(store) for index in put] or [0], np.int32)
    loose = bool(np.any(flat < 0))
    return Schedule(kept, most + loose, slot, ahead, begin, np.where(flat < 0, most, flat))


def _store_towards(step: int, stored: list[int], split: Split) -> None:
    """Adds to the stored steps what is stored on the way from the last of them to another."""
    while stored[-1] < step:
        ahead = split(stored[-1], step, len(stored))
        if ahead is None:
            return
        stored.append(stored[-1] + ahead)


def nested(intervals: tuple[int, ...]) -> Split:
    """Every state that starts an interval, coarse ones first, each a multiple of the next."""
    return lambda start, step, in_use: max(i for i in intervals if i <= step - start)


def binomial(num_slots: int) -> Split:
    """The fewest steps again that so many slots allow (Griewank and Walther 2000, revolve)."""

    def split(start: int, step: int, in_use: int) -> int | None:
        if in_use == num_slots:
            return None
        # Slots from the stored state on, and steps to be taken back from there.
        slots, length = num_slots - in_use + 1, step - start + 1
        times = evaluations(length, slots)
        # The part behind is taken back with a slot less, the part before with a sweep less.
        before = math.comb(slots + times - 1, slots)
        behind = math.comb(slots + times - 2, slots - 1)
        return min(before, length - behind)

    return split


def evaluations(num_steps: int, num_slots: int) -> int:
    """How often the forward step is evaluated at most: the least r with C(s + r, s) ≥ n."""
    times = 1
    while math.comb(num_slots + times, num_slots) < num_steps:
        times += 1
    return times


@functools.cache
def slots_for(num_steps: int, times: int) -> int:
    """The fewest slots s with which no step is evaluated more often: C(s + r, s) ≥ n."""
    low, high = 1, num_steps
    while low < high:
        middle = (low + high) // 2
        enough = math.comb(middle + times, middle) >= num_steps
        low, high = (low, middle) if enough else (middle + 1, high)
    return low
