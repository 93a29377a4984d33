"""The one forward loop and the one reverse loop, and what a whole run consists of."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax.problem import Problem, TrainState
from drmad_jax.training.batches import batch_at
from drmad_jax.training.curvature import Curvature
from drmad_jax.training.step import Cotangent, reverse_step, train_step

Carry = TypeVar("Carry")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that a training run reads and does not change.

    Attributes:
        problem: The problem.
        num_steps: Number of inner steps T, a Python int.
        hparams: Hyperparameters.
        inner_batches: The batch source (see `hypergradient`).
        key: Key of the run, or `None`.
        start: `hparams -> TrainState`, how the initial state depends on the hyperparameters.
        fresh_batches: Whether the way back draws other batches than the way there.
    """

    problem: Problem
    num_steps: int
    hparams: PyTree
    inner_batches: PyTree
    key: Array | None
    start: Callable[[PyTree], TrainState]
    fresh_batches: bool = False

    def draw_key(self) -> Array:
        """Key of whatever a method draws by itself; a fixed one if the call passed none."""
        # No step of training takes it: their keys are folded from 0 to T − 1.
        return (
            jax.random.key(0) if self.key is None else jax.random.fold_in(self.key, self.num_steps)
        )

    def step(self, state: TrainState, *, curvature: Curvature | None = None) -> TrainState:
        """One train step from `state`, on the batch of its own step counter."""
        batch = batch_at(self.inner_batches, state.step)
        new, _ = train_step(
            self.problem, state, self.hparams, batch, key=self.key, curvature=curvature
        )
        return new

    def reverse_step(
        self, state: TrainState, cotangent: Cotangent, weight: PyTree, *, curvature: Curvature
    ) -> tuple[Cotangent, PyTree]:
        """One reverse step linearised at `state`, on the batch of its own step counter."""
        return reverse_step(
            self.problem,
            state,
            self.hparams,
            self.batch_on_way_back(state.step),
            cotangent,
            key=self.key,
            curvature=curvature,
            weight=weight,
        )

    def inputs(self, step: Array) -> tuple[PyTree, Array | None]:
        """What the loss of one step takes on the way back: its batch and its own key."""
        key = None if self.key is None else jax.random.fold_in(self.key, step)
        return self.batch_on_way_back(step), key

    def batch_on_way_back(self, step: Array) -> PyTree:
        """The batch of step `step`, or the fresh one that takes its place."""
        offset = self.num_steps if self.fresh_batches else 0
        return batch_at(self.inner_batches, step + offset)


def forward_scan(
    step: Callable[[Carry], Carry],
    carry: Carry,
    lengths: Sequence[int],
    *,
    keep: Callable[[Carry], PyTree] = lambda carry: None,
) -> tuple[Carry, PyTree]:
    """Repeats a step through segments of given lengths, keeping something at each segment's start.

    The steps inside a segment pay nothing for what is kept between segments.

    Args:
        step: `carry -> carry`.
        carry: What the steps carry; a `TrainState`, or a pytree around one.
        lengths: Steps in each segment, n Python ints, zeros allowed.
        keep: `carry -> pytree`, evaluated at the start of each segment.

    Returns:
        The final carry, and what was kept, stacked along a leading axis of size n.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> start = jnp.int32(0)
        >>> final, kept = dj.forward_scan(lambda x: x + 1, start, [2, 3, 0], keep=lambda x: x)
        >>> int(final), kept.tolist()
        (5, [0, 2, 5])
    """
    first = lengths[0] if len(lengths) else 0
    uniform = all(length == first for length in lengths)

    def segment(carry: Carry, length: Any) -> tuple[Carry, PyTree]:
        kept = keep(carry)
        if uniform and first == 1:
            return step(carry), kept
        count = first if uniform else length
        return jax.lax.fori_loop(0, count, lambda _, c: step(c), carry), kept

    if len(lengths) == 1:
        carry, kept = segment(carry, first)
        return carry, jax.tree.map(lambda x: jnp.asarray(x)[None], kept)
    return jax.lax.scan(segment, carry, np.asarray(lengths, np.int32))


def reverse_scan(visit: Callable[[Carry, PyTree], Carry], carry: Carry, visits: PyTree) -> Carry:
    """Goes through `visits` from last to first, carrying the cotangent and stacking nothing.

    Args:
        visit: `(carry, visit) -> carry`.
        carry: The cotangent at the end of training, and whatever travels with it.
        visits: A pytree with a leading axis, one entry per visited step, in the order of training.

    Returns:
        The carry after the first entry.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> int(dj.reverse_scan(lambda c, x: 10 * c + x, jnp.int32(0), jnp.arange(1, 4)))
        321
    """
    return jax.lax.scan(lambda c, x: (visit(c, x), None), carry, visits, reverse=True)[0]
