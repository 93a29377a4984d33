"""Real-time mode: exact while hyperparameters stand still, the paper's recursion once they move."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import drmad_jax as dj
from drmad_jax.loops.real_time import real_time
from problems import TOLERANCE, relative_error

# These tests compile far longer than they compute.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

STILL = dj.outer_optimizer(optax.sgd(0.0))
INPUTS = jax.random.normal(jax.random.key(0), (6, 4, 3))
TARGETS = jax.random.normal(jax.random.key(1), (6, 4))
PARAMS = jnp.array([0.3, -0.2, 0.5])
HPARAMS = {"log_scale": jnp.array(0.2), "lr": jnp.array(0.1), "decay": jnp.array(0.8)}


def inner_loss(w, h, batch, *, model_state, key):
    mean = h["decay"] * model_state + (1 - h["decay"]) * jnp.mean(batch[0], axis=0)
    noise = 0.1 * jax.random.normal(key, batch[1].shape)
    return jnp.mean((jnp.tanh((batch[0] - mean[None]) @ w) - batch[1] + noise) ** 2), mean


def outer_loss(w, h, batch, *, model_state):
    error = jnp.tanh((batch[0] - model_state[None]) @ w) - batch[1]
    return jnp.mean(error**2) + 0.1 * h["lr"]


def test_equals_unrolled_while_hyperparameters_stand_still():
    problem = dj.Problem(
        inner_loss,
        outer_loss,
        lambda h: optax.sgd(h["lr"], momentum=0.9),
        initial_params=lambda w, h: jnp.exp(h["log_scale"]) * w,
    )
    rtho = real_time(problem, STILL, every=2)
    batches, validation = (INPUTS, TARGETS), (INPUTS[0], TARGETS[1])
    options = {"model_state": jnp.zeros(3), "key": jax.random.key(3, impl="unsafe_rbg")}

    def three_steps(hparams, params, batches, model_state, key):
        state = rtho.init(hparams, params, model_state=model_state)
        step = lambda state, batch: rtho.step(state, batch, validation, key=key)
        pairs = jax.tree.map(lambda leaf: leaf.reshape(3, 2, *leaf.shape[1:]), batches)
        return jax.lax.scan(step, state, pairs)

    def unrolled(hparams, params, batches, model_state, key):
        compute = dj.hypergradient(problem, num_steps=6, method=dj.unrolled())
        return compute(hparams, params, batches, validation, model_state=model_state, key=key)

    with jax.numpy_dtype_promotion("standard"):
        state, info = jit(three_steps)(HPARAMS, PARAMS, batches, **options)
        oracle = jit(unrolled)(HPARAMS, PARAMS, batches, **options)
    last = jax.tree.map(lambda leaf: leaf[-1], info)
    assert relative_error(last.grad, oracle.grad) < TOLERANCE["float64"]
    assert relative_error(last.value, oracle.value) < TOLERANCE["float64"]
    assert relative_error(state.train.params, oracle.params) < TOLERANCE["float64"]
    assert bool(jnp.all(info.finite)) and int(state.train.step) == 6


def parabola(w, lr, x):
    return 0.5 * jnp.sum((w - x) ** 2)


def by_hand(w, lr, batches, target, outer_lr, every):
    """z ← (1 − lr) z − (w − x), w ← w − lr (w − x); lr ← lr − η (w − y) z every Δ steps."""
    z, grads, norms = 0.0, [], []
    for step, x in enumerate(batches, start=1):
        z, w = (1 - lr) * z - (w - x), w - lr * (w - x)
        if step % every == 0:
            grads.append((w - target) * z)
            norms.append(abs(z))
            lr -= outer_lr * grads[-1]
    return w, lr, grads, norms


@pytest.mark.parametrize("every", [1, 2])
def test_follows_the_recursion_by_hand(every):
    problem = dj.Problem(parabola, parabola, lambda lr: optax.sgd(lr))
    rtho = real_time(problem, dj.outer_optimizer(optax.sgd(0.05)), every=every)
    step, batches = jit(rtho.step), jnp.array([1.0, 2.0, 0.5, 1.5, 1.0, 3.0])
    w, lr, grads, norms = by_hand(0.0, 0.2, batches.tolist(), 2.0, 0.05, every)
    state = rtho.init(jnp.array(0.2), jnp.array(0.0))
    for index in range(0, 6, every):
        state, info = step(state, batches[index : index + every], jnp.array(2.0))
        assert float(info.grad) == pytest.approx(grads[index // every], rel=1e-12)
        assert float(info.tangent_norm) == pytest.approx(norms[index // every], rel=1e-12)
    assert float(state.train.params) == pytest.approx(w, rel=1e-12)
    assert float(state.hparams) == pytest.approx(lr, rel=1e-12)


def test_batches_by_step_of_the_whole_run_and_many_runs_at_once():
    problem = dj.Problem(parabola, parabola, lambda lr: optax.sgd(lr))
    rtho = real_time(problem, dj.outer_optimizer(optax.sgd(0.05)), every=2)
    data = jnp.array([1.0, 2.0, 0.5, 1.5])
    stacked, called = data.reshape(2, 2), dj.minibatches(data, 1, jax.random.key(0), order="cyclic")

    def train(lr, source):
        state = rtho.init(lr, jnp.zeros(1))
        for index in range(2):
            state, _ = rtho.step(state, source(index), jnp.array([2.0]))
        return state.hparams

    rates = jnp.array([0.1, 0.2])
    first = jit(jax.vmap(lambda lr: train(lr, lambda index: stacked[index][:, None])))(rates)
    second = jit(jax.vmap(lambda lr: train(lr, lambda index: called)))(rates)
    assert relative_error(first, second) < TOLERANCE["float64"]
    assert float(first[0]) != float(first[1])


def test_wrong_arguments():
    problem = dj.Problem(parabola, parabola, lambda lr: optax.sgd(lr))
    with pytest.raises(TypeError, match="`outer_optimizer` must come from drmad_jax.outer_opt"):
        real_time(problem, optax.sgd(0.1), every=2)
    with pytest.raises(TypeError, match="`problem` must be a drmad_jax.Problem, got function"):
        real_time(parabola, STILL, every=2)
    with pytest.raises(ValueError, match="`every` must be at least 1, got 0"):
        real_time(problem, STILL, every=0)
    rtho = real_time(problem, STILL, every=2)
    with pytest.raises(TypeError, match=r"`hparams` has dtype int"):
        rtho.init(1, jnp.zeros(1))
    state = rtho.init(jnp.array(0.1), jnp.array(0.0))
    with pytest.raises(ValueError, match="`inner_batches` must have leading axis"):
        rtho.step(state, jnp.zeros(3), jnp.array(0.0))
    wrong = dj.Problem(parabola, lambda w, lr, x: w - x, lambda lr: optax.sgd(lr))
    rtho = real_time(wrong, STILL, every=2)
    state = rtho.init(jnp.array(0.1), jnp.zeros(1))
    with pytest.raises(ValueError, match="`outer_loss` must return a floating-point scalar"):
        rtho.step(state, jnp.zeros((2, 1)), jnp.zeros(1))
