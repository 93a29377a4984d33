"""Minibatches of an in-memory data set, drawn on the device; on several, each its own rows."""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree, UInt32

from drmad_jax import tree
from drmad_jax._checks.arguments import check_choice, check_count, check_key
from drmad_jax._checks.warning import warn

Order = Literal["uniform", "shuffled", "cyclic"]
ORDERS = ("uniform", "shuffled", "cyclic")
# Of columns and rows. With six, chi-square tells the orders of six examples from uniform ones.
_NUM_ROUNDS = 8


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
        return jax.tree.map(lambda leaf: _rows(leaf, indices), self.data)


def minibatches(
    data: PyTree, batch_size: int, key: Array, *, order: Order = "uniform"
) -> Minibatches:
    """Minibatches of an in-memory data set, made on the device as training asks for them.

    The result is a pytree, so that the data is an argument of the compiled function and never a
    constant in it, and every batch can be made again on the way back from its step alone.

    Data that lies in parts along axes of a mesh gives batches in parts along the same axes, of the
    same examples as on one device: each device computes its own `batch_size` / n rows (data
    parallelism). Data in the host's memory (`memory_kind="pinned_host"`) stays there: the host
    gathers a batch, which goes to the device alone.

    Args:
        data: Any pytree of arrays with the same leading axis, one entry per example.
        batch_size: Examples per batch; a multiple of the number of parts that the data is in.
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

    Warns:
        UserWarning: If the batch cannot be parted as the data is under an explicit mesh, so that
            every device computes all of it.

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


def _rows(leaf: Array, indices: Int[Array, " n"]) -> Array:
    """The examples at `indices`; on a mesh, in the parts along the axes that the data is in."""
    out = _batch_sharding(leaf, len(indices))
    take = lambda leaf, indices: leaf.at[indices].get(mode="promise_in_bounds", out_sharding=out)
    if tree.is_on_host(leaf):
        rows = tree.on_device(jax.jit(functools.partial(tree.by_host, take))(leaf, indices))
    else:
        rows = take(leaf, indices)
    if out is not None and AxisType.Auto not in out.mesh.axis_types:
        return rows
    # The type of an array says nothing of an automatic mesh: XLA is told to part the batch as it
    # parts the first examples. Without, it computes the whole batch on every device.
    first = tree.on_device(jax.lax.slice_in_dim(leaf, 0, len(indices)))
    return shard_alike(rows, jax.lax.stop_gradient(first))[0]


def _batch_sharding(leaf: Array, batch_size: int) -> NamedSharding | None:
    """That of the data under an explicit mesh, whole where the batch cannot be parted so."""
    sharding = tree.explicit_sharding(leaf)
    if sharding is None or sharding.spec[0] is None:
        return sharding
    axes = jax.tree.leaves(sharding.spec[0])
    num_parts = math.prod(sharding.mesh.shape[axis] for axis in axes)
    if batch_size % num_parts == 0:
        return sharding
    warn(
        f"minibatches: `batch_size` {batch_size} is no multiple of the {num_parts} parts that the "
        f"data has along {axes}, so that every device computes the whole batch: take a multiple"
    )
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec[1:]))


def _permute(indices: Int[Array, " n"], size: int, key: Array) -> Int[Array, " n"]:
    """A pseudo-random permutation of range(size), evaluated at `indices` only.

    The numbers lie in a square whose last row may be shorter. A round turns each of its columns,
    or each of its rows, by an amount drawn from its place: a bijection whatever the size, as a
    Feistel network is where the square is full (Black and Rogaway 2002, with modular sums). No
    step permutes the whole data set, and none loops until a condition holds, which would make
    populations on several devices wait for each other.
    """
    unsigned = jnp.uint32
    width = math.isqrt(size - 1) + 1
    full, rest = divmod(size, width)

    def turn(place, line, round_key, length):
        # The upper half of the product, which divides nothing; length < 2**16.
        moved = place + (((_mix(line ^ round_key) >> 16) * length) >> 16)
        return jnp.where(moved >= length, moved - length, moved)

    def turn_both(place, round_keys):
        row, column = place
        height = jnp.where(column < rest, unsigned(full + 1), unsigned(full))
        row = turn(row, column, round_keys[0], height)
        length = jnp.where(row < full, unsigned(width), unsigned(rest))
        return (row, turn(column, row, round_keys[1], length)), None

    # A loop of fixed length, since XLA would make straight code part of the gather of the rows,
    # and run it for one row after another.
    place = jnp.divmod(indices.astype(unsigned), unsigned(width))
    round_keys = jax.random.bits(key, (_NUM_ROUNDS, 2), unsigned)
    (row, column), _ = jax.lax.scan(turn_both, place, round_keys)
    return (row * unsigned(width) + column).astype(jnp.int32)


def _mix(value: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
    """Each bit of the result depends on every bit: the end of MurmurHash3."""
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
