"""Where the inner batches come from: a stacked pytree, or a function of the step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from drmad_jax import tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HostBatches:
    """Batches fetched from the host; made by `host_batches`."""

    fetch: Callable[[int], PyTree] = dataclasses.field(metadata={"static": True})
    leaves: tuple[tuple[tuple[int, ...], str], ...] = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, step: Int[Array, ""] | int) -> PyTree:
        """The batch of step `step`."""
        specs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in self.leaves]
        result = jax.tree.unflatten(self.structure, specs)
        step = jnp.asarray(step, jnp.int32)
        return jax.pure_callback(self.fetch, result, step, vmap_method="sequential")


def host_batches(fetch: Callable[[int], PyTree], example: PyTree) -> HostBatches:
    """Batches of a data set that does not fit on the device, fetched from the host.

    Args:
        fetch: `step -> batch`, a Python function on the host that returns NumPy arrays. It must
            return the same batch whenever it is asked for the same step, since the reverse pass
            asks again.
        example: One batch, for structure, shapes and dtypes.

    Returns:
        A pytree whose call at step t returns batch t.

    Raises:
        ValueError: If `fetch` returns another batch when it is asked for step 0 again (an iterator
            behind it, a generator of random numbers), or one that is not like `example`.
        TypeError: If `fetch` is not callable.

    Example:
        >>> import drmad_jax as dj, numpy as np
        >>> big = np.arange(12.0, dtype=np.float32).reshape(6, 2)
        >>> batches = dj.host_batches(lambda t: big[int(t) % 6], big[0])
        >>> batches(1).tolist()
        [2.0, 3.0]
    """
    if not callable(fetch):
        raise TypeError(
            f"host_batches: `fetch` must be a function of the step, got {type(fetch).__name__}: "
            "for an array or a list, pass lambda step: data[int(step)]"
        )
    _check_repeatable(fetch, example)
    leaves, structure = jax.tree.flatten(example)
    specs = tuple((jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)
    return HostBatches(fetch, specs, structure)


def _check_repeatable(fetch: Callable[[int], PyTree], example: PyTree) -> None:
    """Asks for one step twice: the way back will."""
    first, second = fetch(0), fetch(0)
    kinds = lambda batch: jax.tree.map(lambda x: (jnp.shape(x), str(jnp.result_type(x))), batch)
    if kinds(first) != kinds(example):
        raise ValueError(
            f"host_batches: `fetch` must return batches like `example`, {kinds(example)}, got "
            f"{kinds(first)}"
        )
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=False), first, second)
    if not jax.tree.all(same):
        raise ValueError(
            "host_batches: `fetch` returned two different batches for step 0, and the way back "
            "asks for every step again: it must be a function of the step alone (no iterator, no "
            "generator that moves on), such as lambda step: data[int(step) % len(data)]"
        )


def batch_at(inner_batches: PyTree, step: Int[Array, ""]) -> PyTree:
    """Batch `step` of a batch source: called, or taken from the leading axis."""
    if callable(inner_batches):
        return inner_batches(step)
    take = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, step, keepdims=False)
    return tree.on_device(jax.tree.map(take, inner_batches))
