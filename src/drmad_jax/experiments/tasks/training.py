"""Learning how to train: schedules of rates, scales of initial weights (Maclaurin et al. 2015)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax import transforms
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.sections import ImagesConfig, MLPConfig, TrainingConfig
from drmad_jax.experiments.data.datasets import Images, ImageSplits
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.models.feedforward import MLP, init_params
from drmad_jax.experiments.models.network import perceptron
from drmad_jax.experiments.tasks.base import Inputs, Task, section
from drmad_jax.experiments.tasks.classification import (
    cross_entropy,
    hold_out,
    load,
    scores,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RULES = {
    "learning_rates": transforms.log(),
    "momenta": transforms.sigmoid(),
    "initial_scales": transforms.log(),
}
# What `dj.reversible_sgd` can undo.
_SMALLEST_MOMENTUM = 2**-8


@dataclasses.dataclass(frozen=True)
class TrainingTask(Task):
    """Trains a perceptron by SGD with learned learning rates, momenta and initial scales.

    The hyperparameters are a dictionary from each of `tuned` to a pytree with one array for each
    group of weights: {"dense_0": {"bias": …, "kernel": …}, …}, {"dense_0": …, …}, or a single
    array. "learning_rates" are logarithms and "momenta" logits, shape (blocks,);
    "initial_scales" are logarithms of standard deviations, scalars.

    With rate α and momentum γ of its step, v ← γ v + g and w ← w − α (1 − γ) v: where γ is
    constant these are the published steps, v ← γ v − (1 − γ) g and w ← w + α v, and the rates of a
    group can be compared whatever its momentum.
    """

    config: Config
    task: TrainingConfig
    data: ImagesConfig
    model: MLPConfig

    @classmethod
    def of(cls, config: Config) -> TrainingTask:
        """The task of a configuration with images, a perceptron, and SGD to start from."""
        task = section(config.task, TrainingConfig, "task", config)
        model = section(config.model, MLPConfig, "model", config)
        _check(config, task, model)
        return cls(config, task, section(config.data, ImagesConfig, "data", config), model)

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy inside and outside; the optimizer is made of the hyperparameters."""
        initial_params = self._scaled if "initial_scales" in self.task.tuned else None
        loss = dj.composite_loss(self._predict, cross_entropy)
        return dj.Problem(loss, self._outer_loss, self._optimizer, initial_params)

    def load_data(self) -> ImageSplits:
        """The examples to draw from, and the test examples."""
        return load(self.data)

    def init_hparams(self) -> dict[str, PyTree]:
        """All rates as in `inner.optimizer`, all scales as in `model.init_log_scale`."""
        return {name: self._start()[name] for name in self.task.tuned}

    def sample(self, key: Array, data: ImageSplits) -> Inputs:
        """A new split into training and validation set, new weights, new minibatches."""
        split_key, params_key, batch_key, run_key = jax.random.split(key, 4)
        train, valid = hold_out(split_key, data.train, self.data.num_valid)
        log_scale = self.model.init_log_scale
        params = init_params(self._network, params_key, jnp.asarray(valid.images[:1]), log_scale)
        batches = dj.minibatches(train, self.config.inner.batch_size, batch_key)
        outer_batch = train if self.task.outer_loss == "training" else valid
        return Inputs(params, batches, outer_batch, key=run_key)

    def evaluate(
        self, state: dj.TrainState, hparams: PyTree, data: ImageSplits
    ) -> dict[str, Float[Array, ""]]:
        """Mean cross entropy and share of wrong answers on the test examples."""
        return scores(self._predict(state.params, hparams, data.test), data.test)

    def figures(self, hparams: PyTree, data: ImageSplits) -> dict[str, Figure]:
        """The schedules of each group of weights over training, and the initial scales."""
        from drmad_jax.experiments.figures import training_plots

        del data
        return training_plots.figures(
            hparams, self._start(), num_steps=self.config.inner.num_steps, rules=_RULES
        )

    @property
    def _network(self) -> MLP:
        return perceptron(self.model, self.data)

    def _start(self) -> dict[str, PyTree]:
        """Every hyperparameter that might be tuned, where it starts."""
        rate, momentum = _rates(self.config)
        blocks = self.config.inner.num_steps if self.task.blocks == "steps" else self.task.blocks
        values = {
            "learning_rates": jnp.full((blocks,), rate / (1 - momentum)),
            "momenta": jnp.full((blocks,), momentum),
        }
        start = transforms.unconstrain({name: _RULES[name] for name in values}, values)
        if self.model.init_log_scale != "lecun":
            start["initial_scales"] = jnp.asarray(self.model.init_log_scale)
        return {name: self._groups(value) for name, value in start.items()}

    def _groups(self, value: Array) -> PyTree:
        """A value for each group of weights, as a prefix of the weights' pytree."""
        if self.task.granularity == "global":
            return value
        is_layer = self.task.granularity == "layer"
        each = value if is_layer else {"bias": value, "kernel": value}
        return {f"dense_{i}": each for i in range(len(self._network.features))}

    def _optimizer(self, hparams: PyTree) -> optax.GradientTransformation:
        given = self._start() | hparams

        def schedule(name):
            return _per_step(_RULES[name].constrain, given[name], self.config.inner.num_steps)

        rates, momenta = schedule("learning_rates"), schedule("momenta")

        def learning_rate(step):
            return jax.tree.map(lambda rate, m: rate * (1 - m), rates(step), momenta(step))

        return dj.reversible_sgd(learning_rate, momenta)

    def _scaled(self, params: PyTree, hparams: PyTree) -> PyTree:
        """The initial weights, drawn at the scale that tuning starts from, at another one."""
        start, now = self._start()["initial_scales"], hparams["initial_scales"]
        factors = jax.tree.map(lambda log_scale, old: jnp.exp(log_scale - old), now, start)
        return jax.tree.map(jnp.multiply, params, jax.tree.broadcast(factors, params))

    def _predict(self, params: PyTree, hparams: PyTree, batch: Images) -> Float[Array, "n classes"]:
        del hparams
        return cast(Array, self._network.apply({"params": params}, batch.images))

    def _outer_loss(self, params: PyTree, hparams: PyTree, batch: Images) -> Float[Array, ""]:
        return cross_entropy(self._predict(params, hparams, batch), hparams, batch)


def _per_step(
    constrain: Callable[[Array], Array], values: PyTree, num_steps: int
) -> Callable[[Array], PyTree]:
    """A schedule `step -> tree of scalars` from a tree of arrays over blocks of steps."""
    leaves, structure = jax.tree.flatten(values)
    # Of all groups together: one look-up at each step.
    schedule = dj.per_block(constrain(jnp.stack(leaves, axis=1)), num_steps)
    return lambda step: jax.tree.unflatten(structure, jnp.unstack(schedule(step)))


def _rates(config: Config) -> tuple[float, float]:
    """Learning rate and momentum, in the convention of optax, that the schedules start from."""
    options = config.inner.optimizer.options
    return options["learning_rate"], options["momentum"]


def _check(config: Config, task: TrainingConfig, model: MLPConfig) -> None:
    optimizer = config.inner.optimizer
    if optimizer.name != "sgd" or set(optimizer.options) != {"learning_rate", "momentum"}:
        raise ConfigError(
            "inner.optimizer: task 'training' learns SGD with momentum, and starts from its rates: "
            f'write {{name = "sgd", learning_rate = …, momentum = …}}, got {optimizer}'
        )
    rate, momentum = _rates(config)
    if rate <= 0:
        raise ConfigError(
            f"inner.optimizer.learning_rate: must be positive to have a logarithm, got {rate}"
        )
    if not _SMALLEST_MOMENTUM <= momentum < 1:
        raise ConfigError(
            f"inner.optimizer.momentum: must be between 2^-8 and 1 to have a logit, got {momentum}"
        )
    if not task.tuned:
        raise ConfigError("task.tuned: expected at least one of " + ", ".join(map(repr, _RULES)))
    if "initial_scales" in task.tuned and model.init_log_scale == "lecun":
        raise ConfigError(
            "model.init_log_scale: initial scales are tuned from a number, such as -3.0, "
            "got 'lecun'"
        )
    if task.blocks != "steps" and task.blocks > config.inner.num_steps:
        raise ConfigError(
            f"task.blocks: there are {config.inner.num_steps} steps (inner.num_steps) to share "
            f"out, got {task.blocks}"
        )
