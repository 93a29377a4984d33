import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.runs.outer_step import init_carry, make_outer_step, outer_key
from drmad_jax.experiments.tasks import make_task
from drmad_jax.experiments.tasks.learned_data import draw_per_class


def parse(tiny, *, tuned=True, batch_size=10, **task):
    changes = {
        "data": {"dataset": "digits", "num_train": 200, "num_valid": 100, "num_test": 100},
        "model": {"hidden": [], "init_log_scale": -3.0},
        "task": {"kind": "learned_data", **task},
        "method": {"name": "stored"},
    }
    table = tiny | changes
    table["inner"] |= {"batch_size": batch_size}
    table["outer"] |= {"num_steps": 3 if tuned else 0}
    return configs.parse(table)


@pytest.fixture
def task(tiny):
    return make_task(parse(tiny))


@pytest.fixture(scope="module")
def data():
    from tiny import TINY

    return make_task(parse(dict(TINY))).load_data()


def trained_on(task, data, seed=0):
    """The images and labels of the batch that a run trains on."""
    inputs = task.sample(jax.random.key(seed), data)
    batch = inputs.inner_batches(0)
    hparams = task.init_hparams()
    learned = hparams["images"].reshape(-1, 8, 8, 1)[batch.rows]
    return np.asarray(batch.start + learned), np.asarray(batch.labels)


def test_begins_blank_with_one_image_of_each_class(task, data):
    images, labels = trained_on(task, data)
    assert images.shape == (10, 8, 8, 1) and not images.any()
    np.testing.assert_array_equal(labels, np.arange(10))


def test_means_are_those_of_the_classes(tiny, data):
    images, labels = trained_on(make_task(parse(tiny, start="means")), data)
    pool = jax.tree.map(np.asarray, data.pool)
    expected = [pool.images[pool.labels == label].mean(axis=0) for label in labels]
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_real_images_are_of_their_class_and_drawn_anew(tiny, data):
    config = parse(tiny, start="real", images_per_class=2, batch_size=20, tuned=False)
    task = make_task(config)
    pool_images, pool_labels = map(np.asarray, data.pool)
    pool = dict(zip((image.tobytes() for image in pool_images), pool_labels, strict=True))
    draws = [trained_on(task, data, seed) for seed in (0, 1)]
    for seed, (images, labels) in enumerate(draws):
        np.testing.assert_array_equal(labels, np.arange(10).repeat(2))
        assert [pool[image.tobytes()] for image in images] == labels.tolist()
        assert len({image.tobytes() for image in images}) == 20
        valid = task.sample(jax.random.key(seed), data).outer_batch.images
        held_out = {image.tobytes() for image in np.asarray(valid)}
        assert not held_out & {image.tobytes() for image in images}
    assert not np.array_equal(draws[0][0], draws[1][0])


def test_draws_every_example_of_a_class_where_all_are_asked_for():
    labels = jnp.array([1, 0, 1, 0, 1, 0])
    rows = draw_per_class(jax.random.key(0), labels, 2, 3)
    np.testing.assert_array_equal(np.sort(rows), [[1, 3, 5], [0, 2, 4]])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["blank", "means"])
def test_hypergradient_is_that_of_the_unrolled_loop(tiny, data, start):
    task = make_task(parse(tiny, start=start))
    inputs = task.sample(jax.random.key(0), data)

    def grad(method):
        hypergradient = dj.hypergradient(task.problem, num_steps=10, method=method)
        arguments = inputs.params, inputs.inner_batches, inputs.outer_batch
        return jax.jit(hypergradient)(task.init_hparams(), *arguments).grad["images"]

    expected = grad(dj.unrolled())
    assert jnp.abs(expected).max() > 1e-3
    np.testing.assert_allclose(grad(dj.checkpointed()), expected, rtol=1e-4, atol=1e-6)


def test_learning_from_means_is_learning_shifted_blanks(tiny, data):
    """Means at no change and blanks changed by the means are the same training set."""
    blank, means = (make_task(parse(tiny, start=start)) for start in ("blank", "means"))
    losses = []
    for task, hparams in ((blank, {"images": data.means[:, None]}), (means, means.init_hparams())):
        inputs = task.sample(jax.random.key(0), data)
        batch = inputs.inner_batches(0)
        losses.append(task.problem.inner_loss(inputs.params, hparams, batch))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.slow
def test_learning_lowers_the_loss_on_real_images(tiny, data):
    config = parse(tiny)
    task = make_task(config)
    carry = init_carry(config, task)
    outer_step = jax.jit(make_outer_step(config, task))
    losses = []
    for step in range(12):
        carry, metrics = outer_step(carry, outer_key(config, step), data)
        losses.append(float(metrics["outer_loss"]))
    assert losses[-1] < 0.8 * losses[0]


def test_real_images_cannot_be_tuned(tiny):
    with pytest.raises(ConfigError, match=r"task\.start: 'real' images are drawn anew.*num_steps"):
        make_task(parse(tiny, start="real"))


def test_images_that_stay_alike_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"task\.noise: images of one class that begin alike"):
        make_task(parse(tiny, images_per_class=2))


@pytest.mark.slow
def test_without_noise_the_images_of_a_class_have_the_same_hypergradient(tiny, data):
    task = make_task(parse(tiny, images_per_class=2, batch_size=20, tuned=False))
    hypergradient = dj.hypergradient(task.problem, num_steps=5, method=dj.stored())
    inputs = task.sample(jax.random.key(0), data)
    arguments = task.init_hparams(), inputs.params, inputs.inner_batches, inputs.outer_batch
    grad = jax.jit(hypergradient)(*arguments).grad["images"]
    np.testing.assert_allclose(grad[:, 0], grad[:, 1], rtol=1e-4, atol=1e-6)


def test_batch_must_not_exceed_the_images(tiny):
    with pytest.raises(ConfigError, match=r"inner\.batch_size: must not exceed the 10 training"):
        make_task(parse(tiny, batch_size=20))


@pytest.mark.parametrize("per_class", [1, 3])
def test_figure(tiny, data, per_class):
    task = make_task(parse(tiny, images_per_class=per_class, noise=0.1))
    figures = task.figures(jax.tree.map(np.asarray, task.init_hparams()), data)
    labels = [text.get_text() for axes in figures["learned_images"].axes for text in axes.texts]
    assert labels == [str(number) for number in range(10)]
