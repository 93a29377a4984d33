"""Learning rates and L2 penalties that adapt while the one training run goes on."""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree
from pydantic import Field

import drmad_jax as dj
from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.config.section import Log, a_list
from drmad_jax.experiments.config.task import TaskConfig, chosen
from drmad_jax.experiments.data.datasets import Images, Splits
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.models.network import CLASSIFIERS
from drmad_jax.experiments.tasks.base import Inputs, Scalar, Scores, task
from drmad_jax.experiments.tasks.classification import ClassifierTask, Logits, cross_entropy

# With this learning rate an optimizer's update is the direction that a rate is multiplied with.
_ASCENT = {"learning_rate": -1.0}
Tuned = Literal["learning_rates", "penalties"]


class OnlineConfig(TaskConfig):
    """Section `[task]`: adapt learning rates and L2 penalties at every step of training.

    With `outer.num_steps = 0`, since nothing is handed on to another run.

    Attributes:
        tuned: What adapts of "learning_rates", starting from that of `[inner.optimizer]`, and
            "penalties".
        granularity: What has values of its own: each "parameter", each "tensor", or all weights
            together ("scalar").
        rule: A step by the "sign" of the hypergradient, by itself ("raw"), or by its "cosine".
        log_step: Step of the values' natural logs.
        initial_log_l2: Natural log of the initial penalties, those of Σ exp(log_l2)·w².
    """

    kind: Literal["online"] = "online"
    tuned: Annotated[tuple[Tuned, ...], a_list("names"), chosen] = get_args(Tuned)
    granularity: Literal["parameter", "tensor", "scalar"] = "parameter"
    rule: Literal["sign", "raw", "cosine"] = "sign"
    log_step: Annotated[float, Field(gt=0)] = 0.01
    initial_log_l2: Log = -9.0


class Pair(NamedTuple):
    """One thing for training, and one for validation.

    As weights: `training` are the weights. `validation` is a copy of them, in which the validation
    loss is differentiated by the same call as the training loss.
    """

    training: Any
    validation: Any


@task(OnlineConfig, data=ImagesConfig, model=CLASSIFIERS)
class OnlineTask(ClassifierTask[OnlineConfig, Any]):
    """Trains a classifier once, by an optimizer that learns from validation batches as it goes.

    Nothing is learned from one run to the next: there are no hyperparameters, and no figures.
    """

    def check(self) -> None:
        """No outer steps are asked for."""
        if self.config.outer.num_steps > 0:
            raise ConfigError(
                "outer.num_steps: task 'online' learns within each training run and hands nothing "
                f"on to the next: set 0, got {self.config.outer.num_steps}"
            )

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy of training and of validation batches inside, each in its own weights."""
        both = lambda params, hparams: Pair(params, params)
        return dj.Problem(self._inner_loss, self.outer_loss, self._optimizer(), both)

    def init_hparams(self) -> dict[str, Array]:
        """None."""
        return {}

    def sample(self, key: Array, data: Splits) -> Inputs:
        """A new split into training and validation set, new weights, new minibatches of both."""
        inputs = super().sample(key, data)
        _, _, batch_key, _ = jax.random.split(key, 4)
        size = self.config.inner.batch_size
        valid = dj.minibatches(inputs.outer_batch, size, jax.random.fold_in(batch_key, 1))
        both = jax.tree_util.Partial(_batches_of_step, Pair(inputs.inner_batches, valid))
        return inputs._replace(inner_batches=both)

    def outputs(
        self, params: Pair, hparams: PyTree, batch: Images, *, model_state: PyTree = None
    ) -> Logits:
        """The logits of a batch, of the weights that are trained."""
        return super().outputs(params.training, hparams, batch, model_state=model_state)

    def evaluate(self, state: dj.TrainState, hparams: PyTree, data: Splits) -> Scores:
        """Scores on the test examples, and where rates and penalties came to."""
        adapted = state.opt_state
        found = {}
        for name in ("penalties", "learning_rates"):
            if name in self.task.tuned:
                found[f"mean_log_{name}"] = _mean(adapted.log_values)
                adapted = adapted.inner
        return super().evaluate(state, hparams, data) | found

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


def _batches_of_step(batches: Pair, step: Int[Array, ""] | int) -> Pair:
    return Pair(batches.training(step), batches.validation(step))


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


def _mean(pytree: PyTree) -> Scalar:
    leaves = jax.tree.leaves(pytree)
    return sum(jnp.sum(leaf) for leaf in leaves) / sum(leaf.size for leaf in leaves)  # pyright: ignore
