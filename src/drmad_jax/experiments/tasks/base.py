"""What the run loop asks of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


S = TypeVar("S", bound=Any)


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


class Task(Protocol):
    """A bilevel problem with its data, drawn again at every outer step."""

    @property
    def problem(self) -> dj.Problem:
        """Inner loss, outer loss and inner optimizer."""
        ...

    @property
    def project(self) -> Callable[[PyTree], PyTree] | None:
        """Takes hyperparameters back to where they are allowed; `None` where all of them are."""
        return None

    def load_data(self) -> PyTree:
        """The arrays that `sample` and `evaluate` get; the only method that reads files."""
        ...

    def init_hparams(self) -> PyTree:
        """The hyperparameters that tuning starts from."""
        ...

    def sample(self, key: Array, data: PyTree) -> Inputs:
        """Splits, initial weights and minibatches of one outer step; pure, to be jitted."""
        ...

    def evaluate(
        self, state: dj.TrainState, hparams: PyTree, data: PyTree
    ) -> dict[str, Float[Array, ""]]:
        """Named scalars about the trained state, the section's `headline` among them."""
        ...

    def evaluate_fresh(
        self, inputs: Inputs, state: dj.TrainState, hparams: PyTree, data: PyTree
    ) -> dict[str, Float[Array, ""]]:
        """Further scalars for fresh seeds alone: what costs too much at every outer step."""
        del inputs, state, hparams, data
        return {}

    def figures(self, hparams: PyTree, data: PyTree) -> dict[str, Figure]:
        """Figures of learned hyperparameters (NumPy arrays), by file name without suffix."""
        ...


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
    # It remembers the end of training alone, and asks for no derivative of the optimizer.
    train = dj.train(problem, num_steps=num_steps, method=dj.implicit())
    params, batches = inputs.params, inputs.inner_batches
    return train(hparams, params, batches, model_state=inputs.model_state, key=inputs.key)


def check_tuned(tuned: Sequence[str]) -> None:
    """Checks a list of what is learned, the key `tuned` of a section `[task]`.

    Args:
        tuned: Names.

    Raises:
        ConfigError: If it is empty, or has a name twice.
    """
    if not tuned:
        raise ConfigError(
            "task.tuned: expected at least one name; for no tuning set outer.num_steps = 0"
        )
    for index, name in enumerate(tuned):
        if name in tuned[:index]:
            raise ConfigError(f"task.tuned: {name!r} is there twice")


def section(found: object, kind: type[S] | tuple[type[S], ...], key: str, config: Config) -> S:
    """A section of the kind that a task works with.

    Args:
        found: The section of the configuration.
        kind: The class that the task needs, or several of which it takes any.
        key: The section's name, for the message.
        config: The configuration.

    Returns:
        `found` itself.

    Raises:
        ConfigError: If it is of another kind.
    """
    if isinstance(found, kind):
        return found
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(repr(each.kind) for each in kinds)
    raise ConfigError(
        f"{key}.kind: task {config.task.kind!r} works with {wanted}, got {found.kind!r}"  # pyright: ignore[reportAttributeAccessIssue]
    )
