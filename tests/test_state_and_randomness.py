"""Batch normalisation and dropout: carried forwards, reproduced on the way back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import drmad_jax as dj
from problems import relative_error

NUM_STEPS = 5
DATA = {
    "x": jax.random.normal(jax.random.key(0), (16, 4)),
    "y": jax.random.normal(jax.random.key(1), (16, 1)),
}
HPARAMS = {"log_l2": jnp.asarray(-3.0), "rate": jnp.asarray(0.1)}


def widen(stats):
    """Flax keeps running statistics in float32; the oracle needs them in float64."""
    is_float32 = lambda x: x.dtype == jnp.float32
    return jax.tree.map(lambda x: x.astype(jnp.float64) if is_float32(x) else x, stats)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(6, param_dtype=jnp.float64)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8, param_dtype=jnp.float64)(x)
        x = nn.Dropout(0.3, deterministic=not train)(jnp.tanh(x))
        return nn.Dense(1, param_dtype=jnp.float64)(x)


def linen():
    model = Linen()
    variables = model.init(jax.random.key(2), DATA["x"], train=False)

    def train(w, h, batch, *, model_state, key):
        variables = {"params": w, "batch_stats": model_state}
        outputs, updated = model.apply(
            variables, batch["x"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return outputs, updated["batch_stats"]

    def evaluate(w, batch, model_state):
        return model.apply({"params": w, "batch_stats": model_state}, batch["x"], train=False)

    return variables["params"], widen(variables["batch_stats"]), train, evaluate


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 6, param_dtype=jnp.float64, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.8, param_dtype=jnp.float64, rngs=rngs)
        self.dropout = nnx.Dropout(0.3)
        self.last = nnx.Linear(6, 1, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x, rngs=None):
        return self.last(self.dropout(jnp.tanh(self.norm(self.first(x))), rngs=rngs))


def flax_nnx():
    graph, params, rest = nnx.split(Nnx(nnx.Rngs(2)), nnx.Param, ...)

    def train(w, h, batch, *, model_state, key):
        model = nnx.merge(graph, w, model_state, copy=True)
        model.train()
        outputs = model(batch["x"], nnx.Rngs(dropout=key))
        return outputs, nnx.state(model, nnx.Not(nnx.Param))

    def evaluate(w, batch, model_state):
        model = nnx.merge(graph, w, model_state, copy=True)
        model.eval()
        return model(batch["x"])

    return params, widen(rest), train, evaluate


def plain():
    params = {"w": jnp.linspace(-1.0, 1.0, 4)[:, None], "b": jnp.zeros(1)}
    state = {"mean": jnp.zeros(4), "seen": jnp.zeros((), jnp.int32)}

    def train(w, h, batch, *, model_state, key):
        mean = jnp.mean(batch["x"], axis=0)
        moved = 0.8 * model_state["mean"] + 0.2 * mean * jnp.exp(0.1 * h["log_l2"])
        kept = jax.random.bernoulli(key, 0.7, batch["x"].shape).astype(mean.dtype)
        outputs = (kept * (batch["x"] - moved[None])) @ w["w"] + w["b"][None]
        return outputs, {"mean": moved, "seen": model_state["seen"] + 1}

    def evaluate(w, batch, model_state):
        return (batch["x"] - model_state["mean"][None]) @ w["w"] + w["b"][None]

    return params, state, train, evaluate


MODELS = {"linen": linen, "nnx": flax_nnx, "plain": plain}


@pytest.fixture(autouse=True)
def _as_flax_needs_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def compute(name, method):
    params, model_state, train, evaluate = MODELS[name]()
    square = lambda o, h, batch: jnp.mean((o - batch["y"]) ** 2)
    penalty = lambda w, h: jnp.exp(h["log_l2"]) * sum(jnp.sum(x**2) for x in jax.tree.leaves(w))
    outer = lambda w, h, batch, *, model_state: square(evaluate(w, batch, model_state), h, batch)
    optimizer = lambda h: optax.sgd(h["rate"], momentum=0.5)
    problem = dj.Problem(dj.composite_loss(train, square, penalty), outer, optimizer)
    batches = dj.minibatches(DATA, 8, jax.random.key(3))
    call = jax.jit(dj.hypergradient(problem, num_steps=NUM_STEPS, method=method))
    return call(HPARAMS, params, batches, DATA, model_state=model_state, key=jax.random.key(4))


@pytest.mark.parametrize(
    "name", ["linen", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nnx", "plain"))]
)
def test_exact_methods_reproduce_state_and_randomness(name):
    reference = compute(name, dj.unrolled())
    for method in (dj.checkpointed(every=2), dj.drmad(knots=NUM_STEPS + 1, curvature="hessian")):
        out = compute(name, method)
        assert relative_error(out.grad, reference.grad) < 1e-10
        assert relative_error(out.initial_params_grad, reference.initial_params_grad) < 1e-10
        state = lambda o: [x for x in jax.tree.leaves(o.state.model_state) if x.dtype == float]
        assert relative_error(state(out), state(reference)) < 1e-12


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "linen" else pytest.mark.slow) for n in sorted(MODELS)],
)
def test_segments_run_and_move_the_state(name):
    out = compute(name, dj.drmad(path=dj.means()))
    before = MODELS[name]()[1]
    assert bool(out.info.finite)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), out.state.model_state, before)
    assert any(jax.tree.leaves(moved))


def test_each_step_has_its_own_key():
    """Dropout masks differ between steps and depend on the run's key alone."""
    seen = lambda w, h, batch, *, key: jnp.sum(w * jax.random.normal(key, (3,)))
    problem = dj.Problem(seen, lambda w, h, b: jnp.sum(w), optax.sgd(1.0))
    train = dj.train(problem, num_steps=2, method=dj.stored())
    key = jax.random.key(0)
    final = train({}, jnp.zeros(3), jnp.zeros(2), key=key).params
    steps = [jax.random.normal(jax.random.fold_in(key, t), (3,)) for t in range(2)]
    np.testing.assert_allclose(final, -(steps[0] + steps[1]), rtol=1e-12)


def test_a_model_state_that_changes_shape_is_named():
    grow = lambda w, h, b, *, model_state: (jnp.sum(w), {"mean": jnp.zeros(3)})
    problem = dj.Problem(grow, lambda w, h, b, *, model_state: jnp.sum(w), optax.sgd(0.1))
    compute = dj.hypergradient(problem, num_steps=2)
    with pytest.raises(ValueError, match=r"changes.*`model_state` \(as returned by inner_loss\)"):
        compute({}, jnp.zeros(2), jnp.zeros(2), None, model_state={"mean": jnp.zeros(2)})


def noise_of(key):
    return 0.0 if key is None else jax.random.normal(key)


def with_key(w, h, x, *, key=None):
    return w * (x + noise_of(key))


def without_key(w, h, x):
    return w * x


# Losses by what they do with a key that the run has: does the final weight depend on it?
TAKES = {
    "keyword": (lambda w, h, x, *, key: w * noise_of(key), True),
    "keyword with a default": (with_key, True),
    "jitted": (jax.jit(with_key), True),
    "any keywords": (lambda w, h, x, **given: w * noise_of(given["key"]), True),
    "predict": (dj.composite_loss(with_key, lambda y, h, x: 0.5 * y**2), True),
    "none": (without_key, False),
    "a batch of that name": (lambda w, h, key: w * key, False),
    "predict without": (dj.composite_loss(without_key, lambda y, h, x: 0.5 * y**2), False),
}


@pytest.mark.parametrize("name", sorted(TAKES))
def test_a_key_goes_to_the_losses_that_take_one(name):
    loss, depends = TAKES[name]
    problem = dj.Problem(loss, without_key, optax.sgd(0.1))
    compute = dj.hypergradient(problem, num_steps=2, method=dj.stored())
    run = lambda key: compute(jnp.ones(()), jnp.ones(()), jnp.ones(2), jnp.ones(()), key=key)
    first, second = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 2)).value
    assert (float(first) != float(second)) == depends


def test_a_loss_that_needs_a_key_says_so():
    problem = dj.Problem(lambda w, h, x, *, key: w, without_key, optax.sgd(0.1))
    compute = dj.hypergradient(problem, num_steps=2)
    with pytest.raises(TypeError, match="`inner_loss` asks for `key`"):
        compute(jnp.ones(()), jnp.ones(()), jnp.ones(2), jnp.ones(()))


def test_states_of_nnx_split_work_as_they_are():
    """Dropout's counter among them, and without a copy."""
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.into, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
            self.norm, self.drop = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)

        def __call__(self, x):
            return self.out(self.drop(self.norm(jnp.tanh(self.into(x)))))

    graph, params, rest = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)
    x = jnp.linspace(-1.0, 1.0, 30, dtype=jnp.float32).reshape(10, 3)

    def inner(w, h, batch, *, model_state):
        model = nnx.merge(graph, w, model_state)
        loss = jnp.mean((model(x) - jnp.sum(x, 1, keepdims=True)) ** 2)
        penalty = jnp.exp(h) * jnp.sum(model.into.kernel[...] ** 2)
        return loss + penalty, nnx.state(model, nnx.Not(nnx.Param))

    def outer(w, h, batch, *, model_state):
        model = nnx.merge(graph, w, model_state)
        model.eval()
        return jnp.mean((model(x) - 1.0) ** 2)

    problem = dj.Problem(inner, outer, optax.sgd(0.1))
    given = jnp.asarray(-3.0, jnp.float32), params, None, None
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        grads = [
            jax.jit(dj.hypergradient(problem, num_steps=3, method=method))(
                *given, model_state=rest
            ).grad
            for method in (dj.unrolled(), dj.drmad(), dj.forward())
        ]
    np.testing.assert_allclose(grads[1:], grads[0], rtol=1e-4)
    assert float(grads[0]) != 0
