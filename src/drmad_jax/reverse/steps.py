"""Which steps the reverse pass visits, where on the path, and how many steps each stands for."""

import dataclasses
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

Spacing = Literal["dense", "even"]
Weighting = Literal["count", "none"]


class Visits(NamedTuple):
    """The visited steps in the order of training, arrays of the same length S.

    NumPy arrays, known at trace time, except where the steps depend on the run (`MeasuredStride`).

    Attributes:
        position: Where on the path each is linearised, in steps from the start, in [0, T].
        step: The step t whose batch, key and counters are used, in [0, T).
        weight: How many steps each stands for in the hypergradient; 0 for an entry to pass over.
    """

    position: np.ndarray | Array
    step: np.ndarray | Array
    weight: np.ndarray | Array

    @property
    def static(self) -> bool:
        """Whether the visits are known at trace time."""
        return isinstance(self.step, np.ndarray)


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
class Segments:
    """The whole run in segments, each taken at once (see `segment_step`).

    Attributes:
        count: Number of segments; that of steps where the run is shorter.
        num_products: Curvature products in each.
        num_batches: Inner batches over which each product is averaged.
        spacing: As of `Stride`.
    """

    count: int
    num_products: int
    num_batches: int
    spacing: Spacing = "dense"

    def __call__(self, num_steps: int) -> Visits:
        """The middle of each segment, weighted by its length."""
        return self._stride(num_steps)

    def edges(self, num_steps: int) -> np.ndarray:
        """Edges of the segments, strictly increasing integers from 0 to T."""
        return self._stride.edges(num_steps)

    @property
    def _stride(self) -> Stride:
        return Stride(self.count, self.spacing, "count")


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


@dataclasses.dataclass(frozen=True)
class MeasuredStride:
    """As many steps as the path is long, measured in steps of the size of the first ones.

    S = ⌈multiplier · ‖w_T − w_0‖ / mean ‖w_{t+1} − w_t‖ over the first `early` steps⌉, at most
    `cap`, evenly spread, each weighted for the T/S steps it stands for. From the second
    completion of DrMAD ("Experiments With Scalable Gradient-based Hyperparameter Optimization for
    Deep Neural Networks"), which leaves the weights out.
    """

    cap: int
    multiplier: float = 1.0
    early: int = 10

    def __call__(self, num_steps: int) -> Visits:
        """The visits where S reaches the cap."""
        return Stride(self.cap, "even", "count")(num_steps)

    def count(self, early_step: Array, distance: Array) -> Int[Array, ""]:
        """The number S of steps.

        Args:
            early_step: Mean length of the first steps.
            distance: ‖w_T − w_0‖.
        """
        ratio = jnp.ceil(self.multiplier * distance / early_step)
        # A run that did not move at all has 0/0: one step is enough.
        return jnp.clip(jnp.nan_to_num(ratio, nan=1.0), 1, self.cap).astype(jnp.int32)

    def spread(self, num_steps: int, count: Int[Array, ""]) -> Visits:
        """`count` visits evenly over the run, in `cap` entries."""
        index = jnp.arange(min(self.cap, num_steps), dtype=jnp.int32)
        count = jnp.minimum(count, num_steps)
        width = num_steps / count.astype(jnp.float32)
        middle = (index.astype(jnp.float32) + 0.5) * width - 0.5
        step = jnp.clip(jnp.rint(middle).astype(jnp.int32), 0, num_steps - 1)
        weight = jnp.where(index < count, width, 0.0)
        return Visits(step.astype(jnp.float32), step, weight)


def _plain(steps: np.ndarray) -> Visits:
    return Visits(steps.astype(float), steps, np.ones(len(steps)))
