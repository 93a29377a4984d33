"""Learning how strongly to augment training images and to smooth their labels."""

from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure
from pydantic import Field

import drmad_jax as dj
from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.config.models import ConvConfig
from drmad_jax.experiments.config.section import a_list
from drmad_jax.experiments.config.task import TaskConfig, chosen
from drmad_jax.experiments.data.augmentations import STRENGTH_TRANSFORM, augment
from drmad_jax.experiments.data.datasets import Images, Splits
from drmad_jax.experiments.figures import images, values
from drmad_jax.experiments.tasks.base import Scalar, task
from drmad_jax.experiments.tasks.classification import ClassifierTask, Logits, cross_entropy

_NUM_SHOWN = 8
Strength = Literal[
    "shift", "rotation", "zoom", "contrast", "brightness", "noise", "cutout", "smoothing"
]


class AugmentationConfig(TaskConfig):
    """Section `[task]`: learn how strongly to augment images, and to smooth labels.

    Attributes:
        tuned: What is learned, one strength each; what is not in the list is not done at all.
            Largest changes are drawn evenly between both directions: "shift" and the side of a
            "cutout" hole in shares of the image's side, "rotation" in radians, "zoom" and
            "contrast" as logs of a factor, "brightness" in intensities from 0 to 1, and the
            standard deviation of "noise". "smoothing" is the share of each label spread evenly
            over all classes.
        initial: The strengths that tuning starts from.
    """

    kind: Literal["augmentation"] = "augmentation"
    tuned: Annotated[tuple[Strength, ...], a_list("names"), chosen] = get_args(Strength)
    initial: Annotated[float, Field(gt=0, lt=1)] = 0.02


@task(AugmentationConfig, data=ImagesConfig, model=[ConvConfig])
class AugmentationTask(ClassifierTask[AugmentationConfig, ConvConfig]):
    """Trains a convolutional network on augmented images, judged by plain validation images.

    The hyperparameters are a dictionary from the name of each learned strength to its logit.
    """

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy of changed images and labels inside, of held-out examples outside."""
        loss = dj.composite_loss(self._predict_augmented, smoothed_cross_entropy)
        return dj.Problem(loss, self.outer_loss, self.config.inner.optimizer.build())

    def init_hparams(self) -> dict[str, Array]:
        """Every strength at `initial`."""
        start = STRENGTH_TRANSFORM.unconstrain(jnp.float32(self.task.initial))
        return dict.fromkeys(self.task.tuned, start)

    def figures(self, hparams: PyTree, data: Splits) -> dict[str, Figure]:
        """Every strength before and after tuning, and training images as the network sees them."""
        strengths = {
            name: float(STRENGTH_TRANSFORM.constrain(value)) for name, value in hparams.items()
        }
        figures = {"strengths": values.changes(self.task.initial, strengths, label="strength")}
        if set(strengths) - {"smoothing"}:
            plain = data.train.images[:_NUM_SHOWN]
            changed = jax.jit(augment)(
                jax.random.key(self.config.seed), plain, _augmentations(hparams)
            )
            rows = {"as they are": plain, "augmented": changed}
            figures["augmented_images"] = images.image_rows(
                {name: np.clip(row, 0, 1) for name, row in rows.items()}
            )
        return figures

    def _predict_augmented(
        self, params: PyTree, hparams: PyTree, batch: Images, *, key: Array
    ) -> Logits:
        return self.network(params, augment(key, batch.images, _augmentations(hparams)))


def smoothed_cross_entropy(logits: Logits, hparams: PyTree, batch: Images) -> Scalar:
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
