"""Learning how strongly to augment training images and to smooth their labels."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.sections import AugmentationConfig, ConvConfig, ImagesConfig
from drmad_jax.experiments.data.augmentations import STRENGTH_TRANSFORM, augment
from drmad_jax.experiments.data.datasets import Images, ImageSplits
from drmad_jax.experiments.models.network import Network, classifier
from drmad_jax.experiments.tasks.base import Inputs, Task, check_tuned, section
from drmad_jax.experiments.tasks.classification import cross_entropy, fresh_inputs, load, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class AugmentationTask(Task):
    """Trains a convolutional network on augmented images, judged by plain validation images.

    The hyperparameters are a dictionary from the name of each learned strength to its logit.
    """

    config: Config
    task: AugmentationConfig
    data: ImagesConfig
    network: Network

    @classmethod
    def of(cls, config: Config) -> AugmentationTask:
        """The task of a configuration with images and a convolutional network."""
        task = section(config.task, AugmentationConfig, "task", config)
        check_tuned(task.tuned)
        data = section(config.data, ImagesConfig, "data", config)
        model = section(config.model, ConvConfig, "model", config)
        return cls(config, task, data, classifier(model, data))

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy of changed images and labels inside, of held-out examples outside."""
        loss = dj.composite_loss(self._predict_augmented, smoothed_cross_entropy)
        return dj.Problem(loss, self._outer_loss, self.config.inner.optimizer.build())

    def load_data(self) -> ImageSplits:
        """The examples to draw from, and the test examples."""
        return load(self.data)

    def init_hparams(self) -> dict[str, Array]:
        """Every strength at `initial`."""
        start = STRENGTH_TRANSFORM.unconstrain(jnp.float32(self.task.initial))
        return dict.fromkeys(self.task.tuned, start)

    def sample(self, key: Array, data: ImageSplits) -> Inputs:
        """A new split into training and validation set, new weights, new minibatches."""
        return fresh_inputs(key, data.train, self.network, self.config)

    def evaluate(
        self, state: dj.TrainState, hparams: PyTree, data: ImageSplits
    ) -> dict[str, Float[Array, ""]]:
        """Mean cross entropy and share of wrong answers on the test examples, unchanged."""
        del hparams
        return scores(self.network(state.params, data.test.images), data.test)

    def figures(self, hparams: PyTree, data: ImageSplits) -> dict[str, Figure]:
        """Every strength before and after tuning, and training images as the network sees them."""
        from drmad_jax.experiments.figures import plots

        strengths = {
            name: float(STRENGTH_TRANSFORM.constrain(value)) for name, value in hparams.items()
        }
        figures = {"strengths": plots.changes(self.task.initial, strengths, label="strength")}
        if set(strengths) - {"smoothing"}:
            images = data.train.images[:_NUM_SHOWN]
            changed = jax.jit(augment)(
                jax.random.key(self.config.seed), images, _augmentations(hparams)
            )
            rows = {"as they are": images, "augmented": changed}
            figures["augmented_images"] = plots.image_rows(
                {name: np.clip(row, 0, 1) for name, row in rows.items()}
            )
        return figures

    def _predict_augmented(
        self, params: PyTree, hparams: PyTree, batch: Images, *, key: Array
    ) -> Float[Array, "n classes"]:
        return self.network(params, augment(key, batch.images, _augmentations(hparams)))

    def _outer_loss(self, params: PyTree, hparams: PyTree, batch: Images) -> Float[Array, ""]:
        return cross_entropy(self.network(params, batch.images), hparams, batch)


def smoothed_cross_entropy(
    logits: Float[Array, "n classes"], hparams: PyTree, batch: Images
) -> Float[Array, ""]:
    """Mean cross entropy against labels of which a share is spread over all classes.

    Args:
        logits: The model's outputs.
        hparams: The logit of that share as `smoothing`; none is spread without it.
        batch: The examples.

    Returns:
        A scalar.
    """
    plain = cross_entropy(logits, hparams, batch)
    if "smoothing" not in hparams:
        return plain
    share = STRENGTH_TRANSFORM.constrain(hparams["smoothing"])
    even = -jnp.mean(jax.nn.log_softmax(logits))
    return (1 - share) * plain + share * even


def _augmentations(hparams: PyTree) -> dict[str, Array]:
    """The strengths of what changes images."""
    strengths = dj.transforms.constrain(STRENGTH_TRANSFORM, hparams)
    return {name: value for name, value in strengths.items() if name != "smoothing"}
