"""Learning how to train a network that finds clouds and their shadows in satellite images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.sections import CloudsConfig, CloudsTaskConfig, PyramidConfig
from drmad_jax.experiments.data import clouds, geotiff
from drmad_jax.experiments.data.augmentations import STRENGTH_TRANSFORM
from drmad_jax.experiments.data.clouds import BANDS, CLASSES, Patches, PatchSplits
from drmad_jax.experiments.models.network import Network, kernels_of
from drmad_jax.experiments.tasks import segmentation
from drmad_jax.experiments.tasks.base import Inputs, Task, check_tuned, section, train_once
from drmad_jax.experiments.tasks.classification import fresh_inputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class CloudsTask(Task):
    """Trains a network that labels pixels clear, shadow or cloud.

    The hyperparameters are a dictionary of what is tuned: `penalties`, a log L2 penalty by layer;
    `class_weights`, logs of shape (3,); `augmentation`, logits of `brightness` and `noise`, each of
    shape (4,), one for each band.
    """

    config: Config
    task: CloudsTaskConfig
    data: CloudsConfig
    network: Network

    @classmethod
    def of(cls, config: Config) -> CloudsTask:
        """The task of a configuration with satellite images and a pyramid network."""
        task = section(config.task, CloudsTaskConfig, "task", config)
        check_tuned(task.tuned)
        data = section(config.data, CloudsConfig, "data", config)
        model = section(config.model, PyramidConfig, "model", config)
        module = segmentation.PyramidNet(model.width, model.dilations, len(CLASSES))
        return cls(config, task, data, Network(module, has_state=True))

    @property
    def problem(self) -> dj.Problem:
        """Weighted cross entropy plus penalty inside, the section's `outer_loss` outside."""
        loss = dj.composite_loss(self._train_outputs, _criterion, self._penalty)
        return dj.Problem(loss, self._outer_loss, self.config.inner.optimizer.build())

    def load_data(self) -> PatchSplits:
        """The patches to draw from, and the test patches."""
        sizes = {"num_train": self.data.num_train, "num_test": self.data.num_test}
        if self.data.folder:
            folder = Path(self.data.folder).expanduser()
            splits = geotiff.load_splits(folder, self.data.patch_size, **sizes)
        else:
            splits = clouds.make_splits(self.data.patch_size, **sizes)
        return jax.device_put(splits)

    def init_hparams(self) -> dict[str, Any]:
        """Every hyperparameter at the section's start."""
        return {name: value for name, value in self._start().items() if name in self.task.tuned}

    def sample(self, key: Array, data: PatchSplits) -> Inputs:
        """A new split into training and validation set, new weights, new minibatches."""
        return fresh_inputs(key, data.train, self.network, self.config)

    def evaluate(
        self, state: dj.TrainState, hparams: PyTree, data: PatchSplits
    ) -> dict[str, Float[Array, ""]]:
        """Cross entropy, and for each class precision, recall and intersection over union."""
        del hparams
        logits = self._outputs(state, data.test.images)
        loss = segmentation.weighted_cross_entropy(logits, data.test.labels)
        return {"test_loss": loss, **segmentation.scores(logits, data.test.labels, CLASSES)}

    def figures(self, hparams: PyTree, data: PatchSplits) -> dict[str, Figure]:
        """Test patches, truth and prediction before and after tuning, of one training run each."""
        from drmad_jax.experiments.figures import cloud_plots

        labels = np.asarray(data.test.labels)
        shown = cloud_plots.most_varied(labels, _NUM_SHOWN)
        inputs = jax.jit(self.sample)(jax.random.key(self.config.seed), data)

        @jax.jit
        def trained(hparams, inputs, data):
            state = train_once(self.problem, hparams, inputs, self.config.inner.num_steps)
            predicted = jnp.argmax(self._outputs(state, data.test.images[shown]), -1)
            return self.evaluate(state, hparams, data), predicted

        given = {"before": jax.tree.map(np.asarray, self.init_hparams()), "after": hparams}
        results = {name: trained(each, inputs, data) for name, each in given.items()}
        predicted = {name: np.asarray(found) for name, (_, found) in results.items()}
        images = np.asarray(data.test.images)[shown]
        return {
            "predictions": cloud_plots.predictions(images, labels[shown], predicted),
            "iou": cloud_plots.bars(
                {k: [scores[f"iou_{c}"] for c in CLASSES] for k, (scores, _) in results.items()}
            ),
            "hyperparameters": cloud_plots.hyperparameters(
                _readable(given["before"]), _readable(hparams)
            ),
        }

    def _start(self) -> dict[str, Any]:
        """Where everything starts that could be tuned."""
        kernels = self.network.kernels((self.data.patch_size, self.data.patch_size, len(BANDS)))
        strength = STRENGTH_TRANSFORM.unconstrain(jnp.full(len(BANDS), self.task.initial_strength))
        return {
            "penalties": dict.fromkeys(kernels, jnp.float32(self.task.initial_log_l2)),
            "class_weights": jnp.zeros(len(CLASSES)),
            "augmentation": {"brightness": strength, "noise": strength},
        }

    def _outputs(
        self, state: dj.TrainState, images: Float[Array | np.ndarray, "n h w 4"]
    ) -> Float[Array, "n h w 3"]:
        return self.network(state.params, images, model_state=state.model_state)

    def _train_outputs(
        self, params: PyTree, hparams: PyTree, batch: Patches, *, model_state: PyTree, key: Array
    ) -> tuple[Float[Array, "n h w 3"], PyTree]:
        images = batch.images
        if "augmentation" in hparams:
            images = change_bands(key, images, _strengths(hparams))
        return self.network.train(params, images, model_state=model_state, key=key)

    def _penalty(self, params: PyTree, hparams: PyTree) -> Float[Array, ""]:
        start = dict.fromkeys(kernels_of(params), self.task.initial_log_l2)
        log_l2 = hparams.get("penalties", start)
        squares = {name: jnp.sum(jnp.square(kernel)) for name, kernel in kernels_of(params).items()}
        return sum((jnp.exp(log_l2[k]) * squares[k] for k in squares), jnp.zeros(()))

    def _outer_loss(
        self, params: PyTree, hparams: PyTree, batch: Patches, *, model_state: PyTree
    ) -> Float[Array, ""]:
        del hparams
        logits = self.network(params, batch.images, model_state=model_state)
        if self.task.outer_loss == "soft_iou":
            return segmentation.soft_iou_loss(logits, batch.labels)
        return segmentation.weighted_cross_entropy(logits, batch.labels)


def change_bands(
    key: Array,
    images: Float[Array | np.ndarray, "n h w b"],
    strengths: dict[str, Float[Array, " b"]],
) -> Float[Array, "n h w b"]:
    """Changes the brightness of every band of every image, and adds noise to every value.

    Args:
        key: Key of the draw, which does not depend on the strengths.
        images: Reflectances.
        strengths: `brightness`, the largest log of a band's factor, and `noise`, the standard
            deviation in reflectance, one for each band.

    Returns:
        Images of the same shape.
    """
    images = jnp.asarray(images)
    factor_key, noise_key = jax.random.split(key)
    count, bands = images.shape[0], images.shape[-1]
    draws = jax.random.uniform(factor_key, (count, 1, 1, bands), images.dtype, -1.0, 1.0)
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    return images * jnp.exp(strengths["brightness"] * draws) + strengths["noise"] * noise


def _criterion(
    logits: Float[Array, "n h w k"], hparams: PyTree, batch: Patches
) -> Float[Array, ""]:
    log_weights = hparams.get("class_weights")
    return segmentation.weighted_cross_entropy(logits, batch.labels, log_weights)


def _strengths(hparams: PyTree) -> dict[str, Array]:
    return dj.transforms.constrain(STRENGTH_TRANSFORM, hparams["augmentation"])


def _readable(hparams: PyTree) -> dict[str, dict[str, float]]:
    """Every single hyperparameter by its kind and name, as a number that readers know."""
    found: dict[str, dict[str, float]] = {}
    if "penalties" in hparams:
        found["log L2 penalty"] = {k: float(v) for k, v in hparams["penalties"].items()}
    if "class_weights" in hparams:
        centred = np.asarray(hparams["class_weights"]) - np.mean(hparams["class_weights"])
        found["log class weight"] = dict(zip(CLASSES, map(float, centred), strict=True))
    if "augmentation" in hparams:
        names = ("blue", "green", "red", "NIR")
        found["augmentation"] = {
            f"{kind}, {name}": float(value)
            for kind, values in _strengths(hparams).items()
            for name, value in zip(names, values, strict=True)
        }
    return found
