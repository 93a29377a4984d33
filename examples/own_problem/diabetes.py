"""A penalty for each feature of a ridge regression, on scikit-learn's diabetes data."""

import jax.numpy as jnp
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

import drmad_jax as dj
from drmad_jax.experiments.own import OwnTask


def make_task(given, *, log_l2=0.0):
    x, y = (scale(array).astype("float32") for array in load_diabetes(return_X_y=True))
    loss = lambda w, h, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
    penalised = lambda w, h, batch: loss(w, h, batch) + jnp.sum(jnp.exp(h) * w**2)
    return OwnTask(
        problem=dj.Problem(penalised, loss, given.optimizer),
        hparams=jnp.full(10, log_l2),
        init=lambda key: jnp.zeros(10),
        train=(x[:300], y[:300]),
        num_valid=150,
        test=(x[300:], y[300:]),
        metrics=lambda w, h, test: {"test_mse": loss(w, h, test)},
    )
