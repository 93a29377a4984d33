import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.data.omniglot import ALPHABETS
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.tasks import make_task, sharing

# 14, 16 and 17 characters.
NAMES = [
    "Ojibwe_(Canadian_Aboriginal_Syllabics)",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)",
    "Tagalog",
]
SIZES = np.array([14, 16, 17])
DATA = {
    "kind": "alphabets",
    "alphabets": NAMES,
    "rotated": False,
    "image_size": 3,
    "num_train": 4,
    "num_valid": 2,
    "num_test": 3,
}
NUM_STEPS = 6


@pytest.fixture(autouse=True)
def alphabets(monkeypatch):
    """Noise in the place of Omniglot."""

    def load(names, image_size):
        rng = np.random.default_rng(0)
        shapes = [(ALPHABETS[name], 20, image_size, image_size) for name in names]
        return [rng.random(shape, np.float32) for shape in shapes]

    monkeypatch.setattr(sharing, "load_alphabets", load)


@pytest.fixture
def make(tiny):
    def make(data=None, batch_size=4, **task):
        inner = {"num_steps": NUM_STEPS, "batch_size": batch_size}
        changes = {"data": DATA | (data or {}), "task": {"kind": "sharing", **task}}
        return make_task(configs.parse(tiny | changes | {"inner": tiny["inner"] | inner}))

    return make


def sample(task):
    return jax.jit(task.sample)(jax.random.key(0), task.load_data())


def test_networks_on_their_own_do_not_see_each_other(make):
    task = make(initial_sharing=0.0)
    inputs, hparams = sample(task), task.init_hparams()
    predict = task.problem.inner_loss.predict
    moved = jax.tree.map(lambda z: z.at[1].add(1.0), inputs.params)
    before, after = (predict(z, hparams, inputs.outer_batch) for z in (inputs.params, moved))
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert not np.allclose(before[:, 1], after[:, 1])


def test_networks_with_everything_in_common_are_one(make):
    task = make(initial_sharing=1.0)
    inputs, hparams = sample(task), task.init_hparams()
    same = jnp.broadcast_to(inputs.outer_batch[:, :1], inputs.outer_batch.shape)
    logits = task.problem.inner_loss.predict(inputs.params, hparams, same)
    np.testing.assert_allclose(logits[:, 1], logits[:, 0], rtol=1e-4, atol=1e-5)


def test_losses_are_means_over_the_characters_that_there_are(make):
    task = make()
    inputs, hparams = sample(task), task.init_hparams()
    batch, problem = inputs.outer_batch, task.problem
    logits = problem.inner_loss.predict(inputs.params, hparams, batch)
    cross_entropy = jax.vmap(optax.softmax_cross_entropy_with_integer_labels, in_axes=(0, None))
    of_alphabet = [
        cross_entropy(logits[:, a, :n], jnp.arange(n)).mean() for a, n in enumerate(SIZES)
    ]
    found = problem.outer_loss(inputs.params, hparams, batch)
    np.testing.assert_allclose(found, np.mean(of_alphabet), rtol=1e-5)
    inner = problem.inner_loss(inputs.params, hparams, batch)
    squares = sum(float(jnp.sum(z**2)) for z in jax.tree.leaves(inputs.params))
    np.testing.assert_allclose(inner, np.sum(of_alphabet) + np.exp(-4) * squares, rtol=1e-5)
    noise = batch.at[:, 0, SIZES[0] :].set(7.0)
    assert problem.outer_loss(inputs.params, hparams, noise) == found


def test_evaluation_takes_the_test_drawings(make):
    task = make()
    data, hparams = task.load_data(), task.init_hparams()
    params = jax.tree.map(jnp.zeros_like, sample(task).params)
    params["dense_1"]["bias"] = params["dense_1"]["bias"].at[:, 2].set(1.0)
    result = task.evaluate(dj.init_state(task.problem, hparams, params), hparams, data)
    assert data.test.shape == (3, 3, 17, 9)
    np.testing.assert_allclose(result["test_error"], np.mean(1 - 1 / SIZES), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_training_loss_takes_all_training_drawings(make, batch_size):
    task = make(batch_size=batch_size)
    inputs, hparams = sample(task), task.init_hparams()
    state = dj.init_state(task.problem, hparams, inputs.params)
    result = task.evaluate_fresh(inputs, state, hparams, task.load_data())
    train = inputs.inner_batches.data
    assert train.shape == (4, 3, 17, 9)
    assert not np.isin(train[:, 0, 0, 0], inputs.outer_batch[:, 0, 0, 0]).any()
    expected = task.problem.outer_loss(inputs.params, hparams, train)
    np.testing.assert_allclose(result["train_loss"], expected, rtol=1e-6)


def hypergradient(task, method):
    compute = dj.hypergradient(task.problem, num_steps=NUM_STEPS, method=method)
    inputs = sample(task)
    given = inputs.params, inputs.inner_batches, inputs.outer_batch
    compiled = jax.jit(compute)
    return lambda hparams: compiled(hparams, *given)


@pytest.mark.slow
def test_hypergradient_is_the_slope_of_the_validation_loss(make):
    task = make(data={"alphabets": NAMES[:2]})
    compute, hparams = hypergradient(task, dj.checkpointed()), task.init_hparams()
    grad = compute(hparams).grad
    step = 0.02 / optax.tree.norm(grad)
    above, below = (
        compute(jax.tree.map(lambda h, g, sign=sign: h + sign * step * g, hparams, grad)).value
        for sign in (1, -1)
    )
    slope = (above - below) / (2 * step)
    np.testing.assert_allclose(optax.tree.norm(grad) ** 2, slope, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["checkpointed", "forward"])
def test_hypergradients_are_exact(make, method):
    task = make(data={"alphabets": NAMES[:2]})
    hparams = task.init_hparams()
    found, expected = (
        hypergradient(task, getattr(dj, name)())(hparams).grad for name in (method, "unrolled")
    )
    for layer in hparams:
        largest = float(jnp.abs(expected[layer]).max())
        np.testing.assert_allclose(found[layer], expected[layer], atol=1e-4 * largest)


def test_every_character_keeps_its_drawings(make):
    """Each is split anew, completely and disjointly, and none goes to another character."""
    task = make()
    data = task.load_data()
    inputs = jax.jit(task.sample)(jax.random.key(0), data)
    found = np.concatenate([inputs.inner_batches(0), inputs.outer_batch])
    # The first pixel tells noise apart.
    np.testing.assert_array_equal(
        np.sort(found[..., 0], axis=0), np.sort(data.train[..., 0], axis=0)
    )
    orders = np.argsort(np.argsort(found[..., 0], axis=0), axis=0)
    assert (orders != orders[:, :1, :1]).any()
    assert not np.isin(data.test[:, 0, 0, 0], found[:, 0, 0, 0]).any()


def test_turned_alphabets_come_after_the_others(make):
    test = make({"rotated": True}).load_data().test
    assert test.shape == (3, 6, 17, 9)
    # The mean image, which is not turned, is not in the difference of two drawings.
    plain, turned = np.split(np.asarray(test[1] - test[0]).reshape(6, 17, 3, 3), 2)
    np.testing.assert_allclose(turned, np.rot90(plain, axes=(2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("data", "task", "message"),
    [
        ({"alphabets": ["Greec"]}, {}, "unknown alphabet 'Greec'; did you mean Greek?"),
        ({"alphabets": ["Greek", "Greek"]}, {}, "expected different names"),
        ({"num_train": 16}, {}, "there are 20 drawings of a character, got 21"),
        ({"num_train": 3}, {}, "inner.batch_size: must not exceed data.num_train = 3"),
        ({"image_size": 106}, {}, "data.image_size: expected at most 105"),
        ({}, {"initial_sharing": [1.0]}, "one for each of the 2 layers .* got \\[1.0\\]"),
    ],
)
def test_wrong_configurations(make, data, task, message):
    with pytest.raises(ConfigError, match=message):
        make(data, **task)


def test_images_are_no_alphabets(tiny):
    with pytest.raises(ConfigError, match="data.kind: task 'sharing' works with 'alphabets'"):
        make_task(configs.parse(tiny | {"task": {"kind": "sharing"}}))


def test_figures_show_correlations_of_mixed_weights(make):
    task = make(initial_sharing=[0.5, 0.0])
    figures = task.figures(jax.tree.map(np.asarray, task.init_hparams()), task.load_data())
    assert set(figures) == {"sharing", "alphabets"}
    shared, separate = (axes.images[0].get_array() for axes in figures["sharing"].axes[:2])
    np.testing.assert_allclose(separate, np.eye(3), atol=1e-6)
    # S Sᵀ of S = 1/2 + 1/6: 1/4 + 1/4 on the diagonal's share, 1/4 beside it.
    matrix = 0.5 * np.eye(3) + 0.5 / 3
    expected = (matrix @ matrix)[0, 1] / (matrix @ matrix)[0, 0]
    np.testing.assert_allclose(shared[0, 1], expected, rtol=1e-5)
