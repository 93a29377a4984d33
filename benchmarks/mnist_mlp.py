"""The MLP of the DrMAD paper with one penalty per unit, on random data of MNIST's shape."""

import jax
import jax.numpy as jnp
import optax

import drmad_jax as dj

LAYERS = (784, 50, 50, 50, 10)


def arguments(num_examples: int = 15000, seed: int = 0, layers: tuple[int, ...] = LAYERS):
    """Hyperparameters, initial weights, training data and validation data."""
    keys = jax.random.split(jax.random.key(seed), 6)
    sizes = list(zip(layers[:-1], layers[1:], strict=True))
    params = [
        {"w": jax.random.normal(key, (a, b)) * a**-0.5, "b": jnp.zeros(b)}
        for key, (a, b) in zip(keys, sizes, strict=False)
    ]
    hparams = [jnp.full(a, -4.4) for a, _ in sizes]
    return hparams, params, _data(keys[4], num_examples), _data(keys[5], num_examples // 3)


def problem(optimizer: optax.GradientTransformation | None = None) -> dj.Problem:
    """The problem, with momentum at the published step size unless told otherwise."""
    loss = dj.composite_loss(predict, criterion, penalty)
    outer_loss = lambda w, h, batch: criterion(predict(w, h, batch), h, batch)
    return dj.Problem(loss, outer_loss, optimizer or optax.sgd(0.0025, momentum=0.95))


def predict(w, h, batch):
    """Logits."""
    x = batch["x"]
    for layer in w[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ w[-1]["w"] + w[-1]["b"]


def criterion(logits, h, batch):
    """Mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def penalty(w, h):
    """One log L2 penalty per input unit of each layer."""
    pairs = zip(w, h, strict=True)
    return sum(jnp.sum(jnp.exp(log_l2)[:, None] * layer["w"] ** 2) for layer, log_l2 in pairs)


def _data(key, count):
    first, second = jax.random.split(key)
    x = jax.random.uniform(first, (count, LAYERS[0]))
    return {"x": x, "y": jax.random.randint(second, (count,), 0, LAYERS[-1])}
