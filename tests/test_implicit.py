"""Implicit differentiation: what it reports, refuses, averages over and draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from regression import (
    LOG_L2,
    METHODS,
    START,
    TRAIN,
    VALIDATION,
    compiled,
    forever,
    problem,
    relative_error,
    run,
)

KEY = jax.random.key(7)


def ridge_hessian(x):
    return 2 * (x.T @ x / len(x) + np.diag(np.exp(LOG_L2)))


def ridge_outer_gradient(w):
    x, y = VALIDATION["x"], VALIDATION["y"]
    return 2 * x.T @ (x @ np.array(w) - y) / len(y)


def test_info_tells_the_true_residual_and_the_iterations():
    out = run("ridge", dj.implicit(solver=dj.conjugate_gradient(max_iterations=2)), num_steps=30)
    assert int(out.info.num_iterations) == 2
    hessian, rhs = ridge_hessian(TRAIN["x"]), ridge_outer_gradient(out.params["w"])
    # The mixed term is diagonal here, so that the solution can be read off the hypergradient.
    x = -np.array(out.grad) / (2 * np.exp(LOG_L2) * out.params["w"])
    residual = np.linalg.norm(rhs - hessian @ x) / np.linalg.norm(rhs)
    assert float(out.info.residual_norm) == pytest.approx(float(residual), rel=1e-8)
    assert float(out.info.residual_norm) > 1e-3
    assert out.info.cotangent_norm is None and out.info.cotangent_norm_at_end is None


@functools.cache
def saddle(method):
    loss = lambda w, h, batch: 0.5 * jnp.sum(batch * w**2) + h * jnp.sum(w)
    outer = lambda w, h, batch: jnp.sum(batch * w)
    still = dj.Problem(loss, outer, optax.sgd(0.0))
    compute = jax.jit(dj.hypergradient(still, num_steps=1, method=method))
    return lambda curvature, weight: compute(
        np.float64(1.0), np.zeros(2), np.array([curvature]), np.array(weight)
    )


def test_negative_curvature_stops_conjugate_gradient_and_shows():
    run_saddle = saddle(dj.implicit())
    first = run_saddle([1.0, -1.0], [1.0, 2.0])
    assert int(first.info.num_iterations) == 1 and float(first.info.residual_norm) == 1.0
    assert float(first.grad) == 0.0
    later = run_saddle([1.0, -0.5], [2.0, 1.0])
    assert 1 < int(later.info.num_iterations) < 100 and float(later.info.residual_norm) > 1e-2
    assert bool(later.info.finite)
    damped = saddle(dj.implicit(damping=2.0))([1.0, -1.0], [1.0, 2.0])
    assert float(damped.info.residual_norm) < 1e-5
    assert float(damped.grad) == pytest.approx(-(1 / 3 + 2 / 1))


def test_the_smallest_residual_is_kept_where_curvature_is_barely_positive():
    # The first direction has curvature 1e-6: a step along it multiplies the residual.
    out = saddle(dj.implicit())([1.0 + 2e-6, -1.0], [1.0, -1.0])
    assert int(out.info.num_iterations) == 2
    assert float(out.info.residual_norm) == 1.0 and float(out.grad) == 0.0


def test_a_diverging_series_shows():
    out = saddle(dj.implicit(solver=dj.neumann_series(step_size=3.0)))([1.0, 0.5], [1.0, 1.0])
    assert float(out.info.residual_norm) > 1e3


def test_nan_in_the_curvature_is_not_finite():
    for name in ("cg", "neumann", "nystrom"):
        out = saddle(METHODS[name][0])([jnp.nan, 1.0], [1.0, 1.0])
        assert not bool(out.info.finite), name


def test_zero_and_tiny_outer_gradients():
    run_saddle = saddle(dj.implicit())
    zero, tiny = run_saddle([1.0, 2.0], [0.0, 0.0]), run_saddle([1.0, 2.0], [1e-200, 1e-200])
    assert float(zero.grad) == 0.0 and float(zero.info.residual_norm) == 0.0
    assert float(tiny.grad) == pytest.approx(-1.5e-200)


def test_learning_rates_and_initial_scales_are_refused_by_name():
    loss = lambda w, h, batch: jnp.sum((w - batch) ** 2) + h["l2"] * jnp.sum(w**2)
    hparams = {"l2": jnp.ones(()), "lr": jnp.full((), 0.1), "scale": jnp.ones(())}
    refused = dj.Problem(
        loss,
        lambda w, h, batch: jnp.sum(w**2),
        lambda h: optax.sgd(h["lr"]),
        lambda params, h: params * h["scale"],
    )
    args = hparams, jnp.ones(3), jnp.ones((4, 3)), jnp.ones(3)
    compute = dj.hypergradient(refused, num_steps=4, method=dj.implicit())
    with pytest.raises(ValueError, match=r"`hparams\['lr'\]`, `hparams\['scale'\]`"):
        compute(*args)
    jax.eval_shape(dj.hypergradient(refused, num_steps=4, method=dj.stored()), *args)


def test_vmap_equals_a_loop():
    method = dj.implicit(solver=dj.conjugate_gradient(tolerance=1e-2))
    compute = dj.hypergradient(problem("logistic"), num_steps=50, method=method)
    points = LOG_L2 + np.array([[-3.0], [0.0], [1.0]])
    at = lambda log_l2: compute(log_l2, START, forever(TRAIN), VALIDATION)
    together, alone = jax.jit(jax.vmap(at))(points), jax.jit(at)
    one_by_one = [alone(point) for point in points]
    counts = [int(out.info.num_iterations) for out in one_by_one]
    assert together.info.num_iterations.tolist() == counts and len(set(counts)) > 1
    for index, out in enumerate(one_by_one):
        assert relative_error(together.grad[index], out.grad) < 1e-10


def test_averages_over_the_last_batches():
    halves = jax.tree.map(lambda x: np.stack([x[10:], x[:10], x[10:]]), TRAIN)
    for num_batches, averaged in ((2, [1, 2]), (9, [0, 1, 2])):
        method = dj.implicit(num_batches=num_batches, solver=dj.conjugate_gradient(tolerance=1e-10))
        out = compiled("ridge", method, num_steps=3)(LOG_L2, START, halves, VALIDATION)
        w, x = np.array(out.params["w"]), np.concatenate(halves["x"][averaged])
        solution = np.linalg.solve(ridge_hessian(x), ridge_outer_gradient(w))
        assert relative_error(out.grad, -2 * np.exp(LOG_L2) * w * solution) < 1e-8


def test_model_state_is_held_fixed_and_the_last_steps_key_is_used():
    def loss(w, h, batch, *, model_state, key):
        noise = jax.random.uniform(key, (3,), minval=1.0, maxval=2.0)
        value = jnp.sum(noise * model_state["scale"] * (w - h) ** 2)
        return value, {"scale": 0.5 * model_state["scale"] + 1, "count": model_state["count"] + 1}

    outer = lambda w, h, batch, *, model_state: jnp.sum(w * jnp.arange(1.0, 4.0))
    noisy = dj.Problem(loss, outer, optax.sgd(0.05))
    out = jax.jit(dj.hypergradient(noisy, num_steps=4, method=dj.implicit(damping=1.0)))(
        jnp.ones(3),
        jnp.zeros(3),
        jnp.zeros(4),
        None,
        model_state={"scale": jnp.ones(3), "count": jnp.int32(0)},
        key=KEY,
    )
    noise = jax.random.uniform(jax.random.fold_in(KEY, 3), (3,), minval=1.0, maxval=2.0)
    curvature = 2 * noise * out.state.model_state["scale"]
    exact = curvature / (curvature + 1) * jnp.arange(1.0, 4.0)
    assert relative_error(out.grad, exact) < 1e-5


def test_random_vectors_come_from_the_methods_key():
    method = lambda key: dj.implicit(solver=dj.nystrom(rank=2), key=key)

    @jax.jit
    def grad(key):
        compute = dj.hypergradient(problem("ridge"), num_steps=30, method=method(key))
        return compute(LOG_L2, START, forever(TRAIN), VALIDATION).grad

    first, second = grad(jax.random.key(0)), grad(jax.random.key(1))
    assert relative_error(first, second) > 1e-3
    fixed = run("ridge", method(None), num_steps=30).grad
    assert relative_error(fixed, first) < 1e-12
    assert grad._cache_size() == 1


@pytest.mark.filterwarnings("ignore:weights below float32")
@pytest.mark.parametrize("solver", ["cg", "nystrom"])
def test_every_dtype_comes_out_as_it_went_in(solver):
    loss = lambda w, h, batch: sum(
        jnp.sum((h.astype(leaf.dtype) * leaf - 1) ** 2).astype(jnp.float32)
        for leaf in jax.tree.leaves(w)
    )
    outer = lambda w, h, batch: sum(jnp.sum(x).astype(jnp.float32) for x in jax.tree.leaves(w))
    params = [jnp.ones(2, dtype) for dtype in (jnp.bfloat16, jnp.float32, jnp.float64)]
    compute = dj.hypergradient(
        dj.Problem(loss, outer, optax.sgd(0.1)), num_steps=50, method=dj.implicit(solver=solver)
    )
    out = jax.jit(compute)(jnp.ones((), jnp.bfloat16), params, jnp.zeros(50), None)
    assert out.grad.dtype == jnp.bfloat16
    assert float(out.grad) == pytest.approx(-6.0, rel=0.05)  # w = 1/h


def test_options_of_solvers_are_checked():
    for make, message in [
        (lambda: dj.nystrom(rank=0), r"`rank` must be at least 1, got 0"),
        (lambda: dj.neumann_series(step_size=0.0), r"`step_size` must be above 0"),
        (lambda: dj.conjugate_gradient(tolerance=-1.0), r"`tolerance` must be at least 0"),
        (lambda: dj.conjugate_gradient(tolerance=float("nan")), r"`tolerance` must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match=r"`max_iterations` must be a Python int"):
        dj.conjugate_gradient(max_iterations=2.0)


def test_options_are_checked():
    for options, message in [
        ({"solver": "qr"}, r"`solver` must be one of \('cg', 'neumann', 'nystrom'\), got 'qr'"),
        ({"solver": "nystrom", "damping": 0.0}, r"`damping` must be above 0"),
        ({"damping": -1.0}, r"`damping` must be at least 0"),
        ({"num_batches": 0}, r"`num_batches` must be at least 1"),
        ({"curvature": "exact"}, r"`curvature` must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            dj.implicit(**options)
    for options, message in [
        ({"solver": 3}, r"`solver` must be a name or a LinearSolver, got 3"),
        ({"damping": jnp.ones(())}, r"`damping` must be a Python number"),
        ({"key": 0}, r"`key` must be a key such as jax.random.key"),
    ]:
        with pytest.raises(TypeError, match=message):
            dj.implicit(**options)
    with pytest.raises(ValueError, match="composite_loss"):
        run("ridge", dj.implicit(curvature="gauss_newton"), composite=False)
