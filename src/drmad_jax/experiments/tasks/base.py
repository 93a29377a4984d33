"""What the run loop asks of a task, and how a task registers itself."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from jaxtyping import Array, Float, PyTree
from matplotlib.figure import Figure

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.section import Section
from drmad_jax.experiments.config.task import TaskConfig
from drmad_jax.experiments.errors import ConfigError

S = TypeVar("S", bound=TaskConfig)
D = TypeVar("D", bound=Section)
M = TypeVar("M", bound=Section)
T = TypeVar("T", bound=type["Task"])

Scalar = Float[Array, ""]
Scores = dict[str, Scalar]


class Inputs(NamedTuple):
    """What one training run starts from: the arguments of a hypergradient after `hparams`.

    Attributes:
        params: Initial weights.
        inner_batches: Training batches, stacked or a callable pytree.
        outer_batch: What the outer loss is taken on.
        model_state: Initial model state, `None` for models without.
        key: Key of the run, for losses and for methods that draw.
    """

    params: PyTree
    inner_batches: PyTree
    outer_batch: PyTree
    model_state: PyTree = None
    key: Array | None = None


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC, Generic[S, D, M]):
    """A bilevel problem with its data, drawn again at every outer step.

    Attributes:
        config: The whole configuration.
        task: Its section `[task]`.
        data: Its section `[data]`.
        model: Its section `[model]`.
    """

    config: Config
    task: S
    data: D
    model: M

    def check(self) -> None:
        """Raises a `ConfigError` where sections do not fit together."""

    @property
    @abc.abstractmethod
    def problem(self) -> dj.Problem:
        """Inner loss, outer loss and inner optimizer."""

    @property
    def project(self) -> Callable[[PyTree], PyTree] | None:
        """Takes hyperparameters back to where they are allowed; `None` where all of them are."""
        return None

    @property
    def fixed_key(self) -> Array:
        """The key of what is drawn once, and is the same at every outer step and when judged."""
        # No outer step and no fresh seed has this number.
        return jax.random.fold_in(jax.random.key(self.config.seed), 2**32 - 2)

    @abc.abstractmethod
    def load_data(self) -> PyTree:
        """The arrays that `sample` and `evaluate` get; the only method that reads files."""

    @abc.abstractmethod
    def init_hparams(self) -> PyTree:
        """The hyperparameters that tuning starts from."""

    @abc.abstractmethod
    def sample(self, key: Array, data: PyTree) -> Inputs:
        """Splits, initial weights and minibatches of one outer step; pure, to be jitted."""

    @abc.abstractmethod
    def evaluate(self, state: dj.TrainState, hparams: PyTree, data: PyTree) -> Scores:
        """Named scalars about the trained state, the section's `headline` among them."""

    def evaluate_fresh(
        self, inputs: Inputs, state: dj.TrainState, hparams: PyTree, data: PyTree
    ) -> Scores:
        """Further scalars for fresh seeds alone: what costs too much at every outer step."""
        del inputs, state, hparams, data
        return {}

    def figures(self, hparams: PyTree, data: PyTree) -> dict[str, Figure]:
        """Figures of learned hyperparameters (NumPy arrays), by file name without suffix."""
        del hparams, data
        return {}


def task(
    section: type[TaskConfig],
    *,
    data: type[Section] | Sequence[type[Section]],
    model: Sequence[type[Section]],
) -> Callable[[T], T]:
    """A decorator that registers a task.

    Args:
        section: Its section `[task]`.
        data: The kind of section `[data]` that it works with, or the kinds.
        model: The kinds of section `[model]`, any of which it takes.

    Returns:
        The decorator of a class of tasks.
    """

    def add(cls: T) -> T:
        def make(config: Config) -> Any:
            _check_kind(config, "data", config.data, [data] if isinstance(data, type) else data)
            _check_kind(config, "model", config.model, model)
            made: Any = cls(config, config.task, config.data, config.model)
            made.check()
            return made

        section.make = staticmethod(make)
        return cls

    return add


def train_once(
    problem: dj.Problem, hparams: PyTree, inputs: Inputs, num_steps: int
) -> dj.TrainState:
    """The end of one training run, at the memory of one training state.

    Args:
        problem: The problem.
        hparams: Hyperparameters.
        inputs: What training starts from.
        num_steps: Number of steps.

    Returns:
        The final state.
    """
    train = dj.trained(problem, num_steps=num_steps)
    params, batches = inputs.params, inputs.inner_batches
    return train(hparams, params, batches, model_state=inputs.model_state, key=inputs.key)


def _check_kind(config: Config, key: str, found: Any, kinds: Sequence[type[Section]]) -> None:
    if not isinstance(found, tuple(kinds)):
        wanted = " or ".join(repr(kind.model_fields["kind"].default) for kind in kinds)
        raise ConfigError(
            f"{key}.kind: task {config.task.kind!r} works with {wanted}, got {found.kind!r}"
        )
