"""Hyperparameter transforms and the outer update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax import transforms

ALL = [
    transforms.identity(),
    transforms.log(),
    transforms.softplus(),
    transforms.sigmoid(),
    transforms.sigmoid(-2.0, 3.0),
]


@pytest.mark.parametrize("transform", ALL)
def test_round_trip_and_slope(transform):
    x = jnp.linspace(-6.0, 6.0, 41)
    y = transform.constrain(x)
    np.testing.assert_allclose(transform.unconstrain(y), x, rtol=1e-9, atol=1e-9)
    assert bool(jnp.all(jnp.diff(y) > 0))


def test_softplus_does_not_overflow():
    softplus = transforms.softplus()
    np.testing.assert_allclose(softplus.unconstrain(softplus.constrain(900.0)), 900.0)


def test_one_transform_stands_for_a_subtree():
    rules = {"l2": transforms.log(), "momentum": transforms.sigmoid()}
    free = {"l2": {"a": jnp.zeros(2), "b": jnp.ones(1)}, "momentum": jnp.zeros(())}
    allowed = transforms.constrain(rules, free)
    np.testing.assert_allclose(allowed["l2"]["b"], [np.e])
    back = transforms.unconstrain(rules, allowed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), back, free)


def test_sigmoid_needs_an_interval():
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        transforms.sigmoid(1.0, 1.0)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1), optax.sign_sgd(0.1)])
def test_outer_update_is_optax_and_lowers_a_quadratic(optimizer):
    outer = dj.outer_optimizer(optimizer)
    hparams = {"a": jnp.ones(3)}
    state = outer.init(hparams)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(5):
            hparams, state = jax.jit(outer.update)(hparams, state, hparams)
    assert float(jnp.max(jnp.abs(hparams["a"]))) < 1


def test_projection_is_applied_after_each_update():
    outer = dj.outer_optimizer(optax.sgd(1.0), project=optax.projections.projection_simplex)
    hparams = jnp.array([0.5, 0.5])
    with jax.numpy_dtype_promotion("standard"):
        hparams, _ = outer.update(jnp.array([-3.0, 0.0]), outer.init(hparams), hparams)
    np.testing.assert_allclose(hparams, [1.0, 0.0], atol=1e-12)
