"""What the run loop asks of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from jaxtyping import Array, Float, PyTree

import drmad_jax as dj

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        """Takes hyperparameters back to where they are allowed, or `None`."""
        ...

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
        """Named scalars about the trained state, `test_loss` and `test_error` among them."""
        ...

    def figures(self, hparams: PyTree) -> dict[str, Figure]:
        """Figures of learned hyperparameters (NumPy arrays), by file name without suffix."""
        ...
