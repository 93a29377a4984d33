"""Which steps the reverse pass visits, where on the path, and how many steps each stands for."""

import dataclasses
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

Spacing = Literal["dense", "even"]
Weighting = Literal["count", "none"]


class Visits(NamedTuple):
    """The visited steps in the order of training, NumPy arrays of the same length S.

    Attributes:
        position: Where on the path each is linearised, in steps from the start, in [0, T].
        step: The step t whose batch, key and counters are used, in [0, T).
        weight: How many steps each stands for in the hypergradient.
    """

    position: np.ndarray
    step: np.ndarray
    weight: np.ndarray


@runtime_checkable
class ReverseSteps(Protocol):
    """A choice of visits, a frozen value that is called with the number of inner steps."""

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps."""
        ...


@dataclasses.dataclass(frozen=True)
class AllSteps:
    """Every step once."""

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps."""
        return _plain(np.arange(num_steps))


@dataclasses.dataclass(frozen=True)
class LastSteps:
    """The last `count` steps once each; all of them where the run is shorter."""

    count: int

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps."""
        return _plain(np.arange(max(0, num_steps - self.count), num_steps))


@dataclasses.dataclass(frozen=True)
class Stride:
    """The middle step of each of `count` segments; all steps where the run is shorter.

    Attributes:
        count: Number of segments S.
        spacing: "dense" puts the edges at T(1 − u²) with u evenly spaced, dense near the end of
            training; "even" at equal distances.
        weighting: "count" adds each visited step's term as often as its segment has steps; "none"
            adds it once, which shrinks the hypergradient by about S/T.
    """

    count: int
    spacing: Spacing = "dense"
    weighting: Weighting = "count"

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps."""
        edges = self.edges(num_steps)
        low, high = edges[:-1], edges[1:]
        middle = (low + high - 1) // 2
        weight = high - low if self.weighting == "count" else np.ones_like(low)
        return Visits(middle.astype(float), middle, weight.astype(float))

    def edges(self, num_steps: int) -> np.ndarray:
        """Edges of the segments, strictly increasing integers from 0 to T."""
        count = min(self.count, num_steps)
        fraction = np.linspace(0.0, 1.0, count + 1)
        if self.spacing == "dense":
            fraction = 1.0 - (1.0 - fraction) ** 2
        edges = np.rint(num_steps * fraction).astype(int)
        return np.minimum(edges, num_steps - np.arange(count, -1, -1))


@dataclasses.dataclass(frozen=True)
class PublishedStride:
    """The reverse steps of the published code: S points of the line, the first S batches.

    Fu et al. 2016, `cpu_ver`: β from linspace(0.001, 0.999, S), batches and step sizes of the
    first S training steps, each term added once.
    """

    count: int

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps."""
        count = min(self.count, num_steps)
        position = num_steps * np.linspace(0.001, 0.999, count)
        return Visits(position, np.arange(count), np.ones(count))


def _plain(steps: np.ndarray) -> Visits:
    return Visits(steps.astype(float), steps, np.ones(len(steps)))
