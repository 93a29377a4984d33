"""The problem that every subject solves, as NumPy arrays: no framework's own."""

from typing import Any, NamedTuple

import numpy as np

STEP_SIZE, MOMENTUM = 0.0025, 0.95


class Case(NamedTuple):
    """The MLP of `benchmarks.mnist_mlp`, one log L2 penalty per input unit of each layer.

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
    from benchmarks import mnist_mlp

    hparams, params, train, valid = mnist_mlp.arguments()
    key = jax.random.key(1)
    numbers = jax.numpy.arange(len(train["y"]))
    indices = jax.vmap(dj.minibatches(numbers, batch_size, key))(jax.numpy.arange(num_steps))
    to_numpy = lambda tree: jax.tree.map(np.asarray, tree)
    return Case(
        batch_size=batch_size,
        num_steps=num_steps,
        step_size=step_size,
        momentum=momentum,
        hparams=to_numpy(hparams),
        params=to_numpy(params),
        train=to_numpy(train),
        valid={name: np.asarray(leaf)[:num_outer] for name, leaf in valid.items()},
        indices=np.asarray(indices),
        key=np.asarray(jax.random.key_data(key)),
    )


def label(case: Any) -> str:
    """Name of a case in records and tables."""
    return f"batch {case.batch_size}, T = {case.num_steps}"
