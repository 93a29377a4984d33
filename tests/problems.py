"""The small problems and the optimizer chains that the tests share."""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import drmad_jax as dj

TOLERANCE = {"float64": 1e-10, "float32": 2e-4, "bfloat16": 0.2}
NUM_STEPS = 7


def data(dtype=jnp.float64):
    inputs = jax.random.normal(jax.random.key(0), (24, 5))
    targets = jnp.sin(inputs @ jnp.arange(5.0))[:, None]
    return {"x": inputs.astype(dtype), "y": targets.astype(dtype), "i": jnp.arange(24)}


def params(dtype=jnp.float64):
    first, second = jax.random.split(jax.random.key(1))
    return {
        "hidden": {
            "kernel": 0.5 * jax.random.normal(first, (5, 4)).astype(dtype),
            "bias": jnp.zeros(4, dtype),
        },
        "out": 0.5 * jax.random.normal(second, (4, 1)).astype(dtype),
    }


def hparams(dtype=jnp.float64):
    return {
        "log_l2": jnp.full(5, -3.0, dtype),
        "log_weight": jnp.linspace(-0.5, 0.5, 24, dtype=dtype),
        "lr": jnp.asarray(0.05, dtype),
        "momentum": jnp.asarray(0.8, dtype),
        "slope": jnp.asarray(1.0, dtype),
    }


def predict(w, h, batch):
    hidden = jnp.tanh(h["slope"] * (batch["x"] @ w["hidden"]["kernel"] + w["hidden"]["bias"][None]))
    return hidden @ w["out"]


def criterion(outputs, h, batch):
    weight = jnp.exp(h["log_weight"])[batch["i"]][:, None]
    return jnp.mean(weight * (outputs - batch["y"]) ** 2)


def penalty(w, h):
    return jnp.sum(jnp.exp(h["log_l2"])[:, None] * w["hidden"]["kernel"] ** 2)


loss = dj.composite_loss(predict, criterion, penalty)


def outer_loss(w, h, batch):
    direct = jnp.asarray(0.01, h["log_l2"].dtype) * jnp.sum(h["log_l2"])
    return jnp.mean((predict(w, h, batch) - batch["y"]) ** 2) + direct


def batches(dtype=jnp.float64):
    return dj.minibatches(data(dtype), 6, jax.random.key(2), order="shuffled")


def problem(optimizer=None, inner_loss=loss):
    return dj.Problem(
        inner_loss, outer_loss, CHAINS["momentum"] if optimizer is None else optimizer
    )


def flat(tree):
    return ravel_pytree(tree)[0]


def relative_error(value, reference):
    value, reference = flat(value), flat(reference)
    return float(jnp.linalg.norm(value - reference) / jnp.linalg.norm(reference))


def _labels(w):
    return {"hidden": {"kernel": "sgd", "bias": "sgd"}, "out": "adam"}


def _mask(w):
    return {"hidden": {"kernel": True, "bias": False}, "out": True}


def _scheduled(h):
    decay = optax.cosine_decay_schedule(1.0, 20)
    return optax.chain(
        optax.scale_by_adam(eps_root=1e-8), optax.scale_by_schedule(decay), optax.scale(-h["lr"])
    )


def _accumulated(h):
    optimizer = optax.sgd(h["lr"], momentum=h["momentum"])
    return optax.MultiSteps(optimizer, 3, accumulator_dtype=h["lr"].dtype).gradient_transformation()


def _multi(h):
    transforms = {"sgd": optax.sgd(h["lr"]), "adam": optax.adam(h["lr"], eps_root=1e-8)}
    return optax.multi_transform(transforms, _labels)


CHAINS = {
    "momentum": lambda h: optax.sgd(h["lr"], momentum=h["momentum"]),
    "nesterov": lambda h: optax.sgd(h["lr"], momentum=h["momentum"], nesterov=True),
    "adam": lambda h: optax.adam(h["lr"], b1=h["momentum"], eps_root=1e-8),
    "adamw": lambda h: optax.adamw(h["lr"], eps_root=1e-8, weight_decay=0.1),
    "rmsprop": lambda h: optax.rmsprop(h["lr"], eps=1e-4),
    "lion": lambda h: optax.lion(h["lr"], b1=h["momentum"]),
    "clipped": lambda h: optax.chain(optax.clip_by_global_norm(0.5), CHAINS["momentum"](h)),
    "scheduled": _scheduled,
    "masked": lambda h: optax.chain(optax.masked(optax.trace(0.9), _mask), optax.scale(-h["lr"])),
    "multi_transform": _multi,
    "multi_steps": _accumulated,
    "injected": lambda h: optax.inject_hyperparams(optax.sgd)(h["lr"], momentum=h["momentum"]),
    "noisy": lambda h: optax.chain(
        optax.add_noise(0.01, 0.55, jax.random.key(3)), optax.sgd(h["lr"])
    ),
    "polyak": lambda h: optax.chain(optax.polyak_sgd(1.0), optax.scale(h["lr"])),
}
