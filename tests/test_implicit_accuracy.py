"""Implicit differentiation against unrolling, closed forms, single steps and other packages."""

import functools
import importlib
import warnings

import jax
import jax.numpy as jnp
import pytest

import drmad_jax as dj
from regression import (
    LOG_L2,
    METHODS,
    START,
    TRAIN,
    VALIDATION,
    closed_form,
    forever,
    problem,
    relative_error,
    run,
)


@pytest.mark.parametrize(
    ("kind", "name"), [("ridge", "cg"), *(("logistic", name) for name in METHODS)]
)
def test_equals_unrolling_a_training_that_converged(kind, name):
    method, tolerance = METHODS[name]
    out, reference = run(kind, method), run(kind, dj.unrolled())
    assert bool(out.info.finite) and out.initial_params_grad is None
    assert float(out.value) == pytest.approx(float(reference.value), rel=1e-12)
    assert relative_error(out.grad, reference.grad) < tolerance
    assert float(out.info.residual_norm) < 1e-4


def test_equals_the_closed_form_of_ridge_regression():
    out = run("ridge", METHODS["cg"][0])
    value, grad = closed_form(LOG_L2)
    assert float(out.value) == pytest.approx(float(value), rel=1e-9)
    assert relative_error(out.grad, grad) < 1e-8


def test_differentiable_training_takes_it_too():
    train = dj.train(problem("ridge"), num_steps=2000, method=METHODS["cg"][0])

    @jax.jit
    @jax.grad
    def grad(log_l2):
        final = train(log_l2, START, forever(TRAIN))
        return problem("ridge").outer_loss(final.params, log_l2, VALIDATION)

    assert relative_error(grad(LOG_L2), closed_form(LOG_L2)[1]) < 1e-8


def other_package(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jaxopt announces its end on import
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"NOT COMPARED WITH {name}: it cannot be imported ({error})")


def stationarity(params, log_l2):
    return jax.grad(problem("logistic").inner_loss)(params, log_l2, TRAIN)


def logistic_outer(params, log_l2):
    return problem("logistic").outer_loss(params, log_l2, VALIDATION)


def test_equals_jaxopt():
    jaxopt = other_package("jaxopt")
    trained = run("logistic", METHODS["cg"][0])
    solve_cg = functools.partial(jaxopt.linear_solve.solve_cg, tol=1e-10)
    decorate = jaxopt.implicit_diff.custom_root(stationarity, solve=solve_cg)
    solution = decorate(lambda init, log_l2: trained.params)
    theirs = jax.jit(jax.grad(lambda log_l2: logistic_outer(solution(None, log_l2), log_l2)))
    assert relative_error(trained.grad, theirs(LOG_L2)) < 1e-8


def test_equals_optimistix():
    optimistix = other_package("optimistix")
    out = run("logistic", METHODS["cg"][0])

    def outer(log_l2):
        solver = optimistix.Newton(rtol=1e-12, atol=1e-12)
        found = optimistix.root_find(stationarity, solver, START, log_l2, max_steps=50)
        return logistic_outer(found.value, log_l2)

    assert relative_error(out.grad, jax.jit(jax.grad(outer))(LOG_L2)) < 1e-7


def test_takes_a_solver_of_another_package():
    lineax = other_package("lineax")

    def solve(product, rhs, *, damping, key):
        structure = jax.eval_shape(lambda: rhs)
        definite = lineax.positive_semidefinite_tag
        operator = lineax.FunctionLinearOperator(product, structure, definite)
        solution = lineax.linear_solve(operator, rhs, lineax.CG(rtol=1e-10, atol=1e-10))
        return solution.value, jnp.int32(solution.stats["num_steps"])

    out = run("ridge", dj.implicit(solver=solve))
    assert relative_error(out.grad, run("ridge", METHODS["cg"][0]).grad) < 1e-8
    assert float(out.info.residual_norm) < 1e-8


@pytest.mark.parametrize("num_terms", [1, 7])
def test_neumann_series_is_the_frozen_truncated_reverse_pass(num_terms):
    neumann = dj.implicit(solver=dj.neumann_series(num_terms=num_terms, step_size=0.05))
    frozen = dj.truncated(num_reverse_steps=num_terms, frozen=True, curvature="auto")
    out, reference = (run("ridge", method, num_steps=30) for method in (neumann, frozen))
    assert relative_error(out.grad, reference.grad) < 1e-12
    assert int(out.info.num_iterations) == num_terms


def test_one_step_is_the_last_training_step():
    out = run("ridge", dj.one_step(), num_steps=30)
    before = run("ridge", dj.one_step(), num_steps=29)
    assert int(out.info.num_reverse_steps) == 1

    def outer(log_l2):
        loss = lambda params: problem("ridge").inner_loss(params, log_l2, TRAIN)
        step = lambda w, g: w - 0.05 * g
        params = jax.tree.map(step, before.params, jax.grad(loss)(before.params))
        return problem("ridge").outer_loss(params, log_l2, VALIDATION)

    assert relative_error(out.grad, jax.jit(jax.grad(outer))(LOG_L2)) < 1e-12
