"""The networks that need flax, and how a bilevel problem calls them."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.problems.mlp import cross_entropy

VOCABULARY, LENGTH = 64, 32


class MLP(nn.Module):
    """784-50-50-50-10, tanh (Fu et al. 2016)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits."""
        x = x.reshape(len(x), -1)
        for _ in range(3):
            x = jnp.tanh(nn.Dense(50)(x))
        return nn.Dense(10)(x)


class ConvNet(nn.Module):
    """Two strided convolutions with batch normalisation, dropout and a linear layer."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Logits."""
        for width, size, stride in ((8, 5, 4), (16, 3, 2)):
            x = nn.Conv(width, (size, size), strides=(stride, stride), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(10)(x)


class Transformer(nn.Module):
    """A pre-norm block with causal attention, and a linear layer on top."""

    width: int = 64

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Logits of the next token at every place."""
        places = self.param("places", nn.initializers.normal(0.02), (LENGTH, self.width))
        x = nn.Embed(VOCABULARY, self.width)(tokens) + places
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask)
        hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        x = x + nn.Dense(self.width)(hidden)
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


def stateless(model: nn.Module) -> tuple[Callable, Callable]:
    """`predict` for a composite loss, and the outer loss."""
    predict = lambda params, hparams, batch: model.apply({"params": params}, batch["x"])
    return predict, lambda params, h, batch: cross_entropy(predict(params, h, batch), h, batch)


def with_batch_norm(model: ConvNet) -> tuple[Callable, Callable]:
    """The same for a model with running statistics and dropout."""

    def predict(params, hparams, batch, *, model_state, key):
        logits, new = model.apply(
            {"params": params, "batch_stats": model_state},
            batch["x"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return logits, new["batch_stats"]

    def outer(params, hparams, batch, *, model_state):
        variables = {"params": params, "batch_stats": model_state}
        return cross_entropy(model.apply(variables, batch["x"], train=False), hparams, batch)

    return predict, outer
