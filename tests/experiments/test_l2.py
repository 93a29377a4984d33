import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.tasks import make_task

GRANULARITIES = ["unit", "layer", "parameter", "global"]
COORDINATES = ["penalty", "rescaled"]


def make(tiny, **task):
    return make_task(configs.parse(tiny | {"task": {"kind": "l2", **task}}))


@pytest.fixture(scope="module")
def images():
    from drmad_jax.experiments.data.datasets import load_splits

    return jax.device_put(load_splits("digits", num_train=60, num_test=40))


@pytest.mark.parametrize(
    ("granularity", "shapes"),
    [
        ("unit", {"dense_0": (64,), "dense_1": (6,)}),
        ("layer", {"dense_0": (), "dense_1": ()}),
        ("parameter", {"dense_0": (64, 6), "dense_1": (6, 10)}),
        ("global", {"all": ()}),
    ],
)
def test_shapes_of_hyperparameters(tiny, granularity, shapes):
    hparams = make(tiny, granularity=granularity).init_hparams()
    assert {name: value.shape for name, value in hparams.items()} == shapes
    assert all((value == np.float32(-4.4)).all() for value in hparams.values())


@pytest.mark.parametrize(
    ("granularity", "shapes"),
    [
        ("unit", {"conv_0": (1,), "conv_1": (2,), "dense": (12,)}),
        ("parameter", {"conv_0": (3, 3, 1, 2), "conv_1": (3, 3, 2, 3), "dense": (12, 10)}),
    ],
)
def test_shapes_of_hyperparameters_of_convolutions(tiny, granularity, shapes):
    tiny["model"] = {"kind": "conv", "channels": [2, 3]}
    hparams = make(tiny, granularity=granularity).init_hparams()
    assert {name: value.shape for name, value in hparams.items()} == shapes


@pytest.mark.slow
def test_each_weight_of_a_convolution_has_its_penalty(tiny, images):
    tiny["model"] = {"kind": "conv", "channels": [2]}
    task = make(tiny, granularity="parameter", initial_log_l2=0.0)
    params = task.sample(jax.random.key(0), images).params
    grads = jax.grad(task.problem.inner_loss.penalty, 1)(params, task.init_hparams())
    kernels = {name: layer["kernel"] for name, layer in params.items()}
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w**2, rtol=1e-5), grads, kernels)


def test_published_start_is_t_of_a_fifth(tiny):
    hparams = make(tiny, coordinates="rescaled").init_hparams()
    np.testing.assert_allclose(hparams["dense_0"], np.full(64, 0.2), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_coordinates_describe_the_same_penalty(tiny, images, granularity):
    """Penalty and outputs agree where w = z·exp(t) and log_l2 = -4 - 2t."""
    plain = make(tiny, granularity=granularity)
    rescaled = make(tiny, granularity=granularity, coordinates="rescaled")
    hparams = jax.tree.map(
        lambda x: x + jnp.linspace(-1, 1, x.size).reshape(x.shape), plain.init_hparams()
    )
    weights = plain.sample(jax.random.key(0), images).params
    t = jax.tree.map(lambda log_l2: -(4 + log_l2) / 2, hparams)

    def to_z(name, layer):
        value = t["all" if granularity == "global" else name]
        scale = jnp.exp(value[:, None] if granularity == "unit" else value)
        return layer | {"kernel": layer["kernel"] / scale}

    z = {name: to_z(name, layer) for name, layer in weights.items()}
    batch = images.test
    for task_loss, rescaled_loss in (
        (plain.problem.inner_loss, rescaled.problem.inner_loss),
        (plain.problem.outer_loss, rescaled.problem.outer_loss),
    ):
        expected = task_loss(weights, hparams, batch)
        np.testing.assert_allclose(rescaled_loss(z, t, batch), expected, rtol=1e-5)


def test_biases_are_not_penalised(tiny, images):
    task = make(tiny)
    hparams = task.init_hparams()
    params = jax.tree.map(jnp.ones_like, task.sample(jax.random.key(0), images).params)
    penalty = task.problem.inner_loss.penalty(params, hparams)
    np.testing.assert_allclose(penalty, np.exp(-4.4) * (64 * 6 + 6 * 10), rtol=1e-5)


def test_gauss_newton_can_see_the_structure(tiny):
    assert isinstance(make(tiny).problem.inner_loss, dj.CompositeLoss)


def test_split_is_fresh_complete_and_disjoint(tiny, images):
    task = make(tiny)
    sample = jax.jit(task.sample)
    first, second = (sample(jax.random.key(seed), images) for seed in (0, 1))
    rows = [
        np.concatenate([s.inner_batches.data.images, s.outer_batch.images]).reshape(60, -1)
        for s in (first, second)
    ]
    for found in rows:
        order = np.lexsort(found.T)
        pool = np.asarray(images.train.images).reshape(60, -1)
        np.testing.assert_array_equal(found[order], pool[np.lexsort(pool.T)])
    assert not np.array_equal(*rows)
    assert not np.array_equal(first.params["dense_0"]["kernel"], second.params["dense_0"]["kernel"])


def test_evaluation_counts_wrong_answers(tiny, images):
    task = make(tiny)
    params = jax.tree.map(jnp.zeros_like, task.sample(jax.random.key(0), images).params)
    params["dense_1"]["bias"] = params["dense_1"]["bias"].at[3].set(1.0)
    hparams = task.init_hparams()
    state = dj.init_state(task.problem, hparams, params)
    result = task.evaluate(state, hparams, images)
    expected = np.mean(np.asarray(images.test.labels) != 3)
    np.testing.assert_allclose(result["test_error"], expected, rtol=1e-6)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_figures_fit_the_granularity(tiny, granularity, coordinates):
    task = make(tiny, granularity=granularity, coordinates=coordinates)
    figures = task.figures(jax.tree.map(np.asarray, task.init_hparams()), task.load_data())
    per_pixel = {"input_penalties"} if granularity in ("unit", "parameter") else set()
    assert set(figures) == {"penalties_by_layer"} | per_pixel
