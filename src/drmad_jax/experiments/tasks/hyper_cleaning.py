"""Data hyper-cleaning: a learned weight for each training example (Franceschi et al. 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.sections import HyperCleaningConfig, ImagesConfig, MLPConfig
from drmad_jax.experiments.data.batches import inner_batches
from drmad_jax.experiments.data.datasets import DATASETS, Images
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.models.feedforward import MLP, init_params
from drmad_jax.experiments.models.network import perceptron
from drmad_jax.experiments.tasks.base import Inputs, Task, section, train_once
from drmad_jax.experiments.tasks.classification import (
    cross_entropy,
    hold_out,
    load,
    scores,
)
from drmad_jax.experiments.tasks.projections import capped_simplex

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# No outer step and no fresh seed has this number.
_DATA = 2**32 - 2


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


@dataclasses.dataclass(frozen=True)
class HyperCleaningTask(Task):
    """Trains a classifier on weighted examples, some of them with wrong labels.

    L(w, λ) = 1/n Σ λ_i·(cross entropy of example i), the λ_i in [0, 1] with Σ λ_i <= R; outside,
    the cross entropy of clean validation examples. The weights belong to particular examples, so
    that split and wrong labels follow from the `seed` of the configuration, and are the same at
    every outer step and when judged; initial weights of the network are new each time.

    The hyperparameters are {"weights": λ}, shape (training examples,).
    """

    config: Config
    task: HyperCleaningConfig
    data: ImagesConfig
    model: MLPConfig

    @classmethod
    def of(cls, config: Config) -> HyperCleaningTask:
        """The task of a configuration with images and a perceptron."""
        task = section(config.task, HyperCleaningConfig, "task", config)
        if task.corrupted > 1:
            raise ConfigError(
                f"task.corrupted: expected a share of at most 1, got {task.corrupted}"
            )
        return cls(
            config,
            task,
            section(config.data, ImagesConfig, "data", config),
            section(config.model, MLPConfig, "model", config),
        )

    @property
    def problem(self) -> dj.Problem:
        """Weighted cross entropy inside, plain cross entropy on clean examples outside."""
        loss = dj.composite_loss(self._predict, _weighted_cross_entropy)
        return dj.Problem(loss, self._outer_loss, self.config.inner.optimizer.build())

    @property
    def project(self) -> Callable[[PyTree], PyTree]:
        """Weights back into [0, 1], and to a sum of R at most."""
        return lambda hparams: {"weights": capped_simplex(hparams["weights"], self.task.budget)}

    def load_data(self) -> CleaningData:
        """The one split of this seed, its first training labels replaced by other ones."""
        splits = load(self.data)
        key = jax.random.fold_in(jax.random.key(self.config.seed), _DATA)
        split_key, label_key = jax.random.split(key)
        train, valid = hold_out(split_key, splits.train, self.data.num_valid)
        num_classes = DATASETS[self.data.dataset].num_classes
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
        log_scale = self.model.init_log_scale
        params = init_params(self._network, params_key, data.train.images[:1], log_scale)
        batches = inner_batches(data.train, self.config.inner.batch_size, batch_key)
        return Inputs(params, batches, data.valid, key=run_key)

    def evaluate(
        self, state: dj.TrainState, hparams: PyTree, data: CleaningData
    ) -> dict[str, Float[Array, ""]]:
        """Scores on the test examples, and how well the wrong labels are found."""
        logits = self._predict(state.params, hparams, data.test)
        found = hparams["weights"] < self.task.threshold
        return scores(logits, data.test) | retrieval(found, data.train.labels != data.true_labels)

    def evaluate_fresh(
        self, inputs: Inputs, state: dj.TrainState, hparams: PyTree, data: CleaningData
    ) -> dict[str, Float[Array, ""]]:
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
        logits = self._predict(state.params, hparams, data.test)
        return {"retrained_error": scores(logits, data.test)["test_error"]}

    def figures(self, hparams: PyTree, data: CleaningData) -> dict[str, Figure]:
        """Weights of clean and corrupted examples, precision and recall, examples thrown out."""
        from drmad_jax.experiments.figures import cleaning_plots as plots

        weights, given, true = (
            np.asarray(x) for x in (hparams["weights"], data.train.labels, data.true_labels)
        )
        wrong = given != true
        images = np.asarray(data.train.images).mean(axis=-1)
        return {
            "weights": plots.weights(weights, wrong),
            "precision_recall": plots.precision_recall(weights, wrong, self.task.threshold),
            "found": plots.found(images, weights, given, true, self.task.threshold),
        }

    @property
    def _network(self) -> MLP:
        return perceptron(self.model, self.data)

    @property
    def _num_train(self) -> int:
        return self.data.num_train - self.data.num_valid

    def _corrupted(self) -> Bool[np.ndarray, " n"]:
        """The first training examples; their order is drawn anyway."""
        return np.arange(self._num_train) < round(self.task.corrupted * self._num_train)

    def _predict(
        self, params: PyTree, hparams: PyTree, batch: Images | Weighted
    ) -> Float[Array, "n classes"]:
        del hparams
        return cast(Array, self._network.apply({"params": params}, batch.images))

    def _outer_loss(self, params: PyTree, hparams: PyTree, batch: Images) -> Float[Array, ""]:
        return cross_entropy(self._predict(params, hparams, batch), hparams, batch)


def retrieval(found: Bool[Array, " n"], wanted: Bool[Array, " n"]) -> dict[str, Float[Array, ""]]:
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


def _weighted_cross_entropy(
    logits: Float[Array, "n classes"], hparams: PyTree, batch: Weighted
) -> Float[Array, ""]:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.mean(hparams["weights"][batch.rows] * losses)
