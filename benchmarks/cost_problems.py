"""The models on which cost is measured, on random data of a fixed shape: nothing to download.

An MLP, a convolutional network with batch normalisation and dropout, and a small transformer; each
with one log L2 penalty for every input unit.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj
from benchmarks import mnist_mlp
from benchmarks.study_problems import ConvNet, cross_entropy

VOCABULARY, LENGTH = 64, 32


@dataclasses.dataclass(frozen=True)
class Subject:
    """A bilevel problem and the arrays to run it on.

    Attributes:
        problem: `optimizer -> Problem`.
        given: Arguments of a training run but the batches: `hparams`, `params`, and where the
            model has them `model_state` and `key`.
        data: Training examples, from which batches are drawn.
        outer_batch: What the outer loss takes.
    """

    problem: Callable[[optax.GradientTransformation], dj.Problem]
    given: dict[str, PyTree]
    data: PyTree
    outer_batch: PyTree

    @property
    def num_params(self) -> int:
        """Number of weights."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.given["params"]))

    @property
    def num_hparams(self) -> int:
        """Number of hyperparameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.given["hparams"]))


def mlp() -> Subject:
    """784-50-50-50-10 on data of MNIST's shape."""
    hparams, params, data, outer_batch = mnist_mlp.arguments()
    given = {"hparams": hparams, "params": params}
    return Subject(mnist_mlp.problem, given, data, outer_batch)


def conv() -> Subject:
    """Two convolutions with batch normalisation, dropout, on data of Fashion-MNIST's shape."""
    model, keys = ConvNet(), jax.random.split(jax.random.key(0), 4)
    data, outer_batch = _images(keys[0], 5000), _images(keys[1], 1000)
    variables = model.init(keys[2], data["x"][:1], train=False)

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

    given = {
        "hparams": penalties(variables["params"]),
        "params": variables["params"],
        "model_state": variables["batch_stats"],
        "key": keys[3],
    }
    loss = dj.composite_loss(predict, cross_entropy, penalty)
    problem = lambda optimizer: dj.Problem(loss, outer, optimizer)
    return Subject(problem, given, data, outer_batch)


def transformer() -> Subject:
    """One block of width 64 with four heads, next-token prediction on 32 random tokens."""
    model, keys = Transformer(), jax.random.split(jax.random.key(0), 3)
    data, outer_batch = _tokens(keys[0], 2000), _tokens(keys[1], 200)
    params = model.init(keys[2], data["x"][:1])["params"]
    predict = lambda params, hparams, batch: model.apply({"params": params}, batch["x"])
    outer = lambda params, h, batch: cross_entropy(predict(params, h, batch), h, batch)
    loss = dj.composite_loss(predict, cross_entropy, penalty)
    given = {"hparams": penalties(params), "params": params}
    problem = lambda optimizer: dj.Problem(loss, outer, optimizer)
    return Subject(problem, given, data, outer_batch)


SUBJECTS: dict[str, Callable[[], Subject]] = {"mlp": mlp, "conv": conv, "transformer": transformer}


class Transformer(nn.Module):
    """Pre-norm blocks with causal attention, and a linear layer on top."""

    width: int = 64
    blocks: int = 1

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Logits of the next token at every place."""
        places = self.param("places", nn.initializers.normal(0.02), (LENGTH, self.width))
        x = nn.Embed(VOCABULARY, self.width)(tokens) + places
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.blocks):
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask)
            hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(hidden)
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


def penalties(params: PyTree, log_l2: float = -6.0) -> PyTree:
    """One log L2 penalty for each input unit of each matrix, one for each vector."""
    return jax.tree.map(lambda w: jnp.full(w.shape[-2:-1], log_l2), params)


def penalty(params: PyTree, log_l2: PyTree) -> Array:
    """Σ exp(log_l2) w²."""
    term = lambda w, h: jnp.sum(jnp.exp(h)[..., None] * w**2)
    return sum(jax.tree.leaves(jax.tree.map(term, params, log_l2)), jnp.float32(0))


def _images(key: Array, count: int) -> dict[str, Any]:
    first, second = jax.random.split(key)
    x = jax.random.uniform(first, (count, 28, 28, 1))
    return {"x": x, "y": jax.random.randint(second, (count,), 0, 10)}


def _tokens(key: Array, count: int) -> dict[str, Any]:
    tokens = jax.random.randint(key, (count, LENGTH + 1), 0, VOCABULARY)
    return {"x": tokens[:, :-1], "y": tokens[:, 1:]}
