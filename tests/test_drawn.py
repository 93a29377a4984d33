"""Hyperparameters that decide random draws: named, since no derivative sees all that they do."""

import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import drmad_jax as dj

KEY = jax.random.key(0)
SHAPE = (4, 3)


def dropout(x, h, key):
    kept = jax.random.bernoulli(key, 1 - h["rate"], x.shape)
    return jnp.where(kept, x / (1 - h["rate"]), 0.0)


def in_a_scan(x, h, key):
    def body(carry, key):
        return jax.checkpoint(dropout)(carry, h, key), None

    return jax.lax.scan(body, x, jax.random.split(key, 3))[0]


def behind_a_branch(x, h, key):
    return jax.lax.cond(x[0, 0] > 0, lambda: jax.jit(dropout)(x, h, key), lambda: x)


def in_a_loop(x, h, key):
    body = lambda carry: (dropout(carry[0], h, key), carry[1] + 1)
    return jax.lax.while_loop(lambda carry: carry[1] < 2, body, (x, 0))[0]


def category(x, h, key):
    return x[jax.random.categorical(key, jnp.stack([h["rate"], -h["rate"]]))]


def masked_by_each_example(x, h, key):
    keys = jax.random.split(key, x.shape[0])
    return jax.vmap(dropout, (0, None, 0))(x, h, keys)


# Those whose draws move smoothly, or that only decide what has nothing random in it.
def gaussian_dropout(x, h, key):
    return x * (1 + h["rate"] * jax.random.normal(key, x.shape))


def concrete_mask(x, h, key):
    noise = jax.random.logistic(key, x.shape)
    return x * jax.nn.sigmoid((noise - h["rate"]) / 0.1)


def relu_of_noise(x, h, key):
    return jax.nn.relu(gaussian_dropout(x, h, key)) + jnp.abs(x - h["rate"])


def fixed_dropout(x, h, key):
    return h["rate"] * dropout(x, {"rate": 0.1}, key)


def run(transform, **given):
    def inner(w, h, batch, *, key):
        return jnp.sum((transform(w, h, key) - 1.0) ** 2)

    problem = dj.Problem(inner, lambda w, h, batch: jnp.sum(w**2), optax.sgd(0.01))
    compute = dj.hypergradient(problem, num_steps=3, **given)
    hparams = {"rate": jnp.asarray(0.3), "other": jnp.asarray(1.0)}
    return compute(hparams, jnp.ones(SHAPE), None, None, key=KEY)


@pytest.mark.parametrize(
    "transform",
    [dropout, in_a_scan, behind_a_branch, in_a_loop, category, masked_by_each_example],
)
def test_a_rate_that_is_compared_with_a_draw_is_named(transform):
    method = dj.forward() if transform is in_a_loop else dj.checkpointed()
    if transform is in_a_loop:
        transform = lambda x, h, key: jax.lax.stop_gradient(in_a_loop(x, h, key)) + x
    with pytest.warns(UserWarning, match=r"decide random draws, `hparams\['rate'\]` \("):
        run(transform, method=method)


@pytest.mark.parametrize(
    "transform", [gaussian_dropout, concrete_mask, relu_of_noise, fixed_dropout]
)
def test_what_moves_smoothly_is_not(transform):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(transform, method=dj.checkpointed())


def test_estimators_see_all_of_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = run(dropout, method=dj.evolution_strategies(num_pairs=2, sigma=0.1))
    assert out.info.finite
