"""Learning how to train a network that finds clouds and their shadows in satellite images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pydantic import Field

import drmad_jax as dj
from drmad_jax.experiments.config.data import CloudsConfig
from drmad_jax.experiments.config.models import PyramidConfig
from drmad_jax.experiments.config.section import Log, a_list
from drmad_jax.experiments.config.task import TaskConfig, chosen
from drmad_jax.experiments.data import clouds, geotiff
from drmad_jax.experiments.data.augmentations import STRENGTH_TRANSFORM
from drmad_jax.experiments.data.clouds import BANDS, CLASSES
from drmad_jax.experiments.data.datasets import Images, Splits
from drmad_jax.experiments.figures import style
from drmad_jax.experiments.models.network import Network, kernels_of
from drmad_jax.experiments.models.pyramid import PyramidNet
from drmad_jax.experiments.tasks import segmentation
from drmad_jax.experiments.tasks.base import Scalar, Scores, task, train_once
from drmad_jax.experiments.tasks.classification import ImageTask

_NUM_SHOWN = 5
# Clear ground light, shadows dark, clouds blue: told apart by lightness alone, too.
_COLORS = ("#E8E2D0", "#333333", "#56B4E9")
_NO_VALUE = "#FFFFFF"

Tuned = Literal["penalties", "class_weights", "augmentation"]


class CloudsTaskConfig(TaskConfig):
    """Section `[task]`: learn how to train a network that finds clouds and their shadows.

    Attributes:
        tuned: What is learned: "penalties", a log L2 penalty for each layer's kernel;
            "class_weights", the log of each class's weight in the training loss; "augmentation",
            how strongly each band is brightened and made noisy. What is not in the list keeps its
            start: the initial penalties, equal weights, no augmentation.
        initial_log_l2: Natural log of the initial penalties.
        initial_strength: Augmentation that tuning starts from: the largest log of a band's factor,
            and the standard deviation of its noise in reflectance.
        outer_loss: What is to be small on validation patches: "soft_iou", 1 - mean intersection
            over union of probabilities, or the plain "cross_entropy".
    """

    headline: ClassVar[str] = "mean_iou"

    kind: Literal["clouds"] = "clouds"
    tuned: Annotated[tuple[Tuned, ...], a_list("names"), chosen] = get_args(Tuned)
    initial_log_l2: Log = -9.0
    initial_strength: Annotated[float, Field(gt=0, lt=1)] = 0.02
    outer_loss: Literal["soft_iou", "cross_entropy"] = "soft_iou"


@task(CloudsTaskConfig, data=CloudsConfig, model=[PyramidConfig])
class CloudsTask(ImageTask[CloudsTaskConfig, CloudsConfig, PyramidConfig]):
    """Trains a network that labels pixels clear, shadow or cloud.

    The hyperparameters are a dictionary of what is tuned: `penalties`, a log L2 penalty by layer;
    `class_weights`, logs of shape (3,); `augmentation`, logits of `brightness` and `noise`, each of
    shape (4,), one for each band.
    """

    @property
    def network(self) -> Network:
        """The network of section `[model]`, with an output for each class."""
        return Network(PyramidNet(self.model, len(CLASSES)), has_state=True)

    @property
    def problem(self) -> dj.Problem:
        """Weighted cross entropy plus penalty inside, the section's `outer_loss` outside."""
        loss = dj.composite_loss(self._train_outputs, _criterion, self._penalty)
        return dj.Problem(loss, self._outer_loss, self.config.inner.optimizer.build())

    def load_data(self) -> Splits:
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

    def evaluate(self, state: dj.TrainState, hparams: PyTree, data: Splits) -> Scores:
        """Cross entropy, and for each class precision, recall and intersection over union."""
        logits = self.outputs(state.params, hparams, data.test, model_state=state.model_state)
        loss = segmentation.weighted_cross_entropy(logits, data.test.labels)
        return {"test_loss": loss, **segmentation.scores(logits, data.test.labels, CLASSES)}

    def figures(self, hparams: PyTree, data: Splits) -> dict[str, Figure]:
        """Test patches, truth and prediction before and after tuning, of one training run each."""
        labels = np.asarray(data.test.labels)
        shown = _most_varied(labels, _NUM_SHOWN)
        inputs = jax.jit(self.sample)(jax.random.key(self.config.seed), data)

        @jax.jit
        def trained(hparams, inputs, data):
            state = train_once(self.problem, hparams, inputs, self.config.inner.num_steps)
            some = Images(data.test.images[shown], labels[shown])
            logits = self.outputs(state.params, hparams, some, model_state=state.model_state)
            return self.evaluate(state, hparams, data), jnp.argmax(logits, -1)

        given = {"before": jax.tree.map(np.asarray, self.init_hparams()), "after": hparams}
        results = {name: trained(each, inputs, data) for name, each in given.items()}
        predicted = {name: np.asarray(found) for name, (_, found) in results.items()}
        images = np.asarray(data.test.images)[shown]
        return {
            "predictions": _predictions(images, labels[shown], predicted),
            "iou": _bars(
                {k: [scores[f"iou_{c}"] for c in CLASSES] for k, (scores, _) in results.items()}
            ),
            "hyperparameters": _hyperparameters(_readable(given["before"]), _readable(hparams)),
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

    def _train_outputs(
        self, params: PyTree, hparams: PyTree, batch: Images, *, model_state: PyTree, key: Array
    ) -> tuple[Float[Array, "n h w 3"], PyTree]:
        images = batch.images
        if "augmentation" in hparams:
            images = _change_bands(key, images, _strengths(hparams))
        return self.network.train(params, images, model_state=model_state, key=key)

    def _penalty(self, params: PyTree, hparams: PyTree) -> Scalar:
        start = dict.fromkeys(kernels_of(params), self.task.initial_log_l2)
        log_l2 = hparams.get("penalties", start)
        squares = {name: jnp.sum(jnp.square(kernel)) for name, kernel in kernels_of(params).items()}
        return sum((jnp.exp(log_l2[k]) * squares[k] for k in squares), jnp.zeros(()))

    def _outer_loss(
        self, params: PyTree, hparams: PyTree, batch: Images, *, model_state: PyTree
    ) -> Scalar:
        logits = self.outputs(params, hparams, batch, model_state=model_state)
        if self.task.outer_loss == "soft_iou":
            return segmentation.soft_iou_loss(logits, batch.labels)
        return segmentation.weighted_cross_entropy(logits, batch.labels)


def _change_bands(
    key: Array,
    images: Float[Array | np.ndarray, "n h w b"],
    strengths: dict[str, Float[Array, " b"]],
) -> Float[Array, "n h w b"]:
    """Changes the brightness of every band of every image, and adds noise to every value."""
    images = jnp.asarray(images)
    factor_key, noise_key = jax.random.split(key)
    count, bands = images.shape[0], images.shape[-1]
    draws = jax.random.uniform(factor_key, (count, 1, 1, bands), images.dtype, -1.0, 1.0)
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    return images * jnp.exp(strengths["brightness"] * draws) + strengths["noise"] * noise


def _criterion(logits: Float[Array, "n h w k"], hparams: PyTree, batch: Images) -> Scalar:
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


def _most_varied(labels: Int[np.ndarray, "n h w"], count: int) -> Int[np.ndarray, " count"]:
    """The patches of which the rarest class covers most."""
    shares = [(labels == index).mean(axis=(1, 2)) for index in range(len(CLASSES))]
    return np.argsort(-np.min(shares, axis=0), kind="stable")[:count]


def _predictions(
    images: Float[np.ndarray, "n h w 4"],
    truth: Int[np.ndarray, "n h w"],
    predicted: Mapping[str, Int[np.ndarray, "n h w"]],
) -> Figure:
    """Patches in true colours, and below each the truth and what networks found."""
    # Red, green and blue, brightened as for the eye.
    true_colour = np.clip(1.8 * images[..., 2::-1], 0, 1) ** 0.7
    rows = {"true colour": true_colour, "truth": truth, **predicted}
    side = (style.COLUMN_WIDTH - 0.65) / len(images)
    figure = style.new_figure(len(rows) * (side + 0.03) + 0.25, gaps=(0.012, 0))
    panels = figure.subplots(len(rows), len(images), squeeze=False)
    colors = ListedColormap([_NO_VALUE, *_COLORS])
    for line, (name, row) in zip(panels, rows.items(), strict=True):
        for axes, shown in zip(line, row, strict=True):
            axes.imshow(shown, cmap=colors, vmin=-1, vmax=len(CLASSES) - 1, interpolation="nearest")
            style.bare(axes)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    handles = [
        Patch(facecolor=color, edgecolor=style.GREY, linewidth=0.4, label=name)
        for color, name in zip(_COLORS, CLASSES, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _bars(values: Mapping[str, Sequence[Any]]) -> Figure:
    """Intersection over union of each class, before and after side by side."""
    figure, axes = style.panel(2.0)
    places = np.arange(len(CLASSES))
    for index, (name, row) in enumerate(values.items()):
        at, heights = places + 0.4 * (index - 0.5), [100 * float(value) for value in row]
        drawn = axes.bar(at, heights, 0.38, color=(style.GREY, style.BLUE)[index % 2], label=name)
        axes.bar_label(drawn, fmt="%.1f", fontsize=7)
    axes.set_xticks(places, CLASSES)
    axes.set(ylabel="test IoU (%), one run", ylim=(0, 108))
    figure.legend(loc="outside upper right", frameon=False, ncols=2)
    return figure


def _hyperparameters(
    before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Where every hyperparameter started and where it came to, a panel for each kind."""
    counts = [len(values) for values in before.values()]
    figure = style.new_figure(0.5 * len(counts) + 0.16 * sum(counts))
    panels = figure.subplots(len(counts), height_ratios=counts, squeeze=False)[:, 0]
    for axes, (kind, starts) in zip(panels, before.items(), strict=True):
        ends, rows = list(after[kind].values()), range(len(starts))
        axes.hlines(rows, list(starts.values()), ends, color=style.BLUE)
        axes.plot(list(starts.values()), rows, "|", color=style.ORANGE, markersize=7)
        axes.plot(ends, rows, "o", color=style.BLUE)
        axes.set_yticks(rows, list(starts))
        axes.set(ylim=(len(starts) - 0.5, -0.5), xlabel=f"{kind} (bar: start)")
    return figure
