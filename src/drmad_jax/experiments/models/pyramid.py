"""A convolutional network of several scales that labels pixels."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from drmad_jax.experiments.config.models import PyramidConfig
from drmad_jax.experiments.models.convolution import conv


class PyramidNet(nn.Module):
    """A network that sees each pixel at several scales.

    A stem at full resolution; convolutions with steps of 1, 2, 4, … side by side at half of it;
    both together give the logits. Each convolution but the last is followed by batch normalisation
    and SiLU.

    Attributes:
        config: Its width and dilations.
        num_classes: Number of classes.
    """

    config: PyramidConfig
    num_classes: int

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n h w k"]:
        """The logits of every pixel; sides must be even."""

        def layer(inputs: Array, name: str, **options: int) -> Array:
            convolve = conv(self.config.width, 3, name=name, use_bias=False, **options)
            normalise = nn.BatchNorm(not train, momentum=0.9, name=f"{name}_norm")
            return nn.silu(normalise(convolve(inputs)))

        stem = layer(images, "stem")
        half = layer(stem, "down", stride=2)
        scales = [layer(half, f"scale_{d}", kernel_dilation=d) for d in self.config.dilations]
        deep = jnp.concatenate([half, *scales], axis=-1).repeat(2, axis=1).repeat(2, axis=2)
        features = jnp.concatenate([stem, deep], axis=-1)
        return nn.Dense(self.num_classes, name="head")(features)
