"""Models in flax, named so that a hyperparameter tree can speak of their layers."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from drmad_jax.experiments.models.convolution import conv

_ACTIVATIONS = {"tanh": jnp.tanh, "relu": nn.relu, "gelu": nn.gelu, "silu": nn.silu}


class MLP(nn.Module):
    """A multi-layer perceptron with layers `dense_0`, `dense_1`, …, each a kernel and a bias.

    Attributes:
        features: Units of every layer, the number of classes last.
        activation: "tanh", "relu", "gelu" or "silu", between layers.
    """

    features: Sequence[int]
    activation: str = "tanh"

    @nn.compact
    def __call__(self, images: Float[Array, "n *shape"]) -> Float[Array, "n classes"]:
        """The logits of a batch of images of any shape."""
        outputs = images.reshape(images.shape[0], -1)
        for index, width in enumerate(self.features):
            if index > 0:
                outputs = _ACTIVATIONS[self.activation](outputs)
            outputs = nn.Dense(width, name=f"dense_{index}")(outputs)
        return outputs


class ConvNet(nn.Module):
    """Strided convolutions `conv_0`, `conv_1`, …, and a linear layer `dense`.

    Attributes:
        channels: Output channels of every convolution.
        kernel_size: Side of the kernels.
        num_classes: Number of classes.
        activation: "tanh", "relu", "gelu" or "silu", after each convolution.
    """

    channels: Sequence[int]
    kernel_size: int
    num_classes: int
    activation: str = "silu"

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """The logits of a batch of images; each convolution halves their sides."""
        outputs = images
        for index, width in enumerate(self.channels):
            layer = conv(width, self.kernel_size, stride=2, name=f"conv_{index}")
            outputs = _ACTIVATIONS[self.activation](layer(outputs))
        return nn.Dense(self.num_classes, name="dense")(outputs.reshape(len(outputs), -1))
