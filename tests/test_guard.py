"""What happens when the cotangent outgrows the one that the way back began with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax.reverse.guard import EXPANSION

NUM_STEPS = 50


def ridge(composite):
    """From the top of a hill half way down: negative curvature all along the line."""
    predict = lambda w, h, x: jnp.cos(w)
    criterion = lambda o, h, x: jnp.sum(o)
    penalty = lambda w, h: jnp.exp(h) * jnp.sum(w**2)
    whole = lambda w, h, x: jnp.sum(jnp.cos(w)) + penalty(w, h)
    loss = dj.composite_loss(predict, criterion, penalty) if composite else whole
    return dj.Problem(loss, lambda w, h, x: jnp.sum((w - 3) ** 2), optax.sgd(0.1))


@functools.cache
def run(method, composite=False):
    compute = jax.jit(dj.hypergradient(ridge(composite), num_steps=NUM_STEPS, method=method))
    return compute(jnp.float64(-4), jnp.array([0.01, -0.01]), jnp.zeros(NUM_STEPS), None)


def test_expansion_is_reported_and_its_profile():
    info = run(dj.drmad(knots=2, curvature="hessian")).info
    assert bool(info.expanded)
    assert int(info.num_reverse_steps) == NUM_STEPS
    profile = info.cotangent_norm_profile
    np.testing.assert_allclose(jnp.max(profile), info.cotangent_norm)
    np.testing.assert_allclose(profile[0], info.cotangent_norm_at_start)
    assert bool(jnp.all(profile >= 0))


def test_profile_of_the_published_steps_is_where_their_weights_are():
    profile = run(dj.published_drmad(num_reverse_steps=3)).info.cotangent_norm_profile
    assert jnp.flatnonzero(profile >= 0).tolist() == [0, 16, 31]


def test_nothing_is_reported_where_nothing_expands():
    assert not bool(run(dj.drmad(knots=2, steps=dj.segments(5))).info.expanded)


def test_truncating_ends_before_the_step_that_expands():
    out = run(dj.drmad(knots=2, curvature="hessian", on_expansion="truncate"))
    taken = int(out.info.num_reverse_steps)
    assert bool(out.info.expanded)
    assert 0 < taken < NUM_STEPS
    assert float(out.info.cotangent_norm) <= EXPANSION * float(out.info.cotangent_norm_at_end)
    shorter = run(
        dj.truncated(num_reverse_steps=taken, method=dj.drmad(knots=2, curvature="hessian"))
    )
    assert problems.relative_error(out.grad, shorter.grad) < 1e-12


def test_gauss_newton_takes_over_where_the_hessian_expands():
    hessian = dj.drmad(knots=2, curvature="hessian", on_expansion="gauss_newton")
    alone = run(dj.drmad(knots=2, curvature="hessian"), composite=True).info
    info = run(hessian, composite=True).info
    assert bool(alone.expanded) and bool(info.expanded)
    assert float(alone.cotangent_norm) > float(info.cotangent_norm)
    assert int(info.num_reverse_steps) == NUM_STEPS


def test_taking_over_needs_a_composite_loss():
    with pytest.raises(ValueError, match="composite_loss"):
        run(dj.drmad(knots=2, curvature="hessian", on_expansion="gauss_newton"))


@pytest.mark.parametrize("on_expansion", ["truncate", "gauss_newton"])
def test_a_guard_that_never_acts_changes_nothing(on_expansion):
    method = dj.drmad(knots=2, curvature="gauss_newton", on_expansion=on_expansion)
    plain = run(dj.drmad(knots=2, curvature="gauss_newton"), composite=True)
    assert problems.relative_error(run(method, composite=True).grad, plain.grad) < 1e-14


def test_guard_acts_for_each_setting_alone_under_vmap():
    method = dj.drmad(knots=2, curvature="hessian", on_expansion="truncate")
    compute = dj.hypergradient(ridge(False), num_steps=NUM_STEPS, method=method)
    starts = jnp.array([[0.01, -0.01], [2.5, -2.5]])
    together = jax.jit(jax.vmap(lambda w: compute(jnp.float64(-4), w, jnp.zeros(NUM_STEPS), None)))
    info = together(starts).info
    assert info.expanded.tolist() == [True, False]
    assert int(info.num_reverse_steps[0]) == int(run(method).info.num_reverse_steps)
    assert int(info.num_reverse_steps[1]) == NUM_STEPS


def test_filter_leaves_out_negative_curvature_alone():
    filtered = run(dj.drmad(knots=2, curvature="filtered_hessian"))
    assert not bool(filtered.info.expanded)
    convex = dj.Problem(
        lambda w, h, x: jnp.sum((w - x) ** 2) + h * jnp.sum(w**2),
        lambda w, h, x: jnp.sum(w**2),
        optax.sgd(0.1),
    )

    def grad(curvature):
        method = dj.drmad(knots=2, curvature=curvature)
        compute = jax.jit(dj.hypergradient(convex, num_steps=5, method=method))
        return compute(jnp.float64(0.3), jnp.zeros(2), jnp.ones((5, 2)), None).grad

    np.testing.assert_allclose(grad("filtered_hessian"), grad("hessian"), rtol=1e-12)


def test_a_plain_loss_is_filtered_by_default_on_a_path():
    auto = run(dj.drmad(knots=2, steps=dj.every_step()))
    filtered = run(dj.drmad(knots=2, curvature="filtered_hessian"))
    assert problems.relative_error(auto.grad, filtered.grad) == 0.0
