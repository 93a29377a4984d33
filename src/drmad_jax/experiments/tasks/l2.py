"""Learning L2 penalties, up to one for each input unit or weight (Fu et al. 2016, section 4)."""

import math
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure

import drmad_jax as dj
from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.config.section import Log
from drmad_jax.experiments.config.task import TaskConfig
from drmad_jax.experiments.data.datasets import Images, Splits
from drmad_jax.experiments.figures import images, values
from drmad_jax.experiments.models.network import CLASSIFIERS, kernels_of
from drmad_jax.experiments.tasks.base import Scalar, task
from drmad_jax.experiments.tasks.classification import ClassifierTask, Logits, cross_entropy

# In rescaled coordinates ‖z‖² is weighed by exp(-4), whatever the hyperparameters.
_RESCALED_LOG_L2 = -4.0


class L2Config(TaskConfig):
    """Section `[task]`: learn L2 penalties of the weights (biases have none).

    Attributes:
        granularity: What shares one penalty: the weights out of one input "unit", those of one
            "layer", each "parameter" alone, or all weights ("global").
        coordinates: "penalty" adds Σ exp(log_l2)·w² to the loss. "rescaled" is the published
            form: the network uses w = z·exp(t), training moves z, the penalty is exp(-4)·‖z‖²,
            and t is the hyperparameter, so that log_l2 = -4 - 2t.
        initial_log_l2: Natural log of the initial penalties; published: -4.4 (t = .2).
    """

    kind: Literal["l2"] = "l2"
    granularity: Literal["unit", "layer", "parameter", "global"] = "unit"
    coordinates: Literal["penalty", "rescaled"] = "penalty"
    initial_log_l2: Log = -4.4


@task(L2Config, data=ImagesConfig, model=CLASSIFIERS)
class L2Task(ClassifierTask[L2Config, Any]):
    """Trains a classifier with learned L2 penalties, judged by its validation loss.

    The hyperparameters are a dictionary from layer (or "all") to an array: shape (inputs,) for
    granularity "unit", (channels,) where the layer is a convolution, the kernel's own for
    "parameter", a scalar for "layer" and "global". Its entries are log L2 penalties, or t with
    log_l2 = -4 - 2t in rescaled coordinates.
    """

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy plus penalty inside, cross entropy on held-out examples outside."""
        loss = dj.composite_loss(self._train_outputs, cross_entropy, self._penalty)
        return dj.Problem(loss, self.outer_loss, self.config.inner.optimizer.build())

    def init_hparams(self) -> dict[str, Array]:
        """Every penalty at `initial_log_l2`."""
        log_l2 = self.task.initial_log_l2
        start = (_RESCALED_LOG_L2 - log_l2) / 2 if self._is_rescaled else log_l2
        return {name: jnp.full(shape, start, jnp.float32) for name, shape in self._shapes().items()}

    def outputs(
        self, params: PyTree, hparams: PyTree, batch: Images, *, model_state: PyTree = None
    ) -> Logits:
        """The logits of a batch, of the network with its own weights."""
        weights = self._weights(params, hparams)
        return self.network(weights, batch.images, model_state=model_state)

    def figures(self, hparams: PyTree, data: Splits) -> dict[str, Figure]:
        """Penalties of the input pixels as an image, and of every layer as histograms."""
        del data
        log_l2 = {name: self._log_l2(hparams[name]) for name in self._shapes()}
        start = self.task.initial_log_l2
        label = "log L2 penalty"
        figures = {"penalties_by_layer": values.distributions(log_l2, start, label=label)}
        granularity = self.task.granularity
        if granularity in ("unit", "parameter") and "dense_0" in log_l2:
            inputs = log_l2["dense_0"]
            per_pixel = inputs if granularity == "unit" else inputs.mean(axis=1)
            image = per_pixel.reshape(self.dataset.image_shape)
            figures["input_penalties"] = images.image(image.mean(axis=-1), label=label)
        return figures

    @property
    def _is_rescaled(self) -> bool:
        return self.task.coordinates == "rescaled"

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every hyperparameter array."""
        kernels = self.network.kernels(self.dataset.image_shape)
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

    def _penalty(self, params: PyTree, hparams: PyTree) -> Scalar:
        def of_layer(name, kernel):
            squares = jnp.square(kernel)
            if self._is_rescaled:
                return math.exp(_RESCALED_LOG_L2) * jnp.sum(squares)
            return jnp.sum(jnp.exp(self._per_kernel(hparams, name)) * squares)

        return sum((of_layer(*item) for item in kernels_of(params).items()), jnp.zeros(()))
