"""Truncation: the last K steps of any path, and nothing before them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax.reverse.paths import Knots
from problems import NUM_STEPS, TOLERANCE, relative_error

KEPT = 3


def reversible_momentum(h):
    return dj.reversible_sgd(h["lr"], h["momentum"])


@functools.cache
def compute(method, optimizer=reversible_momentum):
    call = dj.hypergradient(problems.problem(optimizer), num_steps=NUM_STEPS, method=method)
    arguments = problems.hparams(), problems.params(), problems.batches(), problems.data()
    return jax.jit(call)(*arguments)


def last_steps(**method):
    return dj.truncated(num_reverse_steps=KEPT, **method)


@pytest.mark.parametrize(
    "method",
    [
        dj.checkpointed(every=2),
        dj.checkpointed(every=(4, 2)),
        pytest.param(dj.reversible(min_momentum=0.8), marks=pytest.mark.slow),
        dj.drmad(knots=NUM_STEPS + 1, curvature="hessian"),
        pytest.param(dj.checkpointed(budget=4), marks=pytest.mark.slow),
    ],
    ids=["checkpoints", "two levels", "reversal", "all knots", "budget"],
)
def test_the_last_steps_are_the_same_on_every_true_path(method):
    reference, out = compute(last_steps()), compute(last_steps(method=method))
    assert relative_error(out.grad, reference.grad) < TOLERANCE["float64"]
    assert relative_error(out.params, reference.params) < TOLERANCE["float64"]
    assert int(out.info.num_reverse_steps) == KEPT and out.initial_params_grad is None


@pytest.mark.slow
def test_the_method_keeps_its_path_and_curvature():
    """On the line, against the same reverse steps taken by hand."""
    problem, hparams, batches = problems.problem(), problems.hparams(), problems.batches()
    params, data = problems.params(), problems.data()
    final = compute(last_steps(), None).params
    method = last_steps(
        method=dj.drmad(path=dj.knots(2, optimizer_state="interpolated"), steps=dj.strided_steps(2))
    )

    @jax.jit
    def by_hand():
        end = dj.init_state(problem, hparams, params)
        for t in range(NUM_STEPS):
            end, _ = dj.train_step(problem, end, hparams, batches(t))
        start = dj.init_state(problem, hparams, params)
        d_params, direct = jax.grad(problems.outer_loss, (0, 1))(end.params, hparams, data)
        cotangent = dj.init_cotangent(end, hparams, params=d_params, accumulated=direct)
        for t in reversed(range(NUM_STEPS - KEPT, NUM_STEPS)):
            mix = lambda a, b, t=t: a + t / NUM_STEPS * (b - a)
            floats = lambda s: (s.params, s.opt_state)
            w, opt_state = jax.tree.map(mix, floats(start), floats(end))
            state = dj.TrainState(w, opt_state, None, jnp.int32(t))
            cotangent, _ = dj.reverse_step(
                problem, state, hparams, batches(t), cotangent, curvature="gauss_newton"
            )
        return cotangent.hparams

    assert method.path == Knots(2, "interpolated")
    assert relative_error(compute(method, None).params, final) < 1e-12
    assert relative_error(compute(method, None).grad, by_hand()) < 1e-10


@pytest.mark.slow
def test_on_knots_it_sees_less_than_all_steps():
    knots = dj.drmad(knots=4)
    whole, last = compute(knots, None), compute(last_steps(method=knots), None)
    assert int(last.info.num_reverse_steps) == KEPT
    assert 1e-3 < relative_error(last.grad, whole.grad) < 1


def test_truncation_to_all_steps_is_exact():
    reference = compute(dj.stored())
    out = compute(dj.truncated(num_reverse_steps=NUM_STEPS))
    assert relative_error(out.grad, reference.grad) < 1e-12
    assert out.initial_params_grad is not None


def test_truncation_equals_stopping_the_gradient_before_the_last_steps():
    hparams, params, batches = problems.hparams(), problems.params(), problems.batches()
    data = problems.data()
    problem = problems.problem(reversible_momentum)

    def outer(h):
        state = dj.init_state(problem, h, params)
        for t in range(NUM_STEPS):
            if t == NUM_STEPS - 3:
                state = jax.lax.stop_gradient(state)
            state, _ = dj.train_step(problem, state, h, batches(t), curvature=None)
        return problems.outer_loss(state.params, h, data)

    out = compute(dj.truncated(num_reverse_steps=3))
    assert relative_error(out.grad, jax.jit(jax.grad(outer))(hparams)) < 1e-12
    assert out.initial_params_grad is None


def test_frozen_truncation_is_the_neumann_series():
    """K frozen steps of gradient descent: η Σ_k (I − ηH)^k ∂E/∂w, then the mixed term."""
    rate, terms, count = 0.1, 4, 9
    matrix = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    inner = lambda w, h, x: 0.5 * w @ matrix @ w - jnp.sum(h * w)
    outer = lambda w, h, x: 0.5 * jnp.sum((w - 1.0) ** 2)
    problem = dj.Problem(inner, outer, optax.sgd(rate))
    method = dj.truncated(num_reverse_steps=terms, frozen=True)
    call = dj.hypergradient(problem, num_steps=count, method=method)
    out = call(jnp.array([1.0, -1.0]), jnp.zeros(2), jnp.zeros(count), None)
    powers = [np.linalg.matrix_power(np.eye(2) - rate * matrix, k) for k in range(terms)]
    expected = rate * sum(powers) @ (np.asarray(out.params) - 1.0)
    np.testing.assert_allclose(out.grad, expected, rtol=1e-12)


def test_wrong_options_are_named():
    method = dj.checkpointed()
    for options, error, message in [
        ({"method": dj.unrolled()}, TypeError, r"`method` must be one that goes back.*Unrolled"),
        ({"method": "drmad"}, TypeError, r"`method` must be .* got 'drmad'"),
        ({"method": method, "frozen": True}, ValueError, "without `frozen` and `curvature`"),
        ({"method": method, "curvature": "auto"}, ValueError, "brings its own path and curvature"),
        ({"method": dj.drmad()}, TypeError, "`method` must be one that goes back.*Stretches"),
        ({"method": dj.drmad(path=dj.means())}, ValueError, "makes none: take steps="),
    ]:
        with pytest.raises(error, match=message):
            last_steps(**options)
