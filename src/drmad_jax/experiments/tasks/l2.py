"""Learning L2 penalties, up to one for each input unit or weight (Fu et al. 2016, section 4)."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.datasets import DATASETS, Images, ImageSplits
from drmad_jax.experiments.models import MLP, init_params
from drmad_jax.experiments.sections import ImagesConfig, L2Config, MLPConfig
from drmad_jax.experiments.tasks.base import Inputs, Task, section
from drmad_jax.experiments.tasks.classification import (
    cross_entropy,
    hold_out,
    load,
    perceptron,
    scores,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In rescaled coordinates ‖z‖² is weighed by exp(-4), whatever the hyperparameters.
_RESCALED_LOG_L2 = -4.0


@dataclasses.dataclass(frozen=True)
class L2Task(Task):
    """Trains a perceptron with learned L2 penalties, judged by its validation loss.

    The hyperparameters are a dictionary from layer (or "all") to an array: shape (inputs,) for
    granularity "unit", (inputs, outputs) for "parameter", a scalar for "layer" and "global". Its
    entries are log L2 penalties, or t with log_l2 = -4 - 2t in rescaled coordinates.
    """

    config: Config
    task: L2Config
    data: ImagesConfig
    model: MLPConfig

    @classmethod
    def of(cls, config: Config) -> L2Task:
        """The task of a configuration with images and a perceptron."""
        return cls(
            config,
            section(config.task, L2Config, "task", config),
            section(config.data, ImagesConfig, "data", config),
            section(config.model, MLPConfig, "model", config),
        )

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy plus penalty inside, cross entropy on held-out examples outside."""
        loss = dj.composite_loss(self._predict, cross_entropy, self._penalty)
        return dj.Problem(loss, self._outer_loss, self.config.inner.optimizer.build())

    def load_data(self) -> ImageSplits:
        """The examples to draw from, and the test examples."""
        return load(self.data)

    def init_hparams(self) -> dict[str, Array]:
        """Every penalty at `initial_log_l2`."""
        log_l2 = self.task.initial_log_l2
        start = (_RESCALED_LOG_L2 - log_l2) / 2 if self._is_rescaled else log_l2
        return {name: jnp.full(shape, start, jnp.float32) for name, shape in self._shapes().items()}

    def sample(self, key: Array, data: ImageSplits) -> Inputs:
        """A new split into training and validation set, new weights, new minibatches."""
        split_key, params_key, batch_key, run_key = jax.random.split(key, 4)
        train, valid = hold_out(split_key, data.train, self.data.num_valid)
        log_scale = self.model.init_log_scale
        params = init_params(self._network, params_key, jnp.asarray(valid.images[:1]), log_scale)
        batches = dj.minibatches(train, self.config.inner.batch_size, batch_key)
        return Inputs(params, batches, valid, key=run_key)

    def evaluate(
        self, state: dj.TrainState, hparams: PyTree, data: ImageSplits
    ) -> dict[str, Float[Array, ""]]:
        """Mean cross entropy and share of wrong answers on the test examples."""
        logits = self._predict(state.params, hparams, data.test)
        return scores(logits, data.test)

    def figures(self, hparams: PyTree, data: ImageSplits) -> dict[str, Figure]:
        """Penalties of the input layer as an image, and of every layer as histograms."""
        from drmad_jax.experiments import plots

        del data
        log_l2 = {name: self._log_l2(value) for name, value in hparams.items()}
        start = self.task.initial_log_l2
        label = "log L2 penalty"
        figures = {"penalties_by_layer": plots.distributions(log_l2, start, label=label)}
        granularity = self.task.granularity
        if granularity in ("unit", "parameter"):
            inputs = log_l2["dense_0"]
            per_pixel = inputs if granularity == "unit" else inputs.mean(axis=1)
            image = per_pixel.reshape(DATASETS[self.data.dataset].image_shape)
            figures["input_penalties"] = plots.image(image.mean(axis=-1), label=label)
        return figures

    @property
    def _network(self) -> MLP:
        return perceptron(self.model, self.data)

    @property
    def _is_rescaled(self) -> bool:
        return self.task.coordinates == "rescaled"

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every hyperparameter array."""
        granularity = self.task.granularity
        if granularity == "global":
            return {"all": ()}
        inputs = math.prod(DATASETS[self.data.dataset].image_shape)
        widths = (inputs, *self._network.features)
        kernels = {
            f"dense_{i}": pair for i, pair in enumerate(zip(widths, widths[1:], strict=False))
        }
        keep = {"layer": 0, "unit": 1, "parameter": 2}[granularity]
        return {name: shape[:keep] for name, shape in kernels.items()}

    def _per_kernel(self, hparams: PyTree, layer: str) -> Array:
        """A layer's hyperparameters, in a shape that broadcasts over its kernel."""
        value = hparams["all" if self.task.granularity == "global" else layer]
        return value[:, None] if self.task.granularity == "unit" else value

    def _log_l2(self, value):
        return _RESCALED_LOG_L2 - 2 * value if self._is_rescaled else value

    def _predict(self, params: PyTree, hparams: PyTree, batch: Images) -> Float[Array, "n classes"]:
        if self._is_rescaled:
            params = {
                name: layer | {"kernel": layer["kernel"] * jnp.exp(self._per_kernel(hparams, name))}
                for name, layer in params.items()
            }
        return cast(Array, self._network.apply({"params": params}, batch.images))

    def _penalty(self, params: PyTree, hparams: PyTree) -> Float[Array, ""]:
        def of_layer(name):
            squares = jnp.square(params[name]["kernel"])
            if self._is_rescaled:
                return math.exp(_RESCALED_LOG_L2) * jnp.sum(squares)
            return jnp.sum(jnp.exp(self._per_kernel(hparams, name)) * squares)

        return sum((of_layer(name) for name in params), jnp.zeros(()))

    def _outer_loss(self, params: PyTree, hparams: PyTree, batch: Images) -> Float[Array, ""]:
        return cross_entropy(self._predict(params, hparams, batch), hparams, batch)
