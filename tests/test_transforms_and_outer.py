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


def test_simplex():
    simplex = transforms.simplex()
    free = jnp.array([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]])
    allowed = simplex.constrain(free)
    np.testing.assert_allclose(jnp.sum(allowed, axis=-1), 1.0)
    back = simplex.unconstrain(allowed)
    np.testing.assert_allclose(back, free - jnp.mean(free, -1, keepdims=True), atol=1e-12)


def test_frozen_values_stay():
    rules = {"a": transforms.frozen(), "b": transforms.log()}
    value = lambda h: jax.tree.reduce(jnp.add, transforms.constrain(rules, h))
    assert jax.grad(value)({"a": 2.0, "b": 0.0}) == {"a": 0.0, "b": 1.0}
    assert transforms.unconstrain(rules, {"a": 2.0, "b": 1.0}) == {"a": 2.0, "b": 0.0}


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_that_is_not_finite_changes_nothing(wrong, compiled):
    outer = dj.outer_optimizer(optax.chain(optax.add_noise(0.1, 0.5, 0), optax.adam(0.1)))
    hparams = {"a": jnp.ones(3), "b": jnp.ones(())}
    with jax.numpy_dtype_promotion("standard"):
        _, state = outer.update(hparams, outer.init(hparams), hparams)
        update = jax.jit(outer.update) if compiled else outer.update
        grad = {"a": jnp.array([0.0, wrong, 1.0]), "b": jnp.ones(())}
        same, same_state = update(grad, state, hparams)
        moved, _ = update(hparams, state, hparams)
    jax.tree.map(np.testing.assert_array_equal, same, hparams)
    equal = lambda a, b: np.testing.assert_array_equal(*map(_numbers, (a, b)))
    jax.tree.map(equal, same_state, state)
    assert float(moved["b"]) != 1.0


def _numbers(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


def test_what_an_outer_optimizer_takes_besides_is_passed_on():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    outer = dj.outer_optimizer(optax.chain(optax.sgd(1.0), plateau))
    hparams = jnp.zeros(2)
    state = outer.init(hparams)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(4):
            before = hparams
            hparams, state = outer.update(jnp.ones(2), state, hparams, value=1.0)
    # Where the value stands still, so do steps: they become smaller.
    assert float(jnp.max(jnp.abs(hparams - before))) < 1.0


def test_a_projection_to_something_else_is_refused():
    outer = dj.outer_optimizer(optax.sgd(1.0), project=lambda h: h["a"])
    with pytest.raises(ValueError, match="`project` must return hyperparameters"):
        outer.update({"a": jnp.ones(2)}, outer.init({"a": jnp.ones(2)}), {"a": jnp.ones(2)})
