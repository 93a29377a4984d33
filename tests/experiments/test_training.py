import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.tasks import make_task

NUM_STEPS = 6
ALL = ["learning_rates", "momenta", "initial_scales"]


@pytest.fixture(scope="module")
def images():
    from drmad_jax.experiments.data.datasets import load_splits

    return jax.device_put(load_splits("digits", num_train=60, num_test=40))


@pytest.fixture
def make(tiny):
    def make(**task):
        tiny["inner"] |= {"num_steps": NUM_STEPS}
        return make_task(configs.parse(tiny | {"task": {"kind": "training", **task}}))

    return make


def inputs_of(task, images):
    return jax.jit(task.sample)(jax.random.key(0), images)


def hypergradient(task, images, method):
    """A function of the hyperparameters alone, compiled once."""
    compute = dj.hypergradient(task.problem, num_steps=NUM_STEPS, method=method)
    inputs = inputs_of(task, images)
    given = inputs.params, inputs.inner_batches, inputs.outer_batch
    compiled = jax.jit(compute)
    return lambda hparams: compiled(hparams, *given)


def perturbed(hparams):
    """No two values alike, so that a mix-up would show."""
    wave = lambda x: 0.3 * jnp.sin(1.0 + jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return jax.tree.map(lambda x: x + wave(x), hparams)


def assert_close(actual, expected, rtol):
    """Each leaf, against the largest entry among all of them."""
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale)


def test_steps_are_the_published_ones_where_the_momentum_is_constant(make, images):
    """Maclaurin et al. 2015, Alg. 1: v <- γ v - (1 - γ) g, w <- w + α v."""
    task = make(tuned=["learning_rates"])
    hparams = perturbed(task.init_hparams())
    inputs = inputs_of(task, images)

    @jax.jit
    def published_step(params, velocity, step):
        grads = jax.grad(task.problem.inner_loss)(params, hparams, inputs.inner_batches(step))
        rates = jax.tree.map(lambda log_rates: jnp.exp(log_rates[step]), hparams["learning_rates"])
        velocity = jax.tree.map(lambda v, g: 0.5 * v - 0.5 * g, velocity, grads)
        return jax.tree.map(lambda w, rate, v: w + rate * v, params, rates, velocity), velocity

    params, velocity = inputs.params, jax.tree.map(jnp.zeros_like, inputs.params)
    for step in range(NUM_STEPS):
        params, velocity = published_step(params, velocity, step)
    train = dj.trained(task.problem, num_steps=NUM_STEPS)
    found = jax.jit(train)(hparams, inputs.params, inputs.inner_batches).params
    assert_close(found, params, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["checkpointed", "reversible"])
def test_low_memory_hypergradients_are_exact(make, images, method):
    task = make(tuned=ALL)
    hparams = perturbed(task.init_hparams())
    expected = hypergradient(task, images, dj.unrolled())(hparams)
    found = hypergradient(task, images, getattr(dj, method)())(hparams)
    assert bool(found.info.finite)
    for name in ALL:
        assert_close(found.grad[name], expected.grad[name], 1e-3)


@pytest.mark.slow
def test_shared_values_collect_the_hypergradients_of_those_that_share_them(make, images):
    each = make()
    grad = hypergradient(each, images, dj.stored())(each.init_hparams()).grad
    shared = make(granularity="global", blocks=2)
    found = hypergradient(shared, images, dj.stored())(shared.init_hparams()).grad
    for name in ("learning_rates", "momenta"):
        by_step = sum(jax.tree.leaves(grad[name]))
        expected = by_step.reshape(2, NUM_STEPS // 2).sum(axis=1)
        np.testing.assert_allclose(found[name], expected, rtol=1e-3)


@pytest.mark.slow
def test_hypergradient_of_a_scale_is_the_slope_of_the_loss(make, images):
    task = make(tuned=["initial_scales"], granularity="layer", outer_loss="validation")
    compute, hparams, step = hypergradient(task, images, dj.stored()), task.init_hparams(), 0.02
    scales = hparams["initial_scales"]
    for name, grad in compute(hparams).grad["initial_scales"].items():
        above, below = (
            compute({"initial_scales": scales | {name: scales[name] + change}}).value
            for change in (step, -step)
        )
        np.testing.assert_allclose(grad, (above - below) / (2 * step), rtol=0.02, atol=1e-4)


def test_scales_are_standard_deviations(make, images):
    task = make(tuned=["initial_scales"])
    hparams = jax.tree.map(lambda _: jnp.float32(-2.0), task.init_hparams())
    params = inputs_of(task, images).params
    scaled = dj.init_state(task.problem, hparams, params).params
    np.testing.assert_allclose(np.std(scaled["dense_0"]["kernel"]), np.exp(-2.0), rtol=0.1)
    same = dj.init_state(task.problem, task.init_hparams(), params).params
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize(
    ("granularity", "shapes"),
    [("array", {"bias": (2,), "kernel": (2,)}), ("layer", (2,)), ("global", None)],
)
def test_groups(make, granularity, shapes):
    hparams = make(granularity=granularity, blocks=2).init_hparams()
    assert set(hparams) == {"learning_rates", "momenta"}
    found = jax.tree.map(jnp.shape, hparams["momenta"])
    assert found == ((2,) if shapes is None else {"dense_0": shapes, "dense_1": shapes})
    for name, start in (("learning_rates", np.log(0.4)), ("momenta", 0.0)):
        for leaf in jax.tree.leaves(hparams[name]):
            np.testing.assert_allclose(leaf, np.full(2, start), atol=1e-6)


@pytest.mark.parametrize("outer_loss", ["training", "validation"])
def test_outer_loss_is_on_the_training_or_on_the_validation_set(make, images, outer_loss):
    inputs = inputs_of(make(outer_loss=outer_loss), images)
    is_training = np.array_equal(inputs.outer_batch.images, inputs.inner_batches.data.images)
    assert is_training == (outer_loss == "training")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": {"optimizer": {"name": "adam", "learning_rate": 0.1}}}, "learns SGD with mom"),
        ({"inner": {"optimizer": {"name": "sgd", "learning_rate": 0.1}}}, "learns SGD with mom"),
        (
            {"inner": {"optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 1.0}}},
            "inner.optimizer.momentum: must be between 2\\^-8 and 1 .* got 1.0",
        ),
        (
            {"inner": {"optimizer": {"name": "sgd", "learning_rate": 0.0, "momentum": 0.5}}},
            "inner.optimizer.learning_rate: must be positive",
        ),
        ({"task": {"tuned": []}}, "task.tuned: expected at least one of 'learning_rates'"),
        ({"task": {"tuned": ["scales"]}}, "task.tuned"),
        ({"task": {"blocks": 21}}, "task.blocks: there are 20 steps"),
        (
            {"task": {"tuned": ["initial_scales"]}, "model": {"init_log_scale": "lecun"}},
            "model.init_log_scale: initial scales are tuned from a number",
        ),
    ],
)
def test_wrong_configurations(tiny, changes, message):
    tiny["task"] = {"kind": "training"}
    for key, value in changes.items():
        tiny[key] |= value
    with pytest.raises(ConfigError, match=message):
        make_task(configs.parse(tiny))


@pytest.mark.parametrize("granularity", ["array", "layer", "global"])
def test_figures_draw_a_line_for_each_group(make, granularity):
    task = make(tuned=ALL, granularity=granularity)
    hparams = jax.tree.map(np.asarray, perturbed(task.init_hparams()))
    figures = task.figures(hparams, None)
    assert set(figures) == set(ALL)
    groups = jax.tree.leaves(hparams["learning_rates"])
    # The first line's panel is its own; the last line of each panel marks the start.
    lines = [line for axes in figures["learning_rates"].axes for line in axes.lines[:-1]]
    assert len(lines) == len(groups)
    drawn = sorted(tuple(np.asarray(line.get_ydata())) for line in lines)
    np.testing.assert_allclose(drawn, sorted(tuple(np.exp(x)) for x in groups), rtol=1e-5)
    assert len(figures["initial_scales"].axes[0].get_yticks()) == len(groups)
