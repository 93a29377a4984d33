"""Where a run in chunks gets its batches from, a chunk at a time."""

import itertools
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax.training.batches import HostBatches, SomeBatches, some_batches

# What is saved, arrays by name.
Saved = Mapping[str, Array | np.ndarray]
Place = Callable[[PyTree], PyTree]


def source_of(inner_batches: PyTree, num_steps: int, place: Place) -> "Resident":
    """The source that batches of this kind make.

    Args:
        inner_batches: `host_batches(…)`; an iterator, or what makes one (a `DataLoader` of torch);
            whatever else `hypergradient` takes.
        num_steps: Number of inner steps T.
        place: Puts stacked batches on the devices.
    """
    if isinstance(inner_batches, HostBatches):
        return Fetched(inner_batches.fetch, num_steps, place)
    is_leaf = jax.tree_util.all_leaves([inner_batches])
    if is_leaf and not callable(inner_batches) and not hasattr(inner_batches, "dtype"):
        if hasattr(inner_batches, "__iter__"):
            return Stream(iter(inner_batches), num_steps, place)
    return Resident(inner_batches)


class Resident:
    """Batches that compiled functions get by themselves."""

    is_read = False

    def __init__(self, inner_batches: PyTree):
        self._batches = inner_batches

    def sample(self) -> PyTree:
        """For shapes."""
        return self._batches

    def hold(self, wanted: frozenset[int]) -> None:
        """Says which steps' batches will be asked for again."""

    def ahead(self, done: int, count: int) -> PyTree:
        """The batches of the steps from `done` on."""
        return self._batches

    def chosen(self, steps: list[int], size: int) -> PyTree:
        """The batches of these steps, with room for `size`."""
        return self._batches

    def held(self, done: int) -> dict[str, np.ndarray]:
        """What is held of the steps before `done`."""
        return {}

    def restore(self, saved: Saved) -> None:
        """Takes that back."""


class Fetched(Resident):
    """Batches that are fetched from the host, ahead of time."""

    is_read = True

    def __init__(self, fetch: Callable[[int], PyTree], num_steps: int, place: Place):
        self._fetch, self._num_steps, self._place = fetch, num_steps, place

    def sample(self) -> SomeBatches:
        """That of step 0."""
        return self._some([0], 1)

    def ahead(self, done: int, count: int) -> SomeBatches:
        """Fetched, with room for `count`."""
        return self.chosen(list(range(done, min(done + count, self._num_steps))), count)

    def chosen(self, steps: list[int], size: int) -> SomeBatches:
        """Fetched again."""
        return self._some(steps, size) if steps else self.sample()

    def _some(self, steps: list[int], size: int) -> SomeBatches:
        batches = [jax.tree.map(np.asarray, self._fetch(step)) for step in steps]
        fill = size - len(steps)
        stacked = jax.tree.map(lambda *x: np.stack(x + x[-1:] * fill), *batches)
        padded = np.array(steps + [np.iinfo(np.int32).max] * fill, np.int32)
        return some_batches(padded, self._place(stacked))


class Stream(Fetched):
    """Batches that come once, in order; those that are wanted again are held."""

    def __init__(self, iterator: Iterator[PyTree], num_steps: int, place: Place):
        super().__init__(self._next, num_steps, place)
        self._iterator, self._came = iterator, 0
        self._held, self._wanted = dict[int, PyTree](), frozenset[int]()
        self._first = jax.tree.map(np.asarray, self._pull())
        self._iterator = itertools.chain([self._first], iterator)

    def sample(self) -> SomeBatches:
        """The first one that came, whatever its step."""
        stacked = jax.tree.map(lambda x: x[None], self._first)
        return some_batches(np.zeros(1, np.int32), self._place(stacked))

    def hold(self, wanted: frozenset[int]) -> None:
        """From now on."""
        self._wanted = wanted

    def held(self, done: int) -> dict[str, np.ndarray]:
        """Their steps, and each leaf of them stacked."""
        steps = sorted(step for step in self._held if step < done)
        leaves = zip(*(jax.tree.leaves(self._held[step]) for step in steps), strict=True)
        stacked = {f"held.{i}": np.stack(x) for i, x in enumerate(leaves)}
        return {"held": np.array(steps, np.int64)} | stacked

    def restore(self, saved: Saved) -> None:
        """The stream goes on behind them."""
        self._came = int(saved["done"])
        steps = list(map(int, np.asarray(saved["held"])))
        structure = jax.tree.structure(self._first)
        for index, step in enumerate(steps):
            leaves = [np.asarray(saved[f"held.{i}"])[index] for i in range(structure.num_leaves)]
            self._held[step] = jax.tree.unflatten(structure, leaves)

    def _next(self, step: int) -> PyTree:
        if step in self._held:
            return self._held[step]
        batch = jax.tree.map(np.asarray, self._pull())
        self._came = step + 1
        if step in self._wanted:
            self._held[step] = batch
        return batch

    def _pull(self) -> PyTree:
        try:
            return next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"in_chunks: the stream of batches ended after {self._came} of "
                f"{self._num_steps} steps: let it begin anew (several epochs, itertools.cycle)"
            ) from None
