"""A decoder-only transformer of any size, as it is trained where memory is short.

One block in a scan over layers, recomputed on the way back; one log decay for each kind of leaf and
the log learning rate of Adam as hyperparameters. Shapes alone: nothing of it need fit anywhere.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj
from benchmarks.problems.mlp import cross_entropy

LENGTH, BATCH_SIZE, HEAD = 256, 4, 64


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Pre-norm blocks with causal attention; the embedding serves at the output, too."""

    width: int
    layers: int
    vocabulary: int

    def params(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the weights."""
        d, layers = self.width, self.layers
        shapes = {
            "embedding": (self.vocabulary, d),
            "places": (LENGTH, d),
            "attention": (layers, d, 3, d),
            "projection": (layers, d, d),
            "up": (layers, d, 4 * d),
            "down": (layers, 4 * d, d),
            "scales": (layers, 2, d),
        }
        return {name: jax.ShapeDtypeStruct(x, jnp.float32) for name, x in shapes.items()}

    def hparams(self) -> dict[str, PyTree]:
        """Shapes of the hyperparameters."""
        one = jax.ShapeDtypeStruct((), jnp.float32)
        return {"log_lr": one, "log_decay": dict.fromkeys(self.params(), one)}

    def batch(self, *leading: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of batches of tokens, and of those that come next."""
        tokens = jax.ShapeDtypeStruct((*leading, BATCH_SIZE, LENGTH), jnp.int32)
        return {"x": tokens, "y": tokens}

    def problem(self) -> dj.Problem:
        """The bilevel problem."""

        def predict(params, hparams, batch):
            return _logits(params, batch["x"])

        def penalty(params, hparams):
            terms = jax.tree.map(lambda h, p: jnp.exp(h) * jnp.sum(p**2), hparams, params)
            return jax.tree.reduce(jnp.add, terms)

        loss = dj.composite_loss(
            predict, cross_entropy, lambda params, h: penalty(params, h["log_decay"])
        )
        outer = lambda params, h, batch: cross_entropy(predict(params, h, batch), h, batch)
        optimizer = lambda h: optax.adam(jnp.exp(h["log_lr"]), eps_root=1e-8)
        return dj.Problem(loss, outer, optimizer)


def _logits(params: dict[str, Array], tokens: Array) -> Array:
    """Of the next token at every place."""
    norm = lambda x: x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)

    def attend(x, block):
        shape = (*x.shape[:2], -1, HEAD)
        q, k, v = (
            y.reshape(shape) for y in jnp.moveaxis(jnp.tensordot(x, block["attention"], 1), 2, 0)
        )
        scores = jnp.einsum("bqhc,bkhc->bhqk", q, k) / HEAD**0.5
        scores = jnp.where(jnp.tri(x.shape[1], dtype=bool), scores, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores), v)
        return mixed.reshape(x.shape) @ block["projection"]

    @jax.checkpoint
    def apply(x, block):
        x = x + attend(norm(x) * block["scales"][0], block)
        hidden = jax.nn.gelu(norm(x) * block["scales"][1] @ block["up"])
        return x + hidden @ block["down"], None

    embedding, places = params["embedding"], params["places"]
    blocks = {name: x for name, x in params.items() if name not in ("embedding", "places")}
    x, _ = jax.lax.scan(apply, embedding[tokens] + places, blocks)
    return norm(x) @ embedding.T
