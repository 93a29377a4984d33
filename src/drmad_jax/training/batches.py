"""Where the inner batches come from: a stacked pytree, or a function of the step."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

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


class Indexed(Protocol):
    """What is indexed by the step."""

    def __getitem__(self, step: int, /) -> PyTree: ...


def host_batches(
    source: Callable[[int], PyTree] | Indexed, example: PyTree | None = None
) -> HostBatches:
    """Batches of a data set that does not fit on the device, fetched from the host.

    Inside a compiled run each is fetched when its step comes, and the device waits; `in_chunks`
    fetches ahead.

    Args:
        source: `step -> batch`, a Python function on the host that returns NumPy arrays; or what is
            indexed by the step, such as a `grain.MapDataset` after `.repeat().batch(n)`. It must
            give the same batch whenever it is asked for the same step, since the reverse pass asks
            again.
        example: One batch, for structure, shapes and dtypes; that of step 0 if `None`.

    Returns:
        A pytree whose call at step t returns batch t.

    Raises:
        ValueError: If `source` gives another batch when it is asked for step 0 again (an iterator
            behind it, a generator of random numbers), or one that is not like `example`.
        TypeError: If `source` is neither a function nor indexed.

    Example:
        >>> import drmad_jax as dj, numpy as np
        >>> big = np.arange(12.0, dtype=np.float32).reshape(6, 2)
        >>> batches = dj.host_batches(lambda t: big[int(t) % 6])
        >>> batches(1).tolist()
        [2.0, 3.0]
    """
    if not callable(source):
        if not hasattr(source, "__getitem__"):
            raise TypeError(
                "host_batches: `source` must be a function of the step, or be indexed by it, got "
                f"{type(source).__name__}: an iterator cannot give a batch again (in_chunks takes "
                "one, and keeps what the way back reads)"
            )
        source = _Item(source)
    example = source(0) if example is None else example
    _check_repeatable(source, example)
    leaves, structure = jax.tree.flatten(example)
    specs = tuple((jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)
    return HostBatches(source, specs, structure)


@dataclasses.dataclass(frozen=True, eq=False)
class _Item:
    """An indexed source as a function."""

    source: Indexed

    def __call__(self, step: int) -> PyTree:
        return self.source[int(step)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SomeBatches:
    """The batches of some steps; made by `some_batches`."""

    steps: Int[Array, " n"]
    stacked: PyTree

    def __call__(self, step: Int[Array, ""] | int) -> PyTree:
        """The batch of step `step`."""
        index = jnp.minimum(jnp.searchsorted(self.steps, step), self.steps.shape[0] - 1)
        known = self.steps[index] == step

        def take(leaf):
            batch = jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False)
            return jnp.where(known, batch, jnp.nan) if tree.is_inexact(batch) else batch

        return jax.tree.map(take, self.stacked)


def some_batches(steps: Int[Array, " n"] | np.ndarray, stacked: PyTree) -> SomeBatches:
    """The batches of some steps alone: what a piece of a run reads (`Pieces.reads`).

    Args:
        steps: Which steps, increasing, shape (n,).
        stacked: Their batches, a pytree with leading axis n.

    Returns:
        A pytree whose call at one of these steps returns its batch; at any other step, NaN in
        every floating-point leaf.

    Raises:
        ValueError: If leading axis and number of steps differ.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> batches = dj.some_batches(jnp.array([3, 8]), jnp.array([0.3, 0.8]))
        >>> [round(float(batches(t)), 1) for t in (3, 8, 5)]
        [0.3, 0.8, nan]
    """
    steps = jnp.asarray(steps, jnp.int32)
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(stacked)}
    if not sizes <= {steps.shape}:
        raise ValueError(
            f"some_batches: every leaf of `stacked` needs a leading axis of {steps.shape[0]}, the "
            f"number of steps, got {sorted(sizes)}"
        )
    return SomeBatches(steps, stacked)


def _check_repeatable(fetch: Callable[[int], PyTree], example: PyTree) -> None:
    """Asks for one step twice: the way back will."""
    first, second = fetch(0), fetch(0)
    kinds = lambda batch: jax.tree.map(lambda x: (jnp.shape(x), str(jnp.result_type(x))), batch)
    if kinds(first) != kinds(example):
        raise ValueError(
            f"host_batches: `source` must return batches like `example`, {kinds(example)}, got "
            f"{kinds(first)}"
        )
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=False), first, second)
    if not jax.tree.all(same):
        raise ValueError(
            "host_batches: `source` returned two different batches for step 0, and the way back "
            "asks for every step again: it must be a function of the step alone (no iterator, no "
            "generator that moves on), such as lambda step: data[int(step) % len(data)]"
        )


def batch_at(inner_batches: PyTree, step: Int[Array, ""]) -> PyTree:
    """Batch `step` of a batch source: called, or taken from the leading axis."""
    if callable(inner_batches):
        return inner_batches(step)
    take = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, step, keepdims=False)
    return tree.on_device(jax.tree.map(take, inner_batches))
