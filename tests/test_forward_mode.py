"""Forward mode: exact against the unrolled loop; random directions: unbiased, and honest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax.methods.forward import forward, forward_gradient
from drmad_jax.training.schedules import per_block
from problems import CHAINS, TOLERANCE, relative_error

# These tests compile far longer than they compute.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

NUM_STEPS = 6
KERNEL = jnp.array([0.3, -0.2, 0.5])
PARAMS = {"kernel": KERNEL, "bias": jnp.array(0.1)}
HPARAMS = {"log_l2": jnp.full(3, -2.0), "lr": jnp.array(0.1), "momentum": jnp.array(0.7)}
BATCHES = {
    "x": jax.random.normal(jax.random.key(0), (NUM_STEPS, 4, 3)),
    "y": jax.random.normal(jax.random.key(1), (NUM_STEPS, 4)),
}
VALIDATION = {"x": 0.7 * BATCHES["x"][0] + 0.1, "y": BATCHES["y"][1]}


def predict(w, x):
    return jnp.tanh(x @ w["kernel"] + w["bias"])


def inner_loss(w, h, batch):
    penalty = jnp.sum(jnp.exp(h["log_l2"]) * w["kernel"] ** 2)
    return jnp.mean((predict(w, batch["x"]) - batch["y"]) ** 2) + penalty


def outer_loss(w, h, batch):
    direct = jnp.asarray(0.01, h["log_l2"].dtype) * jnp.sum(h["log_l2"])
    return jnp.mean((predict(w, batch["x"]) - batch["y"]) ** 2) + direct


def compute_all(problem, methods, *args, **kwargs):
    """All methods in one compiled function."""

    def compute(args, kwargs):
        return [
            dj.hypergradient(problem, num_steps=NUM_STEPS, method=method)(*args, **kwargs)
            for method in methods
        ]

    with jax.numpy_dtype_promotion("standard"):
        return jit(compute)(args, kwargs)


@pytest.mark.parametrize(
    "chain", ["adam", "multi_steps", "injected", pytest.param("noisy", marks=pytest.mark.slow)]
)
def test_equals_unrolled(chain):
    problem = dj.Problem(inner_loss, outer_loss, CHAINS[chain])
    methods = [dj.unrolled(), forward()]
    oracle, out = compute_all(problem, methods, HPARAMS, PARAMS, BATCHES, VALIDATION)
    assert relative_error(out.grad, oracle.grad) < TOLERANCE["float64"]
    assert relative_error(out.params, oracle.params) < TOLERANCE["float64"]
    assert bool(out.info.finite) and int(out.info.num_reverse_steps) == 0
    assert out.info.cotangent_norm is None and out.initial_params_grad is None


@pytest.mark.slow
def test_sees_initial_scales_model_state_and_randomness():
    def inner(w, h, batch, *, model_state, key):
        mean, seen = model_state
        mean = h["decay"] * mean + (1 - h["decay"]) * jnp.mean(batch["x"], axis=0)
        noise = 0.1 * jax.random.normal(key, batch["y"].shape)
        error = predict(w, batch["x"] - mean[None]) - batch["y"] + noise
        return jnp.mean(error**2), (mean, seen + 1)

    def outer(w, h, batch, *, model_state):
        return jnp.mean((predict(w, batch["x"] - model_state[0][None]) - batch["y"]) ** 2)

    scale = lambda w, h: jax.tree.map(lambda leaf: jnp.exp(h["log_scale"]) * leaf, w)
    optimizer = lambda h: optax.sgd(h["lr"], momentum=0.9)
    problem = dj.Problem(inner, outer, optimizer, initial_params=scale)
    hparams = {"decay": jnp.array(0.8), "log_scale": jnp.array(0.2), "lr": jnp.array(0.1)}
    oracle, out, chunked = compute_all(
        problem,
        [dj.unrolled(), forward(), forward(chunk_size=2)],
        hparams,
        PARAMS,
        BATCHES,
        VALIDATION,
        model_state=(jnp.zeros(3), jnp.int32(0)),
        key=jax.random.key(3, impl="unsafe_rbg"),
    )
    assert all(float(jnp.abs(leaf)) > 1e-4 for leaf in jax.tree.leaves(oracle.grad))
    assert relative_error(out.grad, oracle.grad) < TOLERANCE["float64"]
    assert relative_error(chunked.grad, oracle.grad) < TOLERANCE["float64"]
    assert int(out.state.model_state[1]) == NUM_STEPS


def test_shared_rates_are_sums_over_their_blocks():
    """One rate for each layer and block of steps, against one for each layer and step."""

    def optimizer(h):
        layers = {name: optax.sgd(per_block(h[name], NUM_STEPS)) for name in ("kernel", "bias")}
        return optax.multi_transform(layers, {"kernel": "kernel", "bias": "bias"})

    loss = lambda w, h, batch: jnp.mean((predict(w, batch["x"]) - batch["y"]) ** 2)
    problem = dj.Problem(loss, loss, optimizer)
    blocks = {"kernel": jnp.array([0.1, 0.3]), "bias": jnp.array([0.2, 0.1, 0.3])}
    steps = {"kernel": jnp.repeat(blocks["kernel"], 3), "bias": jnp.repeat(blocks["bias"], 2)}
    (shared,) = compute_all(problem, [forward()], blocks, PARAMS, BATCHES, VALIDATION)
    (single,) = compute_all(problem, [dj.unrolled()], steps, PARAMS, BATCHES, VALIDATION)
    sums = {
        "kernel": single.grad["kernel"].reshape(2, 3),
        "bias": single.grad["bias"].reshape(3, 2),
    }
    sums = jax.tree.map(lambda leaf: leaf.sum(axis=1), sums)
    assert relative_error(shared.grad, sums) < TOLERANCE["float64"]


TARGET = jnp.array([1.0, -2.0, 0.5, 0.3])


def quadratic_loss(w, h, batch):
    return jnp.sum((w - batch) ** 2) + jnp.sum(h * w**2)


def cubic_loss(w, h, batch):
    return jnp.sum((w - batch) ** 2 * w) + sum(map(jnp.sum, jax.tree.leaves(h)))


def quadratic(method, *, dtype="float64"):
    """Four penalties on four weights, as a function of the penalties."""
    problem = dj.Problem(quadratic_loss, cubic_loss, optax.sgd(0.1))
    compute = dj.hypergradient(problem, num_steps=5, method=method)
    target = TARGET.astype(dtype)
    return lambda h: compute(h, jnp.zeros(4, dtype), jnp.tile(target, (5, 1)), 1.5 * target)


PENALTIES = jnp.array([0.1, 0.2, 0.3, 0.4])


def test_jit_equals_eager_and_vmap_equals_loop():
    compute = quadratic(forward(chunk_size=3))
    jitted = jit(compute)
    eager, first, second = compute(PENALTIES), jitted(PENALTIES), jitted(2 * PENALTIES)
    assert relative_error(eager.grad, first.grad) < TOLERANCE["float64"]
    batched = jit(jax.vmap(compute))(jnp.stack([PENALTIES, 2 * PENALTIES]))
    assert relative_error(batched.grad[0], first.grad) < TOLERANCE["float64"]
    assert relative_error(batched.grad[1], second.grad) < TOLERANCE["float64"]


@pytest.mark.filterwarnings("ignore:weights below float32")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keeps_low_precision(dtype):
    exact = jit(quadratic(forward()))(PENALTIES)
    out = jit(quadratic(forward(), dtype=dtype))(PENALTIES.astype(dtype))
    assert out.grad.dtype == out.params.dtype == dtype
    assert relative_error(out.grad.astype(jnp.float64), exact.grad) < TOLERANCE[dtype]


def test_memory_does_not_grow_with_the_number_of_steps():
    def bytes_at(num_steps):
        outer = dj.hypergradient(
            dj.Problem(quadratic_loss, quadratic_loss, optax.sgd(0.1)),
            num_steps=num_steps,
            method=forward(),
        )
        batches = jax.ShapeDtypeStruct((num_steps, 4), jnp.float64)
        compiled = jit(outer).lower(PENALTIES, TARGET, batches, TARGET).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_at(1000) == bytes_at(10)


def test_train_is_differentiable():
    problem = dj.Problem(quadratic_loss, quadratic_loss, optax.sgd(0.1))
    batches = jnp.tile(TARGET, (5, 1))

    def weight(method):
        train = dj.train(problem, num_steps=5, method=method)
        return lambda h, w: jnp.sum(train(h, w, batches).params ** 3)

    key = jax.random.key(0)
    exact, oracle = (jax.grad(weight(m))(PENALTIES, TARGET) for m in (forward(), dj.unrolled()))
    assert relative_error(exact, oracle) < TOLERANCE["float64"]
    with pytest.raises(ValueError, match="not differentiable in `params` with this method"):
        jax.grad(weight(forward()), argnums=1)(PENALTIES, TARGET)

    @jit
    @jax.vmap
    def estimates(key):
        return jax.grad(weight(forward_gradient(num_directions=2, key=key)))(PENALTIES, TARGET)

    mean = jnp.mean(estimates(jax.random.split(key, 500)), axis=0)
    assert relative_error(mean, oracle) < 0.1


@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
def test_forward_gradient_is_unbiased_and_knows_its_error(distribution):
    def estimate(key):
        method = forward_gradient(num_directions=4, key=key, distribution=distribution)
        out = quadratic(method)(PENALTIES)
        return out.grad, out.info.standard_error

    keys = jax.random.split(jax.random.key(5), 1000)
    grads, errors = jit(jax.vmap(estimate))(keys)
    exact = jit(quadratic(forward()))(PENALTIES).grad
    spread = jnp.std(grads, axis=0, ddof=1)
    assert jnp.all(jnp.abs(jnp.mean(grads, axis=0) - exact) < 3 * spread / np.sqrt(1000))
    reported = jnp.sqrt(jnp.mean(errors**2, axis=0))
    assert jnp.all(jnp.abs(reported / spread - 1) < 0.15)


def test_forward_gradient_keeps_the_direct_term_exact():
    outer = lambda w, h, batch: jnp.sum(jnp.sin(h))
    problem = dj.Problem(quadratic_loss, outer, optax.sgd(0.1))
    method = forward_gradient(num_directions=1, key=jax.random.key(0))
    compute = jit(dj.hypergradient(problem, num_steps=2, method=method))
    out = compute(PENALTIES, TARGET, jnp.tile(TARGET, (2, 1)), TARGET)
    assert relative_error(out.grad, jnp.cos(PENALTIES)) < TOLERANCE["float64"]
    assert jnp.all(jnp.isinf(out.info.standard_error))


def test_chunks_do_not_change_the_directions():
    outs = [
        jit(quadratic(forward_gradient(num_directions=5, key=jax.random.key(2), chunk_size=size)))(
            PENALTIES
        )
        for size in (None, 2)
    ]
    assert relative_error(outs[1].grad, outs[0].grad) < TOLERANCE["float64"]
    errors = [out.info.standard_error for out in outs]
    assert relative_error(errors[1], errors[0]) < TOLERANCE["float64"]


def test_new_keys_bring_new_directions_without_compiling_again():
    traces = []

    @jit
    def outer_step(h, key):
        traces.append(1)
        return quadratic(forward_gradient(num_directions=2, key=key))(h).grad

    first, second = (outer_step(PENALTIES, jax.random.key(seed)) for seed in (0, 1))
    assert len(traces) == 1
    assert relative_error(first, second) > 1e-3


def test_directions_follow_the_key_of_the_run():
    problem = dj.Problem(quadratic_loss, quadratic_loss, optax.sgd(0.1))
    method = forward_gradient(num_directions=2)
    compute = dj.hypergradient(problem, num_steps=2, method=method)
    args = (PENALTIES, TARGET, jnp.tile(TARGET, (2, 1)), TARGET)
    keys = jax.random.split(jax.random.key(0), 2)
    outs = jit(jax.vmap(lambda key: compute(*args, key=key).grad))(keys)
    assert relative_error(outs[0], outs[1]) > 1e-3
    with pytest.raises(ValueError, match=r"forward_gradient\(key=...\) inside .*call .* with key="):
        compute(*args)


def test_wrong_options():
    with pytest.raises(ValueError, match="forward: `chunk_size` must be at least 1, got 0"):
        forward(chunk_size=0)
    with pytest.raises(TypeError, match="`num_directions` must be a Python int"):
        forward_gradient(num_directions=2.5)
    with pytest.raises(ValueError, match="`distribution` must be one of"):
        forward_gradient(num_directions=2, distribution="uniform")
    with pytest.raises(TypeError, match="`key` must be a key such as jax.random.key"):
        forward_gradient(num_directions=2, key=3)
    with pytest.raises(TypeError, match="`chunk_size` must be a Python int"):
        forward_gradient(num_directions=2, chunk_size="all")
    problem = dj.Problem(cubic_loss, cubic_loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match="`hparams` has no entries"):
        dj.hypergradient(problem, num_steps=1, method=forward())({}, TARGET, TARGET[None], TARGET)
