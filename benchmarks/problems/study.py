"""The problems of the study: real data, one fixed split, a new network and new batches per seed."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj
from benchmarks.problems.mlp import cross_entropy, penalties, penalty
from benchmarks.problems.networks import MLP, ConvNet, stateless, with_batch_norm
from drmad_jax.experiments.data.datasets import load_splits

NUM_TRAIN, NUM_VALID, NUM_TEST = 1000, 5000, 5000
BATCH_SIZE = 50


class StudyProblem(NamedTuple):
    """A bilevel problem with everything that a run of it needs."""

    problem: dj.Problem
    hparams: PyTree  # where the comparison is made, and tuning starts
    num_steps: int
    sample: Callable[[Array], dict[str, Any]]  # by key: what a hypergradient takes after `hparams`
    test: dict[str, Array]  # examples that nothing else sees


@functools.cache
def split(dataset: str) -> dict[str, dict[str, Array]]:
    """1,000 training, 5,000 validation and 5,000 test examples, always the same."""
    splits = load_splits(dataset, num_train=NUM_TRAIN + NUM_VALID, num_test=NUM_TEST)
    order = jax.random.permutation(jax.random.key(99), NUM_TRAIN + NUM_VALID)
    take = lambda images, rows: {"x": images.images[rows], "y": images.labels[rows]}
    return {
        "train": take(splits.train, order[:NUM_TRAIN]),
        "valid": take(splits.train, order[NUM_TRAIN:]),
        "test": take(splits.test, jnp.arange(NUM_TEST)),
    }


def mlp(
    optimizer: optax.GradientTransformation | Callable, *, num_steps: int = 2000, **given: PyTree
) -> StudyProblem:
    """The MLP on MNIST, one penalty per unit, or other hyperparameters as keywords.

    `log_weight` weighs the training examples; any other is for the optimizer, a function of them.
    """
    data, model = split("mnist"), MLP()
    init = lambda key: model.init(key, data["valid"]["x"][:1])["params"]
    fixed = penalties(init(jax.random.key(0)), -4.4)
    hparams = given or {"log_l2": fixed}
    train = {**data["train"], "i": jnp.arange(NUM_TRAIN)}
    predict, outer = stateless(model)

    def criterion(logits, hparams, batch):
        if "log_weight" not in hparams:
            return cross_entropy(logits, hparams, batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return jnp.mean(jnp.exp(hparams["log_weight"][batch["i"]]) * losses)

    loss = dj.composite_loss(
        predict, criterion, lambda params, h: penalty(params, h.get("log_l2", fixed))
    )

    def sample(key):
        init_key, batch_key = jax.random.split(key)
        batches = dj.minibatches(train, BATCH_SIZE, batch_key)
        return {"params": init(init_key), "inner_batches": batches, "outer_batch": data["valid"]}

    problem = dj.Problem(loss, outer, optimizer)
    return StudyProblem(problem, hparams, num_steps, sample, data["test"])


def conv(optimizer: optax.GradientTransformation, *, num_steps: int = 600) -> StudyProblem:
    """The convolutional network on Fashion-MNIST, one penalty per input channel or unit."""
    data, model = split("fashion_mnist"), ConvNet()
    init = lambda key: model.init(key, data["valid"]["x"][:1], train=False)
    hparams = {"log_l2": penalties(init(jax.random.key(0))["params"], -6.0)}
    predict, outer = with_batch_norm(model)

    def sample(key):
        init_key, batch_key, run_key = jax.random.split(key, 3)
        variables = init(init_key)
        return {
            "params": variables["params"],
            "inner_batches": dj.minibatches(data["train"], BATCH_SIZE, batch_key),
            "outer_batch": data["valid"],
            "model_state": variables["batch_stats"],
            "key": run_key,
        }

    loss = dj.composite_loss(predict, cross_entropy, lambda params, h: penalty(params, h["log_l2"]))
    problem = dj.Problem(loss, outer, optimizer)
    return StudyProblem(problem, hparams, num_steps, sample, data["test"])


def ridge(*, num_steps: int = 1000) -> StudyProblem:
    """Ridge regression of the class on 784 pixels, one penalty per pixel, full batch, to the end.

    Its minimum is known in closed form, and so is the hypergradient there: `ridge_closed_form`.
    """
    points = _regression()
    squares = lambda fit, h, batch: 0.5 * jnp.mean(jnp.sum((fit - batch["y"]) ** 2, axis=1))
    predict = lambda w, h, batch: batch["x"] @ w
    outer = lambda w, h, batch: squares(predict(w, h, batch), h, batch)
    loss = dj.composite_loss(
        predict, squares, lambda w, h: 0.5 * jnp.sum(jnp.exp(h["log_l2"])[:, None] * w**2)
    )

    def sample(key):
        start = 0.1 * jax.random.normal(key, (784, 10))
        batches = dj.minibatches(points["train"], NUM_TRAIN, key, order="cyclic")
        return {"params": start, "inner_batches": batches, "outer_batch": points["valid"]}

    problem = dj.Problem(loss, outer, optax.sgd(0.02, momentum=0.9))
    return StudyProblem(problem, {"log_l2": jnp.full(784, -3.0)}, num_steps, sample, points["test"])


def ridge_closed_form(hparams: PyTree) -> PyTree:
    """The hypergradient of `ridge` at its minimum, w* = (XᵀX/n + diag(e^λ))⁻¹ Xᵀy/n."""
    points = _regression()
    train, valid = points["train"], points["valid"]

    def outer(h):
        gram = train["x"].T @ train["x"] / NUM_TRAIN + jnp.diag(jnp.exp(h["log_l2"]))
        w = jnp.linalg.solve(gram, train["x"].T @ train["y"] / NUM_TRAIN)
        return 0.5 * jnp.mean(jnp.sum((valid["x"] @ w - valid["y"]) ** 2, axis=1))

    return jax.grad(outer)(hparams)


def _regression() -> dict[str, dict[str, Array]]:
    """MNIST's pixels in rows, and its classes one-hot."""
    flat = lambda part: part["x"].reshape(len(part["x"]), -1)
    one_hot = lambda part: jax.nn.one_hot(part["y"], 10)
    return {k: {"x": flat(part), "y": one_hot(part)} for k, part in split("mnist").items()}


def learning_rates(num_blocks: int = 20) -> StudyProblem:
    """The log learning rate of each of 20 blocks of steps, in the stable regime."""
    num_steps = 2000

    def optimizer(h):
        schedule: Any = dj.per_block(jnp.exp(h["log_lr"]), num_steps)
        return optax.sgd(schedule, momentum=0.95)

    return mlp(optimizer, log_lr=jnp.full(num_blocks, jnp.log(0.0025)))


STABLE, CHAOTIC = optax.sgd(0.0025, momentum=0.95), optax.sgd(0.02, momentum=0.9)
PROBLEMS: dict[str, Callable[[], StudyProblem]] = {
    "mlp_stable": lambda: mlp(STABLE),
    "mlp_chaotic": lambda: mlp(CHAOTIC),
    "mlp_adam": lambda: mlp(optax.adam(5e-4, eps_root=1e-8)),
    "mlp_adamw": lambda: mlp(optax.adamw(5e-4, eps_root=1e-8, weight_decay=1e-2)),
    "conv_sgd": lambda: conv(optax.sgd(0.02, momentum=0.9)),
    "conv_smooth": lambda: conv(optax.sgd(0.002, momentum=0.9)),
    "example_weights": lambda: mlp(CHAOTIC, log_weight=jnp.zeros(NUM_TRAIN)),
    "short": lambda: mlp(STABLE, num_steps=100),
    "long": lambda: mlp(STABLE, num_steps=20_000),
    "ridge": ridge,
    "learning_rates": learning_rates,
}
