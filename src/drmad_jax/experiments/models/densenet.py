"""DenseNet (Huang et al. 2017): layers that see the outputs of all layers before them."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from drmad_jax.experiments.config.models import DenseNetConfig
from drmad_jax.experiments.models.convolution import conv

NUM_BLOCKS = 3


class DenseNet(nn.Module):
    """DenseNet without bottlenecks, its batch normalisations and dropout included.

    A convolution `stem`; three blocks of layers `block_i_conv_j`, each of them batch normalisation,
    ReLU, convolution and dropout, whose outputs are put beside their inputs; between the blocks
    `transition_i`, a convolution of size 1 and an average over 2 x 2 pixels; and the linear `head`
    behind the average over all pixels. With 12 layers in each block and growth 12 this is the
    40-layer network of the paper.

    Attributes:
        config: Its growth, dropout, and the stem's channels and stride.
        layers_per_block: Layers in each block, which follow from the depth.
        num_classes: Number of classes.
    """

    config: DenseNetConfig
    layers_per_block: int
    num_classes: int

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n k"]:
        """The logits of a batch of images; training needs a key for "dropout"."""

        def activate(inputs: Array, name: str) -> Array:
            return nn.relu(nn.BatchNorm(not train, momentum=0.9, name=name)(inputs))

        he = {"use_bias": False, "kernel_init": nn.initializers.he_normal()}
        drop = self._dropout(images.shape) if train and self.config.dropout > 0 else lambda x: x
        stem = conv(self.config.stem_channels, 3, stride=self.config.stem_stride, name="stem", **he)
        features = stem(images)
        for block in range(NUM_BLOCKS):
            if block > 0:
                name = f"transition_{block - 1}"
                features = activate(features, f"{name}_norm")
                features = drop(conv(features.shape[-1], 1, name=name, **he)(features))
                # The last row or column of an odd number is left out.
                features = nn.avg_pool(features, (2, 2), (2, 2))
            for layer in range(self.layers_per_block):
                new = activate(features, f"block_{block}_norm_{layer}")
                name = f"block_{block}_conv_{layer}"
                new = drop(conv(self.config.growth, 3, name=name, **he)(new))
                features = jnp.concatenate([features, new], axis=-1)
        features = jnp.mean(activate(features, "head_norm"), axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(features)

    def _dropout(self, images: tuple[int, ...]) -> Callable[[Array], Array]:
        """Drops some of one layer's outputs after the other, in the order of the layers."""
        count, *sides = images
        height, width = (-(-side // self.config.stem_stride) for side in sides[:2])
        channels, sizes = self.config.stem_channels, []
        for block in range(NUM_BLOCKS):
            if block > 0:
                sizes.append(height * width * channels)
                height, width = height // 2, width // 2
            sizes += [height * width * self.config.growth] * self.layers_per_block
            channels += self.config.growth * self.layers_per_block
        # One draw for all: XLA takes half a second on a CPU to compile each.
        share = 1 - self.config.dropout
        kept = jax.random.bernoulli(self.make_rng("dropout"), share, (count, sum(sizes)))
        parts = iter(jnp.split(kept, np.cumsum(sizes)[:-1], axis=1))

        def drop(outputs: Array) -> Array:
            return jnp.where(next(parts).reshape(outputs.shape), outputs / share, 0)

        return drop
