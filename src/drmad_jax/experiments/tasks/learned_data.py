"""Learning the training data itself (Maclaurin et al. 2015)."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree
from matplotlib.figure import Figure
from pydantic import Field

import drmad_jax as dj
from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.config.models import MLPConfig
from drmad_jax.experiments.config.section import PositiveInt
from drmad_jax.experiments.config.task import TaskConfig
from drmad_jax.experiments.data.batches import inner_batches
from drmad_jax.experiments.data.datasets import Images
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.figures import images
from drmad_jax.experiments.tasks.base import Inputs, task
from drmad_jax.experiments.tasks.classification import (
    ClassifierTask,
    Logits,
    cross_entropy,
    hold_out,
)


class LearnedDataConfig(TaskConfig):
    """Section `[task]`: learn a few training images, judged by what is trained on them.

    `inner.batch_size` = the number of these images is full-batch training, as published.

    Attributes:
        images_per_class: Training images of each class.
        start: What learning begins with: "blank" images, all zero; the "means" of each class; or
            random "real" images, drawn anew for each training run, which can be judged only.
        noise: Standard deviation of what is added to that for each pixel, once and for all; needed
            where there are several images of each class, which would stay alike without it.
    """

    kind: Literal["learned_data"] = "learned_data"
    images_per_class: PositiveInt = 1
    start: Literal["blank", "means", "real"] = "blank"
    noise: Annotated[float, Field(ge=0)] = 0.0


class Learnable(NamedTuple):
    """Training examples of which a part is learned.

    Attributes:
        start: What the learned part is added to.
        labels: Their labels.
        rows: Where each one's learned part stands.
    """

    start: Float[Array, "n h w c"]
    labels: Int[Array, " n"]
    rows: Int[Array, " n"]


class RealImages(NamedTuple):
    """The images that learned ones are measured by.

    Attributes:
        pool: Examples that validation sets and random training images are drawn from.
        means: Mean image of each class in the pool.
        test: Test examples.
    """

    pool: Images
    means: Float[Array, "classes h w c"]
    test: Images


@task(LearnedDataConfig, data=ImagesConfig, model=[MLPConfig])
class LearnedDataTask(ClassifierTask[LearnedDataConfig, MLPConfig]):
    """Trains a classifier on a few images per class, which are learned pixel by pixel.

    E(x) = loss on real images of the weights that training on x leads to, from new initial weights
    at every outer step. Labels are fixed.

    The hyperparameters are {"images": x - start}, shape (classes, images per class, height, width,
    channels).
    """

    def check(self) -> None:
        """What is asked for can be tuned, and a minibatch is no more than there is."""
        task, tuned = self.task, self.config.outer.num_steps
        if task.start == "real" and tuned > 0:
            raise ConfigError(
                "task.start: 'real' images are drawn anew for every training run, and cannot be "
                f"tuned; set outer.num_steps = 0, got {tuned}"
            )
        if task.images_per_class > 1 and task.noise == 0 and tuned > 0:
            raise ConfigError(
                "task.noise: images of one class that begin alike stay alike; set it to a value "
                "above 0 where task.images_per_class is above 1"
            )
        if self.config.inner.batch_size > self._num_learned:
            raise ConfigError(
                f"inner.batch_size: must not exceed the {self._num_learned} training images "
                f"(task.images_per_class of each class), got {self.config.inner.batch_size}"
            )

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy of the learned images inside, of real ones outside."""
        loss = dj.composite_loss(self._predict, cross_entropy)
        return dj.Problem(loss, self.outer_loss, self.config.inner.optimizer.build())

    def load_data(self) -> RealImages:
        """The images to draw from with the means of their classes, and the test images."""
        pool, test = super().load_data()
        is_class = jax.nn.one_hot(pool.labels, self.dataset.num_classes)
        sums = jnp.einsum("nc,nhwk->chwk", is_class, pool.images)
        return RealImages(pool, sums / is_class.sum(axis=0)[:, None, None, None], test)

    def init_hparams(self) -> dict[str, Array]:
        """Nothing learned yet, but for noise that tells the images of one class apart."""
        shape = (self.dataset.num_classes, self.task.images_per_class, *self.dataset.image_shape)
        return {"images": self.task.noise * jax.random.normal(self.fixed_key, shape)}

    def sample(self, key: Array, data: RealImages) -> Inputs:
        """New initial weights, and a new validation set of real images."""
        split_key, start_key, params_key, batch_key, run_key = jax.random.split(key, 5)
        rest, valid = hold_out(split_key, data.pool, self.data.num_valid)
        params, _ = self.network.init(params_key, data.means)
        per_class = self.task.images_per_class
        if self.task.start == "real":
            rows = draw_per_class(
                start_key, jnp.asarray(rest.labels), self.dataset.num_classes, per_class
            )
            start = rest.images[rows]
        else:
            start = self._start(data)
        labels = jnp.repeat(jnp.arange(self.dataset.num_classes, dtype=jnp.int32), per_class)
        examples = Learnable(_flat(start), labels, jnp.arange(self._num_learned))
        batches = inner_batches(examples, self.config.inner.batch_size, batch_key)
        return Inputs(params, batches, valid, key=run_key)

    def figures(self, hparams: PyTree, data: RealImages) -> dict[str, Figure]:
        """The learned images, a column for each class."""
        learned = hparams["images"] + self._start(data)
        return {"learned_images": images.images_by_class(learned.mean(axis=-1))}

    @property
    def _num_learned(self) -> int:
        return self.dataset.num_classes * self.task.images_per_class

    def _start(self, data: RealImages) -> Float[Array, "classes k h w c"]:
        """What is learned begins as a black image, or as the mean of its class."""
        means = data.means[:, None] if self.task.start == "means" else 0 * data.means[:, None]
        return jnp.repeat(means, self.task.images_per_class, axis=1)

    def _predict(self, params: PyTree, hparams: PyTree, batch: Learnable) -> Logits:
        learned = _flat(hparams["images"])[batch.rows]
        return self.network(params, batch.start + learned)


def draw_per_class(
    key: Array, labels: Int[Array, " n"], num_classes: int, per_class: int
) -> Int[Array, "classes k"]:
    """Draws the same number of examples of each class, without replacement.

    Args:
        key: Key of the draw.
        labels: Class numbers.
        num_classes: How many classes there are.
        per_class: How many examples of each; there must be so many.

    Returns:
        Rows of the chosen examples.
    """
    ranks = jax.random.uniform(key, labels.shape)
    is_class = labels == jnp.arange(num_classes)[:, None]
    return jax.lax.top_k(jnp.where(is_class, ranks, -1), per_class)[1]


def _flat(images: Float[Array, "classes k h w c"]) -> Float[Array, "n h w c"]:
    return images.reshape(-1, *images.shape[2:])
