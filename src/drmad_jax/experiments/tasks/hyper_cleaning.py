"""Data hyper-cleaning: a learned weight for each training example (Franceschi et al. 2017)."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree
from matplotlib.figure import Figure
from pydantic import Field

import drmad_jax as dj
from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.config.models import MLPConfig
from drmad_jax.experiments.config.task import TaskConfig
from drmad_jax.experiments.data.batches import inner_batches
from drmad_jax.experiments.data.datasets import Images
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.figures.style import BLUE, GREY, ORANGE, new_figure, panel
from drmad_jax.experiments.tasks.base import Inputs, Scalar, Scores, task, train_once
from drmad_jax.experiments.tasks.classification import ClassifierTask, Logits, hold_out
from drmad_jax.experiments.tasks.projections import capped_simplex

# Panels of the figure of examples thrown out.
_ROWS, _COLUMNS = 3, 6


class HyperCleaningConfig(TaskConfig):
    """Section `[task]`: learn a weight for each training example, some having wrong labels.

    `inner.batch_size` = the number of training examples is full-batch training, as published.

    Attributes:
        corrupted: Share of the training labels that are replaced by another class.
        budget: Upper limit R of the sum of the weights, each of them in [0, 1]; the number of
            training examples for no limit but that.
        start: Tuning starts from the same weight for all, R/n at most 1 ("even"), or from full
            weight for clean examples alone ("oracle"), as far as R allows it.
        threshold: An example counts as thrown out where its weight is below this.
    """

    kind: Literal["hyper_cleaning"] = "hyper_cleaning"
    corrupted: Annotated[float, Field(ge=0)] = 0.5
    budget: Annotated[float, Field(gt=0)]
    start: Literal["even", "oracle"] = "even"
    threshold: Annotated[float, Field(gt=0)] = 1e-3


class Weighted(NamedTuple):
    """Training examples that know which weight is theirs.

    Attributes:
        images: Their images.
        labels: The labels they are trained with.
        rows: Where each one's weight stands.
    """

    images: Float[Array, "n h w c"]
    labels: Int[Array, " n"]
    rows: Int[Array, " n"]


class CleaningData(NamedTuple):
    """One split, with one corruption of its training labels.

    Attributes:
        train: Training examples with the labels given to them.
        true_labels: The labels they had before.
        valid: Validation examples, their labels as they are.
        test: Test examples.
    """

    train: Weighted
    true_labels: Int[Array, " n"]
    valid: Images
    test: Images


@task(HyperCleaningConfig, data=ImagesConfig, model=[MLPConfig])
class HyperCleaningTask(ClassifierTask[HyperCleaningConfig, MLPConfig]):
    """Trains a classifier on weighted examples, some of them with wrong labels.

    L(w, λ) = 1/n Σ λ_i·(cross entropy of example i), the λ_i in [0, 1] with Σ λ_i <= R; outside,
    the cross entropy of clean validation examples. The weights belong to particular examples, so
    that split and wrong labels follow from the `seed` of the configuration, and are the same at
    every outer step and when judged; initial weights of the network are new each time.

    The hyperparameters are {"weights": λ}, shape (training examples,).
    """

    def check(self) -> None:
        """The share of wrong labels is one."""
        if self.task.corrupted > 1:
            raise ConfigError(
                f"task.corrupted: expected a share of at most 1, got {self.task.corrupted}"
            )

    @property
    def problem(self) -> dj.Problem:
        """Weighted cross entropy inside, plain cross entropy on clean examples outside."""
        loss = dj.composite_loss(self.outputs, _weighted_cross_entropy)
        return dj.Problem(loss, self.outer_loss, self.config.inner.optimizer.build())

    @property
    def project(self) -> Callable[[PyTree], PyTree]:
        """Weights back into [0, 1], and to a sum of R at most."""
        return lambda hparams: {"weights": capped_simplex(hparams["weights"], self.task.budget)}

    def load_data(self) -> CleaningData:
        """The one split of this seed, its first training labels replaced by other ones."""
        splits = super().load_data()
        split_key, label_key = jax.random.split(self.fixed_key)
        train, valid = hold_out(split_key, splits.train, self.data.num_valid)
        num_classes = self.dataset.num_classes
        shift = jax.random.randint(label_key, train.labels.shape, 1, num_classes)
        true = jnp.asarray(train.labels)
        given = jnp.where(self._corrupted(), (true + shift) % num_classes, true)
        weighted = Weighted(jnp.asarray(train.images), given, jnp.arange(self._num_train))
        return CleaningData(weighted, true, valid, splits.test)

    def init_hparams(self) -> dict[str, Array]:
        """The same weight for all examples, or for the clean ones alone."""
        start = np.ones(self._num_train, np.float32)
        if self.task.start == "oracle":
            start[self._corrupted()] = 0
        return self.project({"weights": jnp.asarray(start)})

    def sample(self, key: Array, data: CleaningData) -> Inputs:
        """New initial weights; minibatches are drawn unless they hold all examples."""
        params_key, batch_key, run_key = jax.random.split(key, 3)
        params, _ = self.network.init(params_key, data.train.images)
        batches = inner_batches(data.train, self.config.inner.batch_size, batch_key)
        return Inputs(params, batches, data.valid, key=run_key)

    def evaluate(self, state: dj.TrainState, hparams: PyTree, data: CleaningData) -> Scores:
        """Scores on the test examples, and how well the wrong labels are found."""
        found = hparams["weights"] < self.task.threshold
        scores = super().evaluate(state, hparams, data)
        return scores | retrieval(found, data.train.labels != data.true_labels)

    def evaluate_fresh(
        self, inputs: Inputs, state: dj.TrainState, hparams: PyTree, data: CleaningData
    ) -> Scores:
        """The error of a new training on the examples that were kept and the validation ones."""
        del state
        num_pool = self.data.num_train
        pool = Weighted(
            jnp.concatenate([data.train.images, data.valid.images]),
            jnp.concatenate([data.train.labels, data.valid.labels]),
            jnp.arange(num_pool),
        )
        kept = hparams["weights"] >= self.task.threshold
        weights = jnp.ones(num_pool).at[: self._num_train].set(kept.astype(jnp.float32))
        is_full = self.config.inner.batch_size == self._num_train
        batch_size = num_pool if is_full else self.config.inner.batch_size
        batches = inner_batches(pool, batch_size, cast(Array, inputs.key))
        again, even = inputs._replace(inner_batches=batches), {"weights": weights / weights.mean()}
        state = train_once(self.problem, even, again, self.config.inner.num_steps)
        return {"retrained_error": super().evaluate(state, hparams, data)["test_error"]}

    def figures(self, hparams: PyTree, data: CleaningData) -> dict[str, Figure]:
        """Weights of clean and corrupted examples, precision and recall, examples thrown out."""
        weights, given, true = (
            np.asarray(x) for x in (hparams["weights"], data.train.labels, data.true_labels)
        )
        wrong = given != true
        images = np.asarray(data.train.images).mean(axis=-1)
        return {
            "weights": _weights(weights, wrong),
            "precision_recall": _precision_recall(weights, wrong, self.task.threshold),
            "found": _found(images, weights, given, true, self.task.threshold),
        }

    @property
    def _num_train(self) -> int:
        return self.data.num_train - self.data.num_valid

    def _corrupted(self) -> Bool[np.ndarray, " n"]:
        """The first training examples; their order is drawn anyway."""
        return np.arange(self._num_train) < round(self.task.corrupted * self._num_train)


def retrieval(found: Bool[Array, " n"], wanted: Bool[Array, " n"]) -> Scores:
    """How well a set of examples was found.

    Args:
        found: Which ones were taken for it.
        wanted: Which ones belong to it.

    Returns:
        `precision`, `recall` and `f1`, their harmonic mean; 0 where there is nothing to divide by.
    """
    hits = jnp.sum(found & wanted, dtype=jnp.float32)
    num_found, num_wanted = (jnp.sum(x, dtype=jnp.float32) for x in (found, wanted))
    return {
        "precision": hits / jnp.maximum(num_found, 1),
        "recall": hits / jnp.maximum(num_wanted, 1),
        "f1": 2 * hits / jnp.maximum(num_found + num_wanted, 1),
    }


def _weighted_cross_entropy(logits: Logits, hparams: PyTree, batch: Weighted) -> Scalar:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.mean(hparams["weights"][batch.rows] * losses)


def _weights(values: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> Figure:
    """Histograms of the weights, those of clean and of corrupted examples apart."""
    figure, axes = panel(2.2)
    bins = np.linspace(0, max(float(values.max()), 1e-3), 31).tolist()
    for chosen, name, color in ((~wrong, "clean", BLUE), (wrong, "corrupted", ORANGE)):
        label = f"{name} ({chosen.sum()})"
        axes.hist(values[chosen], bins=bins, histtype="stepfilled", color=color, alpha=0.25)
        axes.hist(values[chosen], bins=bins, histtype="step", color=color, label=label)
    axes.set_yscale("symlog", linthresh=10)
    axes.set(ylim=(0, None), xlabel="learned weight", ylabel="examples")
    axes.legend(frameon=False)
    return figure


def _precision_recall(
    values: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], threshold: float
) -> Figure:
    """Precision and recall of finding wrong labels, as the weight up to which one is found grows.

    The curve begins at the lowest weight: among the examples that share it, as many do at zero,
    there is no order.
    """
    figure, axes = panel(2.6)
    order = np.argsort(values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    hits, num_found = np.cumsum(wrong[order])[ends], ends + 1
    num_wrong = max(wrong.sum(), 1)
    axes.plot(hits / num_wrong, hits / num_found, color=BLUE, label="found up to a weight")
    found = values < threshold
    if found.any():
        hits = (found & wrong).sum()
        point = hits / num_wrong, hits / found.sum()
        label = f"found below {threshold:g} ({found.sum()})"
        axes.plot(*point, "o", markersize=5, color=ORANGE, label=label)
    axes.axhline(wrong.mean(), color=GREY, linestyle="--", linewidth=0.8, label="chance")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall of wrong labels", ylabel="precision")
    axes.legend(frameon=False, loc="lower left")
    return figure


def _found(
    images: Float[np.ndarray, "n h w"],
    values: Float[np.ndarray, " n"],
    given: Int[np.ndarray, " n"],
    true: Int[np.ndarray, " n"],
    threshold: float,
) -> Figure:
    """Examples thrown out, each with the label given to it and the true one.

    Half of the columns show wrong labels that were found, the other half clean examples that were
    thrown out by mistake; the first ones of each.
    """
    figure = new_figure(2.4)
    halves = figure.subfigures(1, 2, squeeze=False, wspace=0.06)
    out, wrong = values < threshold, given != true
    for half, chosen, title in (
        (halves[0, 0], out & wrong, "wrong labels found"),
        (halves[0, 1], out & ~wrong, "clean, thrown out"),
    ):
        half.suptitle(f"{title} ({chosen.sum()})", fontsize=8)
        panels = half.subplots(_ROWS, _COLUMNS // 2).ravel()
        rows = np.flatnonzero(chosen)[: panels.size]
        for axes in panels:
            axes.axis("off")
        for axes, row in zip(panels, rows, strict=False):
            axes.imshow(images[row], cmap="Greys", interpolation="nearest")
            label = f"{given[row]}, not {true[row]}" if wrong[row] else f"{given[row]}"
            axes.set_title(label, fontsize=7, pad=2)
    return figure
