"""The leaves of a pytree gathered into a few vectors, so that what is compiled stays small."""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from drmad_jax import tree


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which leaves of a pytree go into which vector; made by `layout`.

    Attributes:
        structure: The pytree's structure.
        shapes: Shape of each leaf.
        members: The leaves of each vector, by their index.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    members: tuple[tuple[int, ...], ...]

    def gather(self, pytree: PyTree) -> list[Array]:
        """The vectors of a pytree with this structure."""
        leaves = jax.tree.leaves(pytree)
        return [
            jnp.concatenate([tree.whole(leaves[i]).reshape(-1) for i in members])
            for members in self.members
        ]

    def scatter(self, vectors: Sequence[Array]) -> PyTree:
        """The pytree of the vectors, undoing `gather`."""
        leaves: list[Any] = [None] * len(self.shapes)
        for vector, members in zip(vectors, self.members, strict=True):
            start = 0
            for i in members:
                size = math.prod(self.shapes[i])
                leaves[i] = vector[start : start + size].reshape(self.shapes[i])
                start += size
        return jax.tree.unflatten(self.structure, leaves)


def layout(pytree: PyTree, keys: Sequence[Hashable]) -> Layout:
    """A layout with one vector for each key and dtype.

    Args:
        pytree: Any pytree of arrays.
        keys: One for each leaf; leaves with equal keys share a vector.

    Returns:
        The layout, vectors in the order of their first leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.blocks import layout
        >>> weights = {"a": jnp.ones((2, 2)), "b": jnp.zeros(1), "c": jnp.ones(1)}
        >>> two = layout(weights, [0, 1, 0])
        >>> [vector.tolist() for vector in two.gather(weights)]
        [[1.0, 1.0, 1.0, 1.0, 1.0], [0.0]]
        >>> two.scatter(two.gather(weights))["a"].shape
        (2, 2)
    """
    leaves, structure = jax.tree.flatten(pytree)
    groups: dict[Hashable, list[int]] = {}
    for i, (leaf, key) in enumerate(zip(leaves, keys, strict=True)):
        groups.setdefault((key, leaf.dtype), []).append(i)
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    return Layout(structure, shapes, tuple(map(tuple, groups.values())))
