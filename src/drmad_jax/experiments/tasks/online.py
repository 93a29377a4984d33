"""Learning rates and L2 penalties that adapt while the one training run goes on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.sections import ImagesConfig, OnlineConfig
from drmad_jax.experiments.data.datasets import Images, ImageSplits
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.models.network import CLASSIFIERS, Network, classifier
from drmad_jax.experiments.tasks.base import Inputs, Task, check_tuned, section
from drmad_jax.experiments.tasks.classification import cross_entropy, hold_out, load, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With this learning rate an optimizer's update is the direction that a rate is multiplied with.
_ASCENT = {"learning_rate": -1.0}


class Pair(NamedTuple):
    """One thing for training, and one for validation.

    As weights: `training` are the weights. `validation` is a copy of them, in which the validation
    loss is differentiated by the same call as the training loss.
    """

    training: Any
    validation: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairedBatches:
    """A training batch and a validation batch at each step."""

    training: dj.Minibatches
    validation: dj.Minibatches

    def __call__(self, step: Int[Array, ""] | int) -> Pair:
        """Both batches of one step."""
        return Pair(self.training(step), self.validation(step))


@dataclasses.dataclass(frozen=True)
class OnlineTask(Task):
    """Trains a classifier once, by an optimizer that learns from validation batches as it goes.

    Nothing is learned from one run to the next: there are no hyperparameters.
    """

    config: Config
    task: OnlineConfig
    data: ImagesConfig
    network: Network

    @classmethod
    def of(cls, config: Config) -> OnlineTask:
        """The task of a configuration with labelled images and a network for them."""
        task = section(config.task, OnlineConfig, "task", config)
        check_tuned(task.tuned)
        if config.outer.num_steps > 0:
            raise ConfigError(
                "outer.num_steps: task 'online' learns within each training run and hands nothing "
                f"on to the next: set 0, got {config.outer.num_steps}"
            )
        data = section(config.data, ImagesConfig, "data", config)
        model = section(config.model, CLASSIFIERS, "model", config)
        return cls(config, task, data, classifier(model, data))

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy of training and of validation batches inside, each in its own weights."""
        both = lambda params, hparams: Pair(params, params)
        return dj.Problem(self._inner_loss, self._outer_loss, self._optimizer(), both)

    def load_data(self) -> ImageSplits:
        """The examples to draw from, and the test examples."""
        return load(self.data)

    def init_hparams(self) -> dict[str, Array]:
        """None."""
        return {}

    def sample(self, key: Array, data: ImageSplits) -> Inputs:
        """A new split into training and validation set, new weights, new minibatches of both."""
        split_key, params_key, batch_key, run_key = jax.random.split(key, 4)
        train, valid = hold_out(split_key, data.train, self.data.num_valid)
        params, model_state = self.network.init(params_key, valid.images)
        size = self.config.inner.batch_size
        batches = PairedBatches(
            dj.minibatches(train, size, batch_key),
            dj.minibatches(valid, size, jax.random.fold_in(batch_key, 1)),
        )
        return Inputs(params, batches, valid, model_state, run_key)

    def evaluate(
        self, state: dj.TrainState, hparams: PyTree, data: ImageSplits
    ) -> dict[str, Float[Array, ""]]:
        """Scores on the test examples, and where rates and penalties came to."""
        del hparams
        logits = self._outputs(state.params, data.test, state.model_state)
        adapted = state.opt_state
        found = {}
        for name in ("penalties", "learning_rates"):
            if name in self.task.tuned:
                found[f"mean_log_{name}"] = _mean(adapted.log_values)
                adapted = adapted.inner
        return scores(logits, data.test) | found

    def figures(self, hparams: PyTree, data: ImageSplits) -> dict[str, Figure]:
        """None: what was learned is gone with the run."""
        del hparams, data
        return {}

    def _optimizer(self) -> optax.GradientTransformation:
        options = {
            "log_step": self.task.log_step,
            "rule": self.task.rule,
            "granularity": self.task.granularity,
        }
        chosen = self.config.inner.optimizer
        optimizer = chosen.build()
        if "learning_rates" in self.task.tuned:
            rate = chosen.parameters()["learning_rate"]
            direction = dataclasses.replace(chosen, options={**chosen.options, **_ASCENT})
            optimizer = dj.online_learning_rates(direction.build(), init=rate, **options)
        if "penalties" in self.task.tuned:
            # The gradient of exp(log_l2)·w² is twice as large as that of ½ λ w².
            start = 2 * math.exp(self.task.initial_log_l2)
            optimizer = dj.online_penalties(optimizer, init=start, **options)
        return _for_pairs(optimizer)

    def _inner_loss(
        self,
        params: Pair,
        hparams: PyTree,
        batch: Pair,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Any:
        outputs = self.network.train(
            params.training, batch.training.images, model_state=model_state, key=key
        )
        logits, new_state = outputs if self.network.has_state else (outputs, None)
        loss = cross_entropy(logits, hparams, batch.training)
        validation = self.network(
            params.validation, batch.validation.images, model_state=model_state
        )
        loss = loss + cross_entropy(validation, hparams, batch.validation)
        return (loss, new_state) if self.network.has_state else loss

    def _outputs(self, params: Pair, batch: Images, model_state: PyTree) -> Array:
        return self.network(params.training, batch.images, model_state=model_state)

    def _outer_loss(
        self, params: Pair, hparams: PyTree, batch: Images, *, model_state: PyTree = None
    ) -> Float[Array, ""]:
        return cross_entropy(self._outputs(params, batch, model_state), hparams, batch)


def _for_pairs(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Gives the validation weights' gradient to the optimizer of the training weights."""
    inner: Callable[..., Any] = optax.with_extra_args_support(optimizer).update

    def init(params: Any) -> PyTree:
        return optimizer.init(params.training)

    def update(updates: Any, state: PyTree, params: Any = None) -> tuple[Any, PyTree]:
        weights = None if params is None else params.training
        made, state = inner(updates.training, state, weights, outer_grad=updates.validation)
        return Pair(made, made), state

    return optax.GradientTransformation(init, update)


def _mean(pytree: PyTree) -> Float[Array, ""]:
    leaves = jax.tree.leaves(pytree)
    return sum(jnp.sum(leaf) for leaf in leaves) / sum(leaf.size for leaf in leaves)  # pyright: ignore
