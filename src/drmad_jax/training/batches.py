"""Where the inner batches come from: a stacked pytree, or a rule that makes batch t."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from drmad_jax._checks.arguments import check_choice, check_count, check_key

Order = Literal["uniform", "shuffled", "cyclic"]
ORDERS = ("uniform", "shuffled", "cyclic")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Minibatches:
    """Minibatches drawn on the device; made by `minibatches`."""

    data: PyTree
    key: Array
    batch_size: int = dataclasses.field(metadata={"static": True})
    order: Order = dataclasses.field(metadata={"static": True})

    def __call__(self, step: Int[Array, ""] | int) -> PyTree:
        """The batch of step `step`, each leaf with leading axis `batch_size`."""
        step = jnp.asarray(step, jnp.int32)
        size = jax.tree.leaves(self.data)[0].shape[0]
        if self.order == "uniform":
            key = jax.random.fold_in(self.key, step)
            indices = jax.random.randint(key, (self.batch_size,), 0, size)
        else:
            steps_per_epoch = size // self.batch_size
            start = (step % steps_per_epoch) * self.batch_size
            indices = start + jnp.arange(self.batch_size, dtype=jnp.int32)
            if self.order == "shuffled":
                epoch_key = jax.random.fold_in(self.key, step // steps_per_epoch)
                indices = _permute(indices, size, epoch_key)
        take = lambda leaf: leaf.at[indices].get(mode="promise_in_bounds")
        return jax.tree.map(take, self.data)


def minibatches(
    data: PyTree, batch_size: int, key: Array, *, order: Order = "uniform"
) -> Minibatches:
    """Minibatches of an in-memory data set, made on the device as training asks for them.

    The result is a pytree, so that the data is an argument of the compiled function and never a
    constant in it, and every batch can be made again on the way back from its step alone.

    Args:
        data: Any pytree of arrays with the same leading axis, one entry per example.
        batch_size: Examples per batch.
        key: Key of the draws, `jax.random.key(...)`.
        order: "uniform" draws with replacement; "shuffled" goes through the data in a new
            pseudo-random order each epoch, leaving out an incomplete last batch; "cyclic" keeps
            the order of the data.

    Returns:
        A pytree whose call at step t returns batch t.

    Raises:
        ValueError: If `batch_size` is not between 1 and the number of examples, if the leading
            axes differ, or on an unknown `order`.
        TypeError: If `batch_size` is no Python int, or `key` no key.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp
        >>> data = {"x": jnp.arange(6.0), "y": jnp.arange(6)}
        >>> batches = dj.minibatches(data, 2, jax.random.key(0), order="cyclic")
        >>> batches(1)["y"].tolist()
        [2, 3]
    """
    sizes = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else -1 for leaf in jax.tree.leaves(data)}
    if len(sizes) != 1 or -1 in sizes:
        raise ValueError(
            "minibatches: every leaf of `data` needs the same leading axis, "
            f"got leading sizes {sorted(map(str, sizes))}"
        )
    check_count("minibatches", "batch_size", batch_size, least=0)
    check_key("minibatches", key)
    (size,) = sizes
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"minibatches: `batch_size` must be between 1 and the {size} examples, got {batch_size}"
        )
    check_choice("minibatches", "order", order, ORDERS)
    return Minibatches(jax.tree.map(jnp.asarray, data), key, batch_size, order)


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
    return jax.tree.map(take, inner_batches)


def _permute(indices: Int[Array, " n"], size: int, key: Array) -> Int[Array, " n"]:
    """A pseudo-random permutation of range(size), evaluated at `indices` only.

    A balanced Feistel network on the next even power of two, walked along its cycles until the
    result is in range (Black and Rogaway 2002), so that no step has to permute the whole data set.
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = jnp.uint32(2**half_bits - 1)
    round_keys = jax.random.bits(key, (4,), jnp.uint32)

    def mix(value, round_key):
        value = (value ^ round_key) * jnp.uint32(0x9E3779B1)
        value = (value ^ (value >> 15)) * jnp.uint32(0x85EBCA77)
        return value ^ (value >> 13)

    def network(value):
        left, right = value >> half_bits, value & mask
        for round_key in round_keys:
            left, right = right, left ^ (mix(right, round_key) & mask)
        return (left << half_bits) | right

    def out_of_range(value):
        return jnp.any(value >= size)

    def walk(value):
        return jnp.where(value >= size, network(value), value)

    first = network(indices.astype(jnp.uint32))
    return jax.lax.while_loop(out_of_range, walk, first).astype(jnp.int32)
