"""The problem that every subject solves, as NumPy arrays: no framework's own."""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """The MLP of `benchmarks.problems.mlp`, one log L2 penalty per input unit of each layer."""

    batch_size: int
    num_steps: int
    step_size: float  # of SGD with momentum, w ← w − step_size · v
    momentum: float  # γ in v ← γ v + g
    hparams: list[np.ndarray]  # log L2 penalties, one float32 vector a layer
    params: list[dict[str, np.ndarray]]  # initial "w" and "b" of each layer, float32
    train: dict[str, np.ndarray]  # "x" [examples, 784] float32, "y" [examples] int32
    valid: dict[str, np.ndarray]  # the one outer batch, likewise
    indices: np.ndarray  # training examples of each minibatch, [num_steps, batch_size] int32
    key: np.ndarray  # from whose data `drmad_jax.minibatches` draws the same minibatches

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
    step_size: float = 0.0025,
    momentum: float = 0.95,
) -> Case:
    """The problem with its minibatches drawn, and at most 5,000 examples in the outer batch."""
    # Imported here, since PyTorch's workers read this module and must not load JAX.
    import jax

    import drmad_jax as dj
    from benchmarks.problems import mlp

    hparams, params, train, valid = mlp.arguments()
    key = jax.random.key(1)
    numbers = jax.numpy.arange(len(train["y"]))
    indices = jax.vmap(dj.minibatches(numbers, batch_size, key))(jax.numpy.arange(num_steps))
    outer_batch = {name: leaf[:num_outer] for name, leaf in valid.items()}
    arrays = hparams, params, train, outer_batch, indices, jax.random.key_data(key)
    return Case(batch_size, num_steps, step_size, momentum, *jax.tree.map(np.asarray, arrays))
