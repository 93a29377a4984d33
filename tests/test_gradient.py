"""The derivative of the inner gradient: curvature products and mixed terms against dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems


@pytest.fixture(scope="module")
def dense():
    """Dense Hessian, Gauss–Newton matrix and mixed derivative of the shared problem."""
    hparams, params, batch = problems.hparams(), problems.params(), problems.data()
    flat_w, unflatten_w = jax.flatten_util.ravel_pytree(params)
    flat_h, unflatten_h = jax.flatten_util.ravel_pytree(hparams)

    def loss(w, h):
        return problems.loss(unflatten_w(w), unflatten_h(h), batch)

    def outputs(w):
        return problems.predict(unflatten_w(w), hparams, batch).ravel()

    def criterion(o):
        return problems.criterion(o[:, None], hparams, batch)

    def penalty(w):
        return problems.penalty(unflatten_w(w), hparams)

    @jax.jit
    def matrices():
        jacobian = jax.jacobian(outputs)(flat_w)
        inner = jax.hessian(criterion)(outputs(flat_w))
        gauss_newton = jacobian.T @ inner @ jacobian + jax.hessian(penalty)(flat_w)
        mixed = jax.jacobian(jax.grad(loss), argnums=1)(flat_w, flat_h)
        return jax.hessian(loss)(flat_w, flat_h), gauss_newton, mixed

    hessian, gauss_newton, mixed = matrices()
    vector = jax.random.normal(jax.random.key(7), flat_w.shape)
    return hparams, params, batch, unflatten_w(vector), vector, hessian, gauss_newton, mixed


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_products_equal_dense_ones(dense, curvature):
    hparams, params, batch, tree, vector, hessian, gauss_newton, mixed = dense
    product, mixed_product = jax.jit(
        lambda: dj.curvature_product(problems.problem(), curvature, params, hparams, batch, tree)
    )()
    matrix = hessian if curvature == "hessian" else gauss_newton
    np.testing.assert_allclose(problems.flat(product), matrix @ vector, rtol=1e-10, atol=1e-12)
    # The mixed term is exact under both: the slope inside `predict` is a hyperparameter here.
    expected = mixed.T @ vector
    np.testing.assert_allclose(problems.flat(mixed_product), expected, rtol=1e-10, atol=1e-12)


def test_gauss_newton_is_positive_semi_definite_where_the_hessian_is_not(dense):
    *_, hessian, gauss_newton, _ = dense
    assert float(jnp.linalg.eigvalsh(hessian)[0]) < -1e-3
    assert float(jnp.linalg.eigvalsh(gauss_newton)[0]) > -1e-12


@pytest.mark.slow
def test_auto_takes_gauss_newton_where_the_loss_has_the_structure(dense):
    hparams, params, batch, tree, *_ = dense
    plain = problems.problem(inner_loss=lambda w, h, b: problems.loss(w, h, b))
    product = lambda problem, curvature: problems.flat(
        dj.curvature_product(problem, curvature, params, hparams, batch, tree)[0]
    )
    composite = problems.problem()
    np.testing.assert_array_equal(product(composite, "auto"), product(composite, "gauss_newton"))
    np.testing.assert_array_equal(product(plain, "auto"), product(plain, "hessian"))


def test_composite_loss_equals_its_parts(dense):
    hparams, params, batch, *_ = dense
    expected = problems.criterion(problems.predict(params, hparams, batch), hparams, batch)
    expected = expected + problems.penalty(params, hparams)
    assert float(problems.loss(params, hparams, batch)) == pytest.approx(float(expected), rel=1e-14)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_cotangents_of_loss_and_model_state_are_pulled_back(curvature):
    """With a linear model both rules are exact, so plain JAX differentiation is the oracle."""

    def predict(w, h, x, *, model_state):
        moved = 0.9 * model_state["mean"] + 0.1 * jnp.mean(x * h)
        return x * w + model_state["mean"], {"mean": moved, "count": model_state["count"] + 1}

    loss = dj.composite_loss(
        predict, lambda o, h, x: jnp.mean((o - h * x) ** 2), lambda w, h: h * w**2
    )
    problem = dj.Problem(loss, loss, optax.sgd(0.1))
    x, state = jnp.arange(1.0, 4.0), {"mean": jnp.asarray(0.3), "count": jnp.asarray(2)}

    def scalar(kind, w, h, mean):
        gradient = dj.inner_gradient(problem, kind)
        grads, (value, new) = gradient(w, h, {**state, "mean": mean}, x, None)
        return 1.5 * grads + 0.7 * value + 0.2 * new["mean"]

    at = (jnp.asarray(0.4), jnp.asarray(1.3), state["mean"])
    expected = jax.grad(scalar, argnums=(1, 2, 3))(None, *at)
    actual = jax.grad(scalar, argnums=(1, 2, 3))(curvature, *at)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
