"""The problem that every subject solves, as NumPy arrays: no framework's own."""

from typing import NamedTuple

import numpy as np

STEP_SIZE, MOMENTUM = 0.0025, 0.95


class Case(NamedTuple):
    """The MLP of `benchmarks.problems.mlp`, one log L2 penalty per input unit of each layer.

    Attributes:
        batch_size: Examples in a minibatch.
        num_steps: Steps T of training.
        step_size: Of SGD with momentum, w ← w − step_size · v.
        momentum: γ in v ← γ v + g.
        hparams: Log L2 penalties, one float32 vector a layer.
        params: Initial weights, a dictionary of "w" and "b" a layer, float32.
        train: Training data, "x" [examples, 784] float32 and "y" [examples] int32.
        valid: The one outer batch, likewise.
        indices: Training examples of each minibatch, [num_steps, batch_size] int32.
        key: Data of the key from which `drmad_jax.minibatches` draws the same minibatches.
    """

    batch_size: int
    num_steps: int
    step_size: float
    momentum: float
    hparams: list[np.ndarray]
    params: list[dict[str, np.ndarray]]
    train: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    indices: np.ndarray
    key: np.ndarray

    def __str__(self) -> str:
        return f"batch {self.batch_size}, T = {self.num_steps}"

    @property
    def num_weights(self) -> int:
        """Number of weights and biases."""
        return sum(leaf.size for layer in self.params for leaf in layer.values())


def make_case(
    batch_size: int,
    num_steps: int,
    *,
    num_outer: int = 5000,
    step_size: float = STEP_SIZE,
    momentum: float = MOMENTUM,
) -> Case:
    """The problem with its minibatches drawn.

    Args:
        batch_size: Examples in a minibatch.
        num_steps: Steps of training.
        num_outer: Examples of the outer batch, at most 5,000.
        step_size: Of SGD with momentum, in optax's convention.
        momentum: Its momentum.

    Returns:
        The case.
    """
    # Imported here, since PyTorch's workers read this module and must not load JAX.
    import jax

    import drmad_jax as dj
    from benchmarks.problems import mlp

    hparams, params, train, valid = mlp.arguments()
    key = jax.random.key(1)
    numbers = jax.numpy.arange(len(train["y"]))
    indices = jax.vmap(dj.minibatches(numbers, batch_size, key))(jax.numpy.arange(num_steps))
    arrays = (hparams, params, train, {name: leaf[:num_outer] for name, leaf in valid.items()})
    arrays = jax.tree.map(np.asarray, (*arrays, indices, jax.random.key_data(key)))
    return Case(batch_size, num_steps, step_size, momentum, *arrays)
