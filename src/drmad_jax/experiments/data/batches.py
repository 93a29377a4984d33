"""Batches that a training run takes: minibatches, or all examples at every step."""

import dataclasses
from collections.abc import Callable

import jax
from jaxtyping import Array, Int, PyTree

import drmad_jax as dj


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FullBatch:
    """The same examples at every step, each of them once.

    Attributes:
        data: The examples, any pytree of arrays.
    """

    data: PyTree

    def __call__(self, step: Int[Array, ""] | int) -> PyTree:
        """All examples."""
        del step
        return self.data


def inner_batches(data: PyTree, batch_size: int, key: Array) -> Callable[..., PyTree]:
    """Minibatches, or the full batch if `batch_size` is the number of examples.

    Args:
        data: The training examples.
        batch_size: Examples per batch.
        key: Key of the draws.

    Returns:
        A pytree whose call at step t returns batch t.
    """
    if batch_size == jax.tree.leaves(data)[0].shape[0]:
        return FullBatch(data)
    return dj.minibatches(data, batch_size, key)
