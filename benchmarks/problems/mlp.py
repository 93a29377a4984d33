"""The MLP of the DrMAD paper on random data of MNIST's shape, and the losses of all problems."""

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
    data = images(keys[4], num_examples), images(keys[5], num_examples // 3)
    return penalties(params, -4.4), params, *data


def problem(optimizer: optax.GradientTransformation | None = None) -> dj.Problem:
    """The problem, with momentum at the published step size unless told otherwise."""
    loss = dj.composite_loss(predict, cross_entropy, penalty)
    return dj.Problem(loss, outer_loss, optimizer or optax.sgd(0.0025, momentum=0.95))


def predict(params, hparams, batch):
    """Logits."""
    x = batch["x"]
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def inner_loss(params, hparams, batch):
    """Cross-entropy with the penalty, without the structure of a `composite_loss`."""
    return outer_loss(params, hparams, batch) + penalty(params, hparams)


def outer_loss(params, hparams, batch):
    """Cross-entropy alone."""
    return cross_entropy(predict(params, hparams, batch), hparams, batch)


def cross_entropy(logits, hparams, batch):
    """Mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def penalties(params, log_l2: float) -> list[jax.Array]:
    """One log L2 penalty for each input unit or channel of each matrix or kernel."""
    return [jnp.full(kernel.shape[-2], log_l2) for kernel in _kernels(params)]


def penalty(params, log_l2):
    """Σ exp(log_l2) w²."""
    term = lambda h, w: jnp.sum(jnp.exp(h)[:, None] * w**2)
    return sum(map(term, log_l2, _kernels(params)), jnp.float32(0))


def images(key, count: int, shape: tuple[int, ...] = LAYERS[:1]) -> dict[str, jax.Array]:
    """Random images of a shape, with one of ten classes each."""
    first, second = jax.random.split(key)
    x = jax.random.uniform(first, (count, *shape))
    return {"x": x, "y": jax.random.randint(second, (count,), 0, LAYERS[-1])}


def _kernels(params):
    return [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
