"""Learning L2 penalties, up to one for each input unit or weight (Fu et al. 2016, section 4)."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.sections import ImagesConfig, L2Config
from drmad_jax.experiments.data.datasets import DATASETS, Images, ImageSplits
from drmad_jax.experiments.models.network import CLASSIFIERS, Network, classifier, kernels_of
from drmad_jax.experiments.tasks.base import Inputs, Task, section
from drmad_jax.experiments.tasks.classification import cross_entropy, fresh_inputs, load, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In rescaled coordinates ‖z‖² is weighed by exp(-4), whatever the hyperparameters.
_RESCALED_LOG_L2 = -4.0


@dataclasses.dataclass(frozen=True)
class L2Task(Task):
    """Trains a classifier with learned L2 penalties, judged by its validation loss.

    The hyperparameters are a dictionary from layer (or "all") to an array: shape (inputs,) for
    granularity "unit", (channels,) where the layer is a convolution, the kernel's own for
    "parameter", a scalar for "layer" and "global". Its entries are log L2 penalties, or t with
    log_l2 = -4 - 2t in rescaled coordinates.
    """

    config: Config
    task: L2Config
    data: ImagesConfig
    network: Network

    @classmethod
    def of(cls, config: Config) -> L2Task:
        """The task of a configuration with labelled images and a network for them."""
        data = section(config.data, ImagesConfig, "data", config)
        model = section(config.model, CLASSIFIERS, "model", config)
        task = section(config.task, L2Config, "task", config)
        return cls(config, task, data, classifier(model, data))

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy plus penalty inside, cross entropy on held-out examples outside."""
        loss = dj.composite_loss(self._train_outputs, cross_entropy, self._penalty)
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
        return fresh_inputs(key, data.train, self.network, self.config)

    def evaluate(
        self, state: dj.TrainState, hparams: PyTree, data: ImageSplits
    ) -> dict[str, Float[Array, ""]]:
        """Mean cross entropy and share of wrong answers on the test examples."""
        return scores(self._outputs(state.params, hparams, data.test, state.model_state), data.test)

    def figures(self, hparams: PyTree, data: ImageSplits) -> dict[str, Figure]:
        """Penalties of the input pixels as an image, and of every layer as histograms."""
        from drmad_jax.experiments.figures import plots

        del data
        log_l2 = {name: self._log_l2(hparams[name]) for name in self._shapes()}
        start = self.task.initial_log_l2
        label = "log L2 penalty"
        figures = {"penalties_by_layer": plots.distributions(log_l2, start, label=label)}
        granularity = self.task.granularity
        if granularity in ("unit", "parameter") and "dense_0" in log_l2:
            inputs = log_l2["dense_0"]
            per_pixel = inputs if granularity == "unit" else inputs.mean(axis=1)
            image = per_pixel.reshape(DATASETS[self.data.dataset].image_shape)
            figures["input_penalties"] = plots.image(image.mean(axis=-1), label=label)
        return figures

    @property
    def _is_rescaled(self) -> bool:
        return self.task.coordinates == "rescaled"

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every hyperparameter array."""
        kernels = self.network.kernels(DATASETS[self.data.dataset].image_shape)
        of_kernel = {
            "layer": lambda shape: (),
            "unit": lambda shape: shape[-2:-1],
            "parameter": lambda shape: shape,
        }
        if self.task.granularity == "global":
            return {"all": ()}
        return {name: of_kernel[self.task.granularity](shape) for name, shape in kernels.items()}

    def _per_kernel(self, hparams: PyTree, layer: str) -> Array:
        """A layer's hyperparameters, in a shape that broadcasts over its kernel."""
        value = hparams["all" if self.task.granularity == "global" else layer]
        return value[:, None] if self.task.granularity == "unit" else value

    def _log_l2(self, value):
        return _RESCALED_LOG_L2 - 2 * value if self._is_rescaled else value

    def _weights(self, params: PyTree, hparams: PyTree) -> PyTree:
        """The network's own weights."""
        if not self._is_rescaled:
            return params
        scaled = {
            name: params[name] | {"kernel": kernel * jnp.exp(self._per_kernel(hparams, name))}
            for name, kernel in kernels_of(params).items()
        }
        return params | scaled

    def _train_outputs(
        self,
        params: PyTree,
        hparams: PyTree,
        batch: Images,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> PyTree:
        weights = self._weights(params, hparams)
        return self.network.train(weights, batch.images, model_state=model_state, key=key)

    def _outputs(
        self, params: PyTree, hparams: PyTree, batch: Images, model_state: PyTree
    ) -> Float[Array, "n classes"]:
        weights = self._weights(params, hparams)
        return self.network(weights, batch.images, model_state=model_state)

    def _penalty(self, params: PyTree, hparams: PyTree) -> Float[Array, ""]:
        def of_layer(name, kernel):
            squares = jnp.square(kernel)
            if self._is_rescaled:
                return math.exp(_RESCALED_LOG_L2) * jnp.sum(squares)
            return jnp.sum(jnp.exp(self._per_kernel(hparams, name)) * squares)

        return sum((of_layer(*item) for item in kernels_of(params).items()), jnp.zeros(()))

    def _outer_loss(
        self, params: PyTree, hparams: PyTree, batch: Images, *, model_state: PyTree = None
    ) -> Float[Array, ""]:
        return cross_entropy(self._outputs(params, hparams, batch, model_state), hparams, batch)
