"""The models on which cost is measured, on random data of a fixed shape: nothing to download.

An MLP, a convolutional network with batch normalisation and dropout, and a small transformer; each
with one log L2 penalty for every input unit.
"""

import dataclasses
from collections.abc import Callable

import jax
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj
from benchmarks.problems import mlp as paper
from benchmarks.problems import networks
from benchmarks.problems.mlp import cross_entropy, images, penalties, penalty


@dataclasses.dataclass(frozen=True)
class Subject:
    """A bilevel problem and the arrays to run it on."""

    problem: Callable[[optax.GradientTransformation], dj.Problem]
    # Arguments of a run: `hparams`, `params`, and where the model has them `model_state` and `key`.
    given: dict[str, PyTree]
    data: PyTree  # training examples, from which batches are drawn
    outer_batch: PyTree

    def count(self, what: str) -> int:
        """Numbers in all arrays of `given[what]`."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.given[what]))


def mlp() -> Subject:
    """784-50-50-50-10 on data of MNIST's shape."""
    hparams, params, data, outer_batch = paper.arguments()
    return Subject(paper.problem, {"hparams": hparams, "params": params}, data, outer_batch)


def conv() -> Subject:
    """Two convolutions with batch normalisation, dropout, on data of Fashion-MNIST's shape."""
    model, keys = networks.ConvNet(), jax.random.split(jax.random.key(0), 4)
    shape = 28, 28, 1
    data, outer_batch = images(keys[0], 5000, shape), images(keys[1], 1000, shape)
    variables = model.init(keys[2], data["x"][:1], train=False)
    state = {"model_state": variables["batch_stats"], "key": keys[3]}
    return _subject(networks.with_batch_norm(model), variables["params"], data, outer_batch, state)


def transformer() -> Subject:
    """One block of width 64 with four heads, next-token prediction on 32 random tokens."""
    model, keys = networks.Transformer(), jax.random.split(jax.random.key(0), 3)
    data, outer_batch = _tokens(keys[0], 2000), _tokens(keys[1], 200)
    params = model.init(keys[2], data["x"][:1])["params"]
    return _subject(networks.stateless(model), params, data, outer_batch, {})


SUBJECTS: dict[str, Callable[[], Subject]] = {"mlp": mlp, "conv": conv, "transformer": transformer}


def _subject(losses, params, data, outer_batch, state) -> Subject:
    predict, outer = losses
    loss = dj.composite_loss(predict, cross_entropy, penalty)
    given = {"hparams": penalties(params, -6.0), "params": params, **state}
    return Subject(lambda optimizer: dj.Problem(loss, outer, optimizer), given, data, outer_batch)


def _tokens(key: Array, count: int) -> dict[str, Array]:
    tokens = jax.random.randint(key, (count, networks.LENGTH + 1), 0, networks.VOCABULARY)
    return {"x": tokens[:, :-1], "y": tokens[:, 1:]}
