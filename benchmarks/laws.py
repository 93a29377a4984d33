"""Temporary memory by formula: what docs/scale.md says, held against compiled bytes.

What a method keeps was counted by reading it. The constants beside it (three states and two vectors
of an exact way back, what fixed point holds) were read off compiled programs, one for all
sizes and numbers of steps.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import lineup

LARGE_STATE = 2**28
MOMENTUM = 0.9
SEGMENTS, PRODUCTS = 8, 5


class Size(NamedTuple):
    """How large a problem is: bytes, but for the last two.

    Attributes:
        state, weights: S and W.
        gradient, product: G and P, what one gradient and one curvature product ask for.
        num_steps, num_hparams: T, and the number N of entries of the hyperparameters.
    """

    state: int
    weights: int
    gradient: int
    product: int
    num_steps: int
    num_hparams: int


def slots(num_steps: int) -> int:
    """States that two levels of binomial checkpoints hold: about the root of 2T, and a spare."""
    count = 1
    while math.comb(count + 2, 2) < num_steps:
        count += 1
    return count + 1


def going_back(size: Size, num_states: int | float) -> float:
    """An exact way back with so many states."""
    return (num_states + 3) * size.state + 2 * size.weights


def exact_end(num_steps: int) -> int:
    """K, the square next to the root of 20 T."""
    return round((20 * num_steps) ** 0.25) ** 2


def of_means(size: Size) -> float:
    """States that the means of the segments are as large as: in bfloat16 where memory is scarce."""
    return SEGMENTS / 2 if size.state >= LARGE_STATE else SEGMENTS


def drmad(size: Size) -> float:
    """The exact end's way back, the means beside it."""
    count = 4 if size.state >= LARGE_STATE else slots(exact_end(size.num_steps))
    return going_back(size, count + of_means(size))


def segments(size: Size) -> float:
    """The means, and the vectors of Lanczos' method."""
    vectors = (PRODUCTS + 4) * size.weights
    return (of_means(size) + 4) * size.state + vectors + size.product


def reversible(size: Size) -> float:
    """The lost bits, and 88 bytes a weight: the integers, their copies on the way back."""
    bits = size.num_steps * -math.log2(MOMENTUM)
    return size.weights * (bits / 32 + 22) + size.product


LAWS: dict[str, Callable[[Size], float]] = {
    lineup.PLAIN: lambda s: s.state + s.weights + s.gradient,
    lineup.DEFAULT: drmad,
    lineup.CHECKPOINTED: lambda s: going_back(s, slots(s.num_steps)),
    "checkpointed, 10 states": lambda s: going_back(s, 10),
    "its segments alone": segments,
    lineup.STORED: lambda s: going_back(s, s.num_steps),
    "forward": lambda s: (2 * s.num_hparams + 1) * s.state + s.weights + s.num_hparams * s.product,
    lineup.REVERSIBLE: reversible,
    "implicit": lambda s: s.state + 4 * s.weights + s.product,
}
