"""Which steps the reverse pass visits, where on the path, and what one visit does."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.training.curvature import Curvature
from drmad_jax.training.run import Run, forward_scan
from drmad_jax.training.step import Cotangent, ReverseInfo

Spacing = Literal["dense", "even"]
SPACINGS = ("dense", "even")
Weighting = Literal["count", "none"]
WEIGHTINGS = ("count", "none")


class Visits(NamedTuple):
    """The visited steps in the order of training, arrays of the same length S.

    NumPy arrays, known at trace time, except where the steps depend on the run (`MeasuredSteps`).

    Attributes:
        position: Where on the path each is linearised, in steps from the start, in [0, T].
        step: The step t whose batch, key and counters are used, in [0, T).
        weight: How many steps each stands for in the hypergradient; 0 for an entry to pass over.
        edges: The S + 1 edges of the stretches that the visits stand for, increasing integers
            from 0 to T; `None` where visits stand for no stretches.
    """

    position: np.ndarray | Array
    step: np.ndarray | Array
    weight: np.ndarray | Array
    edges: np.ndarray | None = None

    def shifted(self, begin: int) -> "Visits":
        """The same in a stretch of the run that begins at step `begin`."""
        edges = None if self.edges is None else self.edges + begin
        return Visits(self.position + begin, self.step + begin, self.weight, edges)

    @property
    def static(self) -> bool:
        """Whether the visits are known at trace time."""
        return isinstance(self.step, np.ndarray)


@runtime_checkable
class ReverseSteps(Protocol):
    """A choice of visits, a frozen value; called with the number of inner steps for its visits.

    What is defined here is right for single reverse steps.
    """

    # Whether a visit takes a whole stretch of steps, of whose curvature the positive part counts.
    takes_stretches: bool = False
    # Whether the visits divide the run into stretches (`Visits.edges`).
    has_edges: bool = False
    # Whether the visits depend on where training went (`measure`).
    measures: bool = False

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps; as many as there can be, if the run decides."""
        ...

    def reaches_start(self, num_steps: int) -> bool:
        """Whether the first step of training is among what the visits stand for."""
        return True

    def saves(self, num_steps: int) -> bool:
        """Whether they cost clearly less than `num_steps` single reverse steps."""
        return True

    def read(self, run: Run, state: TrainState, hparams: PyTree) -> bool:
        """Whether the hyperparameters read anything of a single step: its batch, its counters."""
        return False

    def resolve(self, run: Run, state: TrainState, hparams: PyTree) -> "ReverseSteps":
        """The steps for this run, with open choices made."""
        return self

    def unfit(self, run: Run, state: TrainState, hparams: PyTree) -> str | None:
        """Why these steps cannot be taken with this optimizer; `None` if they can."""
        return None

    def measure(self, run: Run, hparams: PyTree, start: TrainState, final: TrainState) -> Visits:
        """The visits of a run from `start` to `final`."""
        return self(run.length)

    def reads(self, run: Run, visits: Visits, index: int) -> np.ndarray:
        """The steps whose batches visit `index` reads."""
        return np.asarray(visits.step[index : index + 1])

    def begin(
        self, run: Run, hparams: PyTree, final: TrainState, cotangent: Cotangent
    ) -> Cotangent:
        """The cotangent at the end of training as the first visit wants it."""
        return cotangent

    def take(
        self,
        run: Run,
        hparams: PyTree,
        state: TrainState,
        cotangent: Cotangent,
        weight: PyTree,
        at: Callable[[Array], TrainState] | None,
        *,
        curvature: Curvature,
    ) -> tuple[Cotangent, ReverseInfo]:
        """One visit, linearised at `state`, that stands for `weight` steps (`None`: for one).

        `at` gives `state` the counters of another step; `None` where that is not known.
        """
        return run.reverse_step(state, hparams, cotangent, weight, curvature=curvature)


@dataclasses.dataclass(frozen=True)
class EveryStep(ReverseSteps):
    """Every step once."""

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps."""
        return _plain(np.arange(num_steps))


@dataclasses.dataclass(frozen=True)
class LastSteps(ReverseSteps):
    """The last `count` steps once each; all of them where the run is shorter."""

    count: int

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps."""
        return _plain(np.arange(max(0, num_steps - self.count), num_steps))

    def reaches_start(self, num_steps: int) -> bool:
        """In short runs only."""
        return self.count >= num_steps


@dataclasses.dataclass(frozen=True)
class StridedSteps(ReverseSteps):
    """The middle step of each of `count` stretches; all steps where the run is shorter.

    Attributes:
        count: Number of stretches S.
        spacing: "dense" puts the edges at T(1 − u²) with u evenly spaced, dense near the end of
            training; "even" at equal distances.
        weighting: "count" adds each visited step's term as often as its stretch has steps; "none"
            adds it once, which shrinks the hypergradient by about S/T.
    """

    count: int
    spacing: Spacing = "dense"
    weighting: Weighting = "count"

    has_edges = True

    def __call__(self, num_steps: int) -> Visits:
        """The visits of a run of `num_steps` steps."""
        edges = stretches(num_steps, self.count, self.spacing)
        visits = middles(edges)
        if self.weighting == "count":
            return visits
        return visits._replace(weight=np.ones_like(visits.weight))


@dataclasses.dataclass(frozen=True)
class PublishedSteps(ReverseSteps):
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
class MeasuredSteps(ReverseSteps):
    """As many steps as the path is long, measured in steps of the size of the first ones.

    S = ⌈multiplier · ‖w_T − w_0‖ / mean ‖w_{t+1} − w_t‖ over the first `early` steps⌉, at most
    `cap`, evenly spread, each weighted for the T/S steps it stands for. From the second
    completion of DrMAD ("Experiments With Scalable Gradient-based Hyperparameter Optimization for
    Deep Neural Networks"), which leaves the weights out.
    """

    cap: int
    multiplier: float = 1.0
    early: int = 10

    measures = True

    def __call__(self, num_steps: int) -> Visits:
        """The visits where S reaches the cap."""
        return StridedSteps(self.cap, "even")(num_steps)

    def measure(self, run: Run, hparams: PyTree, start: TrainState, final: TrainState) -> Visits:
        """As many visits as the way from `start` to `final` asks for."""
        early = min(self.early, run.length)
        step = lambda state: run.step(state, hparams)
        last, kept = forward_scan(step, start, [1] * early, keep=lambda state: state.params)
        after = jax.tree.map(lambda x, y: jnp.concatenate([x[1:], y[None]]), kept, last.params)
        early_step = jnp.mean(jax.vmap(tree.distance)(after, kept))
        return self.spread(
            run.length, self.count(early_step, tree.distance(final.params, start.params))
        )

    def count(self, early_step: Array, distance: Array) -> Int[Array, ""]:
        """The number S of steps.

        Args:
            early_step: Mean length of the first steps.
            distance: ‖w_T − w_0‖.
        """
        ratio = self.multiplier * distance / jnp.where(early_step > 0, early_step, 1)
        # For a run that did not move at all one step is enough.
        at_rest = jnp.where(distance > 0, self.cap, 1)
        count = jnp.where(early_step > 0, jnp.ceil(ratio), at_rest)
        return jnp.clip(count, 1, self.cap).astype(jnp.int32)

    def spread(self, num_steps: int, count: Int[Array, ""]) -> Visits:
        """`count` visits evenly over the run, in `cap` entries."""
        index = jnp.arange(min(self.cap, num_steps), dtype=jnp.int32)
        count = jnp.minimum(count, num_steps)
        width = num_steps / count.astype(jnp.float32)
        middle = (index.astype(jnp.float32) + 0.5) * width - 0.5
        step = jnp.clip(jnp.rint(middle).astype(jnp.int32), 0, num_steps - 1)
        weight = jnp.where(index < count, width, 0.0)
        return Visits(step.astype(jnp.float32), step, weight)


def stretches(num_steps: int, count: int, spacing: Spacing) -> np.ndarray:
    """Edges of `count` stretches (of as many as fit), increasing integers from 0 to T."""
    count = min(count, num_steps)
    fraction = np.linspace(0.0, 1.0, count + 1)
    if spacing == "dense":
        fraction = 1.0 - (1.0 - fraction) ** 2
    edges = np.rint(num_steps * fraction).astype(int)
    return np.minimum(edges, num_steps - np.arange(count, -1, -1))


def middles(edges: np.ndarray) -> Visits:
    """The middle step of each stretch, weighted by its length."""
    low, high = edges[:-1], edges[1:]
    middle = (low + high - 1) // 2
    return Visits(middle.astype(float), middle, (high - low).astype(float), edges)


def _plain(steps: np.ndarray) -> Visits:
    return Visits(steps.astype(float), steps, np.ones(len(steps)))
