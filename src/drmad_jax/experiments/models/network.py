"""A flax module as the tasks use it, be it with batch normalisation and dropout or without."""

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.config.models import ConvConfig, DenseNetConfig, MLPConfig
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.models.densenet import NUM_BLOCKS, DenseNet
from drmad_jax.experiments.models.feedforward import MLP, ConvNet

# Images that a network with many activations sees at a time when it is judged.
_AT_ONCE = 250

# The sections `[model]` that `classifier` takes.
CLASSIFIERS = (MLPConfig, ConvConfig, DenseNetConfig)

Images = Float[Array | np.ndarray, "n h w c"]


@dataclasses.dataclass(frozen=True)
class Network:
    """A module with its initial weights, and what it does in training and in use.

    Attributes:
        module: A flax module called with images, and with `train` if it has a state.
        log_scale: Natural log of the standard deviation of all its initial weights and biases
            (Maclaurin et al. 2015), or "lecun" for its own initializers, which in flax are fan-in
            scaled kernels and zero biases.
        has_state: Whether it has batch normalisation, and may have dropout.
    """

    module: nn.Module
    log_scale: float | Literal["lecun"] = "lecun"
    has_state: bool = False

    def init(self, key: Array, images: Images) -> tuple[PyTree, PyTree]:
        """Initial weights and state (`None` without one); of the images the shape counts."""
        images = jnp.zeros_like(images[:1])
        if self.has_state:
            variables = self.module.init(key, images, train=False)
            return variables["params"], variables["batch_stats"]
        if self.log_scale == "lecun":
            return self.module.init(key, images)["params"], None
        shapes = jax.eval_shape(self.module.init, key, images)["params"]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        # One draw for all: XLA takes half a second on a CPU to compile each.
        flat, unravel = ravel_pytree(zeros)
        scale = math.exp(self.log_scale)
        return unravel(scale * jax.random.normal(key, flat.shape, flat.dtype)), None

    def kernels(self, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of the layers' kernels by the layer's name, the first layer first."""
        found = {}

        def note(key: Array) -> None:
            params, _ = self.init(key, jnp.zeros((1, *image_shape)))
            found.update({name: kernel.shape for name, kernel in kernels_of(params).items()})

        # What comes out of a JAX transformation would be sorted by name.
        jax.eval_shape(note, jax.random.key(0))
        return found

    def train(
        self,
        params: PyTree,
        images: Images,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> PyTree:
        """The outputs in training, and behind them the new state where there is one."""
        if not self.has_state:
            return self.module.apply({"params": params}, images)
        outputs, updated = self.module.apply(
            {"params": params, "batch_stats": model_state},
            images,
            train=True,
            rngs=None if key is None else {"dropout": key},
            mutable=["batch_stats"],
        )
        return outputs, updated["batch_stats"]  # pyright: ignore

    def __call__(
        self, params: PyTree, images: Images, *, model_state: PyTree = None
    ) -> Float[Array, "n *outputs"]:
        """The outputs in use: statistics as they are, nothing dropped.

        A network with a state sees a part of the images at a time, its derivative likewise.
        """
        if not self.has_state:
            return self.module.apply({"params": params}, images)  # pyright: ignore
        variables = {"params": params, "batch_stats": model_state}

        @jax.checkpoint
        def of_one(image: Float[Array, "h w c"]) -> Float[Array, "*outputs"]:
            return self.module.apply(variables, image[None], train=False)[0]  # pyright: ignore

        return jax.lax.map(of_one, jnp.asarray(images), batch_size=_AT_ONCE)


def kernels_of(params: PyTree) -> dict[str, Array]:
    """The kernels by their layer's name, of those layers that have one."""
    return {name: layer["kernel"] for name, layer in params.items() if "kernel" in layer}


def classifier(model: MLPConfig | ConvConfig | DenseNetConfig, data: ImagesConfig) -> Network:
    """The network of section `[model]`, with an output for each class.

    Args:
        model: The section.
        data: The section that names the data set.

    Returns:
        A network.

    Raises:
        ConfigError: If a DenseNet has no such depth.
    """
    num_classes = data.spec.num_classes
    if isinstance(model, MLPConfig):
        module = MLP((*model.hidden, num_classes), model.activation)
        return Network(module, model.init_log_scale)
    if isinstance(model, ConvConfig):
        return Network(ConvNet(model.channels, model.kernel_size, num_classes, model.activation))
    # Beside the blocks there are the stem, two transitions and the head.
    layers, rest = divmod(model.depth - NUM_BLOCKS - 1, NUM_BLOCKS)
    if rest or layers < 1:
        raise ConfigError(f"model.depth: expected 3n + 4, such as 10 or 40, got {model.depth}")
    return Network(DenseNet(model, layers, num_classes), has_state=True)
