"""What tasks on labelled images share: data, validation set, network, loss and judging."""

import abc
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.data.datasets import DatasetSpec, Images
from drmad_jax.experiments.models.network import Network, classifier
from drmad_jax.experiments.tasks.base import D, Inputs, M, S, Scalar, Scores, Task

E = TypeVar("E")

Logits = Float[Array, "n classes"]


class ImageTask(Task[S, D, M]):
    """Trains a network on labelled images; a task replaces what it does in another way."""

    @property
    @abc.abstractmethod
    def network(self) -> Network:
        """What is trained."""

    def sample(self, key: Array, data: Any) -> Inputs:
        """A new split into training and validation set, new weights, new minibatches."""
        split_key, params_key, batch_key, run_key = jax.random.split(key, 4)
        train, valid = hold_out(split_key, data.train, self.config.data.num_valid)
        params, model_state = self.network.init(params_key, valid.images)
        batches = dj.minibatches(train, self.config.inner.batch_size, batch_key)
        return Inputs(params, batches, valid, model_state, run_key)

    def outputs(
        self, params: PyTree, hparams: PyTree, batch: Any, *, model_state: PyTree = None
    ) -> Float[Array, "n *outputs"]:
        """The outputs for a batch, of a network in use."""
        del hparams
        return self.network(params, batch.images, model_state=model_state)


class ClassifierTask(ImageTask[S, ImagesConfig, M], Generic[S, M]):
    """Trains a classifier, and judges it by its cross entropy."""

    @property
    def network(self) -> Network:
        """The network of section `[model]`."""
        return classifier(self.model, self.data)  # pyright: ignore[reportArgumentType]

    @property
    def dataset(self) -> DatasetSpec:
        """What is known of the data set."""
        return self.data.spec

    def load_data(self) -> Any:
        """The examples to draw from, and the test examples, on the device."""
        return jax.device_put(self.data.load())

    def outer_loss(
        self, params: PyTree, hparams: PyTree, batch: Any, *, model_state: PyTree = None
    ) -> Scalar:
        """Mean cross entropy of a batch."""
        logits = self.outputs(params, hparams, batch, model_state=model_state)
        return cross_entropy(logits, hparams, batch)

    def evaluate(self, state: dj.TrainState, hparams: PyTree, data: Any) -> Scores:
        """Mean cross entropy and share of wrong answers on the test examples."""
        logits = self.outputs(state.params, hparams, data.test, model_state=state.model_state)
        wrong = jnp.argmax(logits, axis=-1) != data.test.labels
        return {
            "test_loss": cross_entropy(logits, None, data.test),
            "test_error": jnp.mean(wrong, dtype=jnp.float32),
        }


def hold_out(key: Array, examples: E, num_valid: int) -> tuple[E, E]:
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


def cross_entropy(logits: Logits, hparams: PyTree, batch: Images) -> Scalar:
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
