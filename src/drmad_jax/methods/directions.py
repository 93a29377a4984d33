"""The directions of hyperparameter space along which forward mode differentiates training."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from drmad_jax._checks.arguments import HeldKey, choose_key
from drmad_jax.methods.weighted_mean import weighted_mean
from drmad_jax.training.run import Run
from drmad_jax.training.tangents import reshape_like, unit_directions

Distribution = Literal["rademacher", "normal"]
DISTRIBUTIONS = ("rademacher", "normal")


@runtime_checkable
class Directions(Protocol):
    """Along which directions of hyperparameter space training is differentiated."""

    def count(self, hparams: PyTree) -> int:
        """Number n of directions."""
        ...

    def at(self, run: Run, hparams: PyTree, indices: Int[Array, " k"]) -> PyTree:
        """The directions of these indices, like the hyperparameters with leading axis k."""
        ...

    def gradient(
        self, run: Run, hparams: PyTree, derivatives: Float[Array, " n"]
    ) -> tuple[PyTree, PyTree]:
        """The gradient from the derivatives along all directions, and its standard error."""
        ...


@dataclasses.dataclass(frozen=True)
class EveryEntry:
    """One unit direction for each hyperparameter entry."""

    def count(self, hparams: PyTree) -> int:
        """Number of hyperparameter entries."""
        return sum(leaf.size for leaf in jax.tree.leaves(hparams))

    def at(self, run: Run, hparams: PyTree, indices: Int[Array, " k"]) -> PyTree:
        """Unit directions."""
        return unit_directions(hparams, indices)

    def gradient(
        self, run: Run, hparams: PyTree, derivatives: Float[Array, " n"]
    ) -> tuple[PyTree, PyTree]:
        """The derivatives themselves, without error."""
        return reshape_like(derivatives, hparams), None


@dataclasses.dataclass(frozen=True)
class RandomDirections:
    """Independent random directions u with E[u uᵀ] = I.

    Attributes:
        num_directions: Number n of directions.
        distribution: "rademacher" or "normal".
        key: Key of the draws; `None` derives it from the key of the run.
    """

    num_directions: int
    distribution: Distribution
    key: HeldKey | None

    def count(self, hparams: PyTree) -> int:
        """Number of directions."""
        return self.num_directions

    def at(self, run: Run, hparams: PyTree, indices: Int[Array, " k"]) -> PyTree:
        """Directions of their own index alone, hence the same in any chunking."""
        return jax.vmap(lambda index: self._direction(run, hparams, index))(indices)

    def gradient(
        self, run: Run, hparams: PyTree, derivatives: Float[Array, " n"]
    ) -> tuple[PyTree, PyTree]:
        """The mean of (dE/dλ · u) u, and the standard error of that mean."""
        indices = jnp.arange(self.num_directions, dtype=jnp.int32)
        return weighted_mean(
            lambda index: self._direction(run, hparams, index), indices, derivatives
        )

    def _direction(self, run: Run, hparams: PyTree, index: Int[Array, ""]) -> PyTree:
        draw = jax.random.rademacher if self.distribution == "rademacher" else jax.random.normal
        leaves, structure = jax.tree.flatten(hparams)
        keys = jax.random.split(jax.random.fold_in(self._key(run), index), len(leaves))
        drawn = [draw(k, h.shape, h.dtype) for k, h in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    def _key(self, run: Run) -> Array:
        return choose_key("forward_gradient", self.key, None if run.key is None else run.draw_key())
