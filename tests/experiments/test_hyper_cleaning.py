import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.runs.judge import fresh_key, make_trial
from drmad_jax.experiments.runs.outer_step import init_carry, make_outer_step, outer_key
from drmad_jax.experiments.tasks import make_task
from drmad_jax.experiments.tasks.hyper_cleaning import retrieval
from drmad_jax.experiments.tasks.projections import capped_simplex

BUDGET = 12.0
project = jax.jit(capped_simplex)


def parse(tiny, *, seed=3, batch_size=30, **task):
    changes = {
        "seed": seed,
        "model": {"hidden": [], "init_log_scale": -3.0},
        "task": {"kind": "hyper_cleaning", "budget": BUDGET, **task},
        "method": {"name": "stored"},
    }
    table = tiny | changes
    table["inner"] |= {"batch_size": batch_size, "optimizer": {"name": "sgd", "learning_rate": 0.3}}
    return configs.parse(table)


@pytest.fixture
def config(tiny):
    return parse(tiny)


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6),
    st.floats(0.125, 7, width=32),
)
@settings(max_examples=60, deadline=None)
def test_projection_solves_for_the_shift(values, total):
    """Against a root finder on the sum, which falls with the shift."""
    values = np.array(values, np.float32)
    found = np.asarray(project(values, total))
    excess = lambda shift: np.clip(values - shift, 0, 1).sum() - total
    shift = 0 if excess(0) <= 0 else brentq(excess, 0, 4)
    np.testing.assert_allclose(found, np.clip(values - shift, 0, 1), atol=1e-5)


def test_projection_of_many_values_keeps_the_sum():
    values = np.random.default_rng(0).normal(0.5, 1, 5000).astype(np.float32)
    found = project(values, 1500.0)
    np.testing.assert_allclose(found.sum(), 1500, rtol=1e-5)
    np.testing.assert_allclose(project(found, 1500.0), found, atol=1e-5)


def test_box_after_simplex_is_not_the_nearest_point():
    values, total = jnp.array([3.0, 0.8, 0.5]), 1.5
    nearest = project(values, total)
    other = optax.projections.projection_box(
        optax.projections.projection_l1_ball(values, total), 0.0, 1.0
    )
    assert jnp.linalg.norm(nearest - values) < jnp.linalg.norm(other - values) - 0.05


def test_wrong_labels_are_other_labels_of_the_first_half(config):
    data = make_task(config).load_data()
    wrong = np.asarray(data.train.labels != data.true_labels)
    np.testing.assert_array_equal(wrong, np.arange(30) < 15)
    assert ((data.train.labels >= 0) & (data.train.labels < 10)).all()


def test_split_follows_from_the_seed_alone(tiny, config):
    data, again = (make_task(config).load_data() for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, data, again)
    other = make_task(parse(tiny, seed=4)).load_data()
    assert not np.array_equal(data.train.images, other.train.images)


def test_outer_steps_differ_in_initial_weights_alone(config):
    task = make_task(config)
    data = task.load_data()
    first, second = (task.sample(jax.random.key(seed), data) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, first.inner_batches, second.inner_batches)
    jax.tree.map(np.testing.assert_array_equal, first.outer_batch, second.outer_batch)
    assert not np.array_equal(first.params["dense_0"]["kernel"], second.params["dense_0"]["kernel"])


def test_full_batch_and_minibatches(tiny, config):
    task = make_task(config)
    data = task.load_data()
    batch = task.sample(jax.random.key(0), data).inner_batches(7)
    np.testing.assert_array_equal(batch.rows, np.arange(30))
    fewer = make_task(parse(tiny, batch_size=10))
    batch = fewer.sample(jax.random.key(0), data).inner_batches(7)
    assert batch.labels.shape == (10,)
    np.testing.assert_array_equal(batch.labels, data.train.labels[batch.rows])


def test_oracle_starts_from_the_clean_examples(tiny, config):
    even = make_task(config).init_hparams()["weights"]
    np.testing.assert_allclose(even, BUDGET / 30, rtol=1e-5)
    oracle = make_task(parse(tiny, start="oracle", budget=30)).init_hparams()["weights"]
    np.testing.assert_array_equal(oracle, np.arange(30) >= 15)


def test_weights_of_zero_and_one_choose_examples(config):
    """The weighted loss is the mean over kept examples times their share."""
    task = make_task(config)
    data = task.load_data()
    inputs = task.sample(jax.random.key(0), data)
    kept = jnp.arange(30) % 3 == 0
    batch = inputs.inner_batches(0)
    loss = task.problem.inner_loss(inputs.params, {"weights": kept.astype(jnp.float32)}, batch)
    subset = jax.tree.map(lambda x: x[kept], batch)
    expected = task.problem.outer_loss(inputs.params, {}, subset) / 3
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("method", [dj.checkpointed(), dj.drmad(knots=21, curvature="hessian")])
def test_hypergradient_is_that_of_the_unrolled_loop(config, method):
    task = make_task(config)
    data = task.load_data()
    inputs = task.sample(jax.random.key(0), data)
    arguments = inputs.params, inputs.inner_batches, inputs.outer_batch

    def grad(method):
        hypergradient = dj.hypergradient(task.problem, num_steps=20, method=method)
        return jax.jit(hypergradient)(task.init_hparams(), *arguments).grad["weights"]

    np.testing.assert_allclose(grad(method), grad(dj.unrolled()), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_tuning_finds_wrong_labels_within_the_budget(tiny):
    tiny["data"] |= {"num_train": 300, "num_valid": 200}
    config = parse(tiny, budget=30, batch_size=100)
    task = make_task(config)
    data = task.load_data()
    carry = init_carry(config, task)
    outer_step = jax.jit(make_outer_step(config, task))
    for step in range(15):
        carry, metrics = outer_step(carry, outer_key(config, step), data)
        weights = carry.hparams["weights"]
        assert weights.min() >= 0 and weights.max() <= 1 and weights.sum() <= 30.001
    assert metrics["f1"] > 0.8


def test_retraining_after_throwing_out_is_retraining_without(config):
    """What was thrown out has no influence, whatever its label and the weights of the others."""
    task = make_task(config)
    data = task.load_data()
    trial = jax.jit(make_trial(config, task))
    oracle = (jnp.arange(30) >= 15).astype(jnp.float32)
    clean = data._replace(train=data.train._replace(labels=data.true_labels))
    errors = [
        trial({"weights": weights}, fresh_key(config, 0), given)["retrained_error"]
        for weights, given in ((oracle, data), (0.3 * oracle, data), (oracle, clean))
    ]
    assert errors[0] == errors[1] == errors[2]


def test_retrieval():
    found, wanted = jnp.array([1, 1, 1, 0, 0], bool), jnp.array([1, 0, 0, 1, 0], bool)
    scores = {name: float(value) for name, value in retrieval(found, wanted).items()}
    assert scores == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5})
    nothing = retrieval(jnp.zeros(5, bool), wanted)
    assert all(value == 0 for value in nothing.values())


def test_share_above_one_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"task\.corrupted: expected a share of at most 1"):
        make_task(parse(tiny, corrupted=1.5))


@pytest.mark.parametrize("values", [np.full(30, 0.4), np.zeros(30), np.linspace(0, 1, 30)])
def test_figures(config, values):
    task = make_task(config)
    figures = task.figures({"weights": values.astype(np.float32)}, task.load_data())
    assert set(figures) == {"weights", "precision_recall", "found"}
