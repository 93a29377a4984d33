"""What tasks on labelled images share: data, validation set, loss and judging."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.sections import ImagesConfig
from drmad_jax.experiments.data.datasets import Images, ImageSplits, load_splits
from drmad_jax.experiments.models.network import Network
from drmad_jax.experiments.tasks.base import Inputs

T = TypeVar("T")


def load(data: ImagesConfig) -> ImageSplits:
    """The examples to draw from, and the test examples, on the device.

    Args:
        data: The section that names them.

    Returns:
        Both splits.
    """
    splits = load_splits(data.dataset, num_train=data.num_train, num_test=data.num_test)
    return jax.device_put(splits)


def hold_out(key: Array, examples: T, num_valid: int) -> tuple[T, T]:
    """Draws a validation set.

    Args:
        key: Key of the draw.
        examples: All examples, arrays with the same leading axis.
        num_valid: How many are held out.

    Returns:
        The training set and the validation set.
    """
    order = jax.random.permutation(key, jax.tree.leaves(examples)[0].shape[0])
    take = lambda rows: jax.tree.map(lambda x: x[rows], examples)
    return take(order[num_valid:]), take(order[:num_valid])


def fresh_inputs(key: Array, examples: Any, network: Network, config: Config) -> Inputs:
    """A new split into training and validation set, new weights, new minibatches.

    Args:
        key: Key of the draws.
        examples: What to split, arrays with the same leading axis, `images` among them.
        network: What is trained.
        config: The configuration: how many are held out, how many make a minibatch.

    Returns:
        What one training run starts from.
    """
    split_key, params_key, batch_key, run_key = jax.random.split(key, 4)
    train, valid = hold_out(split_key, examples, config.data.num_valid)
    params, model_state = network.init(params_key, valid.images)
    batches = dj.minibatches(train, config.inner.batch_size, batch_key)
    return Inputs(params, batches, valid, model_state, run_key)


def cross_entropy(
    logits: Float[Array, "n classes"], hparams: PyTree, batch: Images
) -> Float[Array, ""]:
    """Mean cross entropy of a batch; the signature is that of a composite loss's criterion.

    Args:
        logits: The model's outputs.
        hparams: Not used.
        batch: The examples.

    Returns:
        A scalar.
    """
    del hparams
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


def scores(logits: Float[Array, "n classes"], test: Images) -> dict[str, Float[Array, ""]]:
    """Mean cross entropy and share of wrong answers.

    Args:
        logits: The model's outputs on the test examples.
        test: The test examples.

    Returns:
        `test_loss` and `test_error`.
    """
    wrong = jnp.argmax(logits, axis=-1) != test.labels
    return {
        "test_loss": cross_entropy(logits, None, test),
        "test_error": jnp.mean(wrong, dtype=jnp.float32),
    }
