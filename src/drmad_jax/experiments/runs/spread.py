"""A population over all devices of all processes: each member is computed on one of them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from drmad_jax.experiments.processes import gathered

_AXIS = "population"


def everywhere(tree: PyTree) -> PyTree:
    """Puts the same arrays on every device.

    Args:
        tree: Arrays, the same in every process.

    Returns:
        Global arrays.
    """
    return jax.tree.map(lambda leaf: _put(leaf, PartitionSpec()), tree)


def here(tree: PyTree) -> PyTree:
    """What this process's first device has of arrays that are everywhere, without a copy.

    Args:
        tree: What `everywhere` returned.

    Returns:
        Arrays of one device.
    """
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def spread(trial: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """One trial on each device, none waiting for another.

    Args:
        trial: A function `(hparams, key, data) -> tree`.

    Returns:
        A function `(hparams, keys, data) -> tree` to be compiled, of a key for each device as
        `members` makes them; the arrays it returns have an axis in front.
    """

    def one(hparams: PyTree, keys: Array, data: PyTree) -> PyTree:
        found = trial(hparams, jax.random.wrap_key_data(keys[0]), data)
        return jax.tree.map(lambda leaf: leaf[None], found)

    whole, part = PartitionSpec(), PartitionSpec(_AXIS)
    return jax.shard_map(
        one, mesh=_mesh(), in_specs=(whole, part, whole), out_specs=part, check_vma=False
    )


def members(keys: Sequence[Array]) -> Array:
    """The keys of at most as many trials as there are devices; the last one fills up.

    Args:
        keys: Keys of random draws, at least one.

    Returns:
        Their data, one on each device.
    """
    filled = [*keys, *[keys[-1]] * (jax.device_count() - len(keys))]
    return _put(np.stack([jax.random.key_data(key) for key in filled]), PartitionSpec(_AXIS))


def rows(tree: PyTree) -> list[Any]:
    """What came out on each device, in every process.

    Args:
        tree: What a function made by `spread` returned.

    Returns:
        A tree of NumPy scalars or arrays for each device.
    """
    whole = gathered(tree)
    take = lambda row: jax.tree.map(lambda leaf: leaf[row], whole)
    return [take(row) for row in range(jax.device_count())]


def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.devices()), (_AXIS,))


def _put(leaf: Any, spec: PartitionSpec) -> Array:
    sharding = NamedSharding(_mesh(), spec)
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    # device_put would compare the processes' arrays, all of them.
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
