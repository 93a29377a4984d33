"""One small problem with every kind of hyperparameter that the literature learns.

A network of two layers on six examples, float64, eight steps of SGD with momentum. What a test does
not learn keeps its value from `hparams()`.
"""

import jax
import jax.numpy as jnp
import numpy as np

import drmad_jax as dj

NUM_STEPS, NUM_EXAMPLES, BATCH_SIZE = 8, 6, 3
KEY = jax.random.key(11)
_RNG = np.random.default_rng(0)
_LABELS = np.arange(NUM_EXAMPLES) % 2
BATCHES = {"i": np.stack([_RNG.permutation(NUM_EXAMPLES)[:BATCH_SIZE] for _ in range(NUM_STEPS)])}
BATCHES["label"] = _LABELS[BATCHES["i"]]
VALIDATION = {"x": _RNG.standard_normal((7, 2)), "label": np.arange(7) % 2}
PARAMS = {
    "first": {"kernel": _RNG.standard_normal((2, 3)), "bias": 0.1 * np.ones(3)},
    "second": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)},
}
# The kinds that act before the first step, and those that act in the optimizer alone.
STARTS = ("log_scale", "start")
RATES = ("lr_by_layer", "lr_by_step", "momentum")
_HPARAMS = {
    # Maclaurin et al. 2015: rates for each layer and step, initial scales, data; Fu et al. 2016:
    # penalties; Franceschi et al. 2018: the initial weights (meta-learning) and example weights.
    "augmentation": np.array(-1.5),  # log of the scale of noise on the inputs
    "inputs": _RNG.standard_normal((NUM_EXAMPLES, 2)),  # the training inputs themselves
    "log_l2": np.linspace(-4.0, -2.0, 6).reshape(2, 3),  # one for each weight of the first kernel
    "log_l2_by_unit": np.array([-3.0, -2.5, -2.0]),  # one for each unit into the second
    "log_scale": {"first": np.array(-0.3), "second": np.array(0.2)},
    "log_weight": np.linspace(-0.5, 0.5, NUM_EXAMPLES),  # of each example
    "lr_by_layer": {"first": np.array(1.0), "second": np.array(0.5)},
    "lr_by_step": np.linspace(0.3, 0.1, NUM_STEPS),
    "mixing": np.array(0.4),  # logit of the share of the squared error in the loss
    # Multiples of 2^-6, since the optimizer rounds momenta to multiples of 2^-16.
    "momentum": {
        "first": np.linspace(32, 56, NUM_STEPS).round() / 64,
        "second": np.linspace(56, 48, NUM_STEPS).round() / 64,
    },
    "smoothing": np.array(-2.0),  # logit of the share of the other class in the labels
    "start": {
        "kernel": 0.7 * _RNG.standard_normal((3, 2)),
        "bias": 0.1 * _RNG.standard_normal(2),
    },
}


def hparams(without=()):
    """The hyperparameters, without those of some names."""
    kept = {name: value for name, value in _HPARAMS.items() if name not in without}
    return jax.tree.map(jnp.asarray, kept)


def _all(h):
    return _HPARAMS | h


def logits(w, x):
    hidden = jnp.tanh(x @ w["first"]["kernel"] + w["first"]["bias"][None])
    return hidden @ w["second"]["kernel"] + w["second"]["bias"][None]


def predict(w, h, batch, *, key):
    h = _all(h)
    noise = jax.random.normal(key, (BATCH_SIZE, 2))
    return logits(w, h["inputs"][batch["i"]] + jnp.exp(h["augmentation"]) * noise)


def criterion(outputs, h, batch):
    h = _all(h)
    smoothing, share = jax.nn.sigmoid(h["smoothing"]), jax.nn.sigmoid(h["mixing"])
    target = (1 - smoothing) * jax.nn.one_hot(batch["label"], 2) + smoothing / 2
    entropy = -jnp.sum(target * jax.nn.log_softmax(outputs), axis=1)
    squared = jnp.sum((outputs - target) ** 2, axis=1)
    return jnp.mean(
        jnp.exp(h["log_weight"])[batch["i"]] * ((1 - share) * entropy + share * squared)
    )


def penalty(w, h):
    h = _all(h)
    first, second = w["first"]["kernel"], w["second"]["kernel"]
    by_weight = jnp.sum(jnp.exp(h["log_l2"]) * first**2)
    return by_weight + jnp.sum(jnp.exp(h["log_l2_by_unit"])[:, None] * second**2)


def outer_loss(w, h, batch):
    truth = jax.nn.one_hot(batch["label"], 2)
    return -jnp.mean(jnp.sum(truth * jax.nn.log_softmax(logits(w, batch["x"])), axis=1))


def optimizer(h):
    h = _all(h)
    rates = {name: rate * h["lr_by_step"] for name, rate in h["lr_by_layer"].items()}
    return dj.reversible_sgd(rates, h["momentum"])


def initial_params(w, h):
    h = _all(h)
    layers = {"first": w["first"], "second": h["start"]}
    scales = {name: jnp.exp(scale) for name, scale in h["log_scale"].items()}
    return {name: jax.tree.map(lambda x, s=scales[name]: s * x, layers[name]) for name in layers}


PROBLEM = dj.Problem(
    dj.composite_loss(predict, criterion, penalty), outer_loss, optimizer, initial_params
)


def in_units(units):
    """The problem of z, with `hparams() + units · z` as its hyperparameters, leaf by leaf."""
    shift = lambda z: jax.tree.map(lambda h, unit, x: h + unit * x, hparams(), units, z)
    return dj.Problem(
        lambda w, z, batch, *, key: PROBLEM.inner_loss(w, shift(z), batch, key=key),
        lambda w, z, batch: outer_loss(w, shift(z), batch),
        lambda z: optimizer(shift(z)),
        lambda w, z: initial_params(w, shift(z)),
    )


def hypergradient(method, h, problem=PROBLEM):
    """The method's hypergradient at `h`."""
    compute = dj.hypergradient(problem, num_steps=NUM_STEPS, method=method)
    return compute(h, PARAMS, BATCHES, VALIDATION, key=KEY)
