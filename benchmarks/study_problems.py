"""The problems of the study: real data, one fixed split, a new network and new batches per seed."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj
from drmad_jax.experiments.datasets import load_splits

NUM_TRAIN, NUM_VALID, NUM_TEST = 1000, 5000, 5000
BATCH_SIZE = 50


@dataclasses.dataclass(frozen=True)
class StudyProblem:
    """A bilevel problem with everything that a run of it needs.

    Attributes:
        problem: Losses and optimizer.
        hparams: Where the comparison is made, and tuning starts.
        num_steps: Inner steps T.
        sample: `key -> arguments` of a hypergradient after `hparams`, as a dictionary.
        test_loss: `(state, hparams) -> scalar` on examples that nothing else sees.
    """

    problem: dj.Problem
    hparams: PyTree
    num_steps: int
    sample: Callable[[Array], dict[str, Any]]
    test_loss: Callable[[dj.TrainState, PyTree], Array]


def cross_entropy(logits: Array, hparams: PyTree, batch: dict[str, Array]) -> Array:
    """Mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


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


def penalties(params: PyTree, log_l2: float) -> PyTree:
    """One log L2 penalty for each input unit (or input channel) of each kernel."""
    kernels = {k: v for k, v in params.items() if "kernel" in v}
    return {name: jnp.full(v["kernel"].shape[-2], log_l2) for name, v in kernels.items()}


def penalty(params: PyTree, log_l2: PyTree) -> Array:
    """Σ exp(log_l2) w²."""
    terms = [
        jnp.sum(jnp.exp(value)[:, None] * params[name]["kernel"] ** 2)
        for name, value in log_l2.items()
    ]
    return jnp.sum(jnp.stack(terms))


def mlp(
    optimizer: optax.GradientTransformation | Callable, *, num_steps: int = 2000, **given: PyTree
) -> StudyProblem:
    """The MLP on MNIST, one penalty per unit; further hyperparameters as keywords.

    Args:
        optimizer: Inner optimizer, or a function of the hyperparameters.
        num_steps: Inner steps T.
        given: `log_weight` weighs the training examples; any other entry is for the optimizer.
    """
    data, model = split("mnist"), MLP()
    init = lambda key: model.init(key, data["valid"]["x"][:1])["params"]
    fixed = penalties(init(jax.random.key(0)), -4.4)
    hparams = given or {"log_l2": fixed}
    train = {**data["train"], "i": jnp.arange(NUM_TRAIN)}

    def predict(params, hparams, batch):
        return model.apply({"params": params}, batch["x"])

    def criterion(logits, hparams, batch):
        if "log_weight" not in hparams:
            return cross_entropy(logits, hparams, batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return jnp.mean(jnp.exp(hparams["log_weight"][batch["i"]]) * losses)

    loss = dj.composite_loss(
        predict, criterion, lambda params, h: penalty(params, h.get("log_l2", fixed))
    )
    outer = lambda params, h, batch: cross_entropy(predict(params, h, batch), h, batch)

    def sample(key):
        init_key, batch_key = jax.random.split(key)
        batches = dj.minibatches(train, BATCH_SIZE, batch_key)
        return {"params": init(init_key), "inner_batches": batches, "outer_batch": data["valid"]}

    test_loss = lambda state, h: outer(state.params, h, data["test"])
    return StudyProblem(dj.Problem(loss, outer, optimizer), hparams, num_steps, sample, test_loss)


def conv(optimizer: optax.GradientTransformation, *, num_steps: int = 600) -> StudyProblem:
    """The convolutional network on Fashion-MNIST, one penalty per input channel or unit."""
    data, model = split("fashion_mnist"), ConvNet()

    def init(key):
        variables = model.init(key, data["valid"]["x"][:1], train=False)
        return variables["params"], variables["batch_stats"]

    hparams = {"log_l2": penalties(init(jax.random.key(0))[0], -6.0)}

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

    def sample(key):
        init_key, batch_key, run_key = jax.random.split(key, 3)
        params, model_state = init(init_key)
        return {
            "params": params,
            "inner_batches": dj.minibatches(data["train"], BATCH_SIZE, batch_key),
            "outer_batch": data["valid"],
            "model_state": model_state,
            "key": run_key,
        }

    loss = dj.composite_loss(predict, cross_entropy, lambda params, h: penalty(params, h["log_l2"]))
    test_loss = lambda state, h: outer(state.params, h, data["test"], model_state=state.model_state)
    return StudyProblem(dj.Problem(loss, outer, optimizer), hparams, num_steps, sample, test_loss)


def ridge(*, num_steps: int = 1000) -> StudyProblem:
    """Ridge regression of the class on 784 pixels, one penalty per pixel, full batch, to the end.

    Its minimum is known in closed form, and so is the hypergradient there: `ridge_closed_form`.
    """
    data = split("mnist")
    points = {name: _regression(part) for name, part in data.items()}
    hparams = {"log_l2": jnp.full(784, -3.0)}

    def outer(w, h, batch):
        return 0.5 * jnp.mean(jnp.sum((batch["x"] @ w - batch["y"]) ** 2, axis=1))

    loss = dj.composite_loss(
        lambda w, h, batch: batch["x"] @ w,
        lambda o, h, batch: 0.5 * jnp.mean(jnp.sum((o - batch["y"]) ** 2, axis=1)),
        lambda w, h: 0.5 * jnp.sum(jnp.exp(h["log_l2"])[:, None] * w**2),
    )

    def sample(key):
        start = 0.1 * jax.random.normal(key, (784, 10))
        batches = dj.minibatches(points["train"], NUM_TRAIN, key, order="cyclic")
        return {"params": start, "inner_batches": batches, "outer_batch": points["valid"]}

    test_loss = lambda state, h: outer(state.params, h, points["test"])
    problem = dj.Problem(loss, outer, optax.sgd(0.02, momentum=0.9))
    return StudyProblem(problem, hparams, num_steps, sample, test_loss)


def ridge_closed_form(hparams: PyTree) -> PyTree:
    """The hypergradient of `ridge` at its minimum, w* = (XᵀX/n + diag(e^λ))⁻¹ Xᵀy/n."""
    data = split("mnist")
    train, valid = _regression(data["train"]), _regression(data["valid"])

    def outer(h):
        gram = train["x"].T @ train["x"] / NUM_TRAIN + jnp.diag(jnp.exp(h["log_l2"]))
        w = jnp.linalg.solve(gram, train["x"].T @ train["y"] / NUM_TRAIN)
        return 0.5 * jnp.mean(jnp.sum((valid["x"] @ w - valid["y"]) ** 2, axis=1))

    return jax.grad(outer)(hparams)


def _regression(part: dict[str, Array]) -> dict[str, Array]:
    x = part["x"].reshape(len(part["x"]), -1)
    return {"x": x, "y": jax.nn.one_hot(part["y"], 10)}


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
}


def learning_rates(num_blocks: int = 20) -> StudyProblem:
    """The log learning rate of each of 20 blocks of steps, in the stable regime."""
    num_steps = 2000

    def optimizer(h):
        rates = jnp.exp(h["log_lr"])
        return optax.sgd(dj.per_block(rates, num_steps), momentum=0.95)

    return mlp(optimizer, log_lr=jnp.full(num_blocks, jnp.log(0.0025)))
