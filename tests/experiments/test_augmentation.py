import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.data.augmentations import _hole, _warp, augment
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.tasks import augmentation, make_task
from drmad_jax.experiments.tasks.augmentation import AugmentationConfig

STRENGTHS = ("shift", "rotation", "zoom", "contrast", "brightness", "noise", "cutout")
KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(size=(3, 9, 9, 2)).astype(np.float32)


def make(tiny, **task):
    model = {"kind": "conv", "channels": [3]}
    return make_task(
        configs.parse(tiny | {"task": {"kind": "augmentation", **task}, "model": model})
    )


@pytest.fixture(scope="module")
def images():
    from drmad_jax.experiments.data.datasets import load_splits

    return jax.device_put(load_splits("digits", num_train=60, num_test=40))


@pytest.mark.parametrize("name", STRENGTHS)
def test_strength_of_zero_changes_nothing(name):
    changed = augment(KEY, IMAGES, {name: jnp.float32(0)})
    np.testing.assert_allclose(changed, IMAGES, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRENGTHS)
def test_every_image_is_changed_in_its_own_way(name):
    same = jnp.broadcast_to(IMAGES[:1], (2, 9, 9, 2))
    first, second = augment(KEY, same, {name: jnp.float32(0.3)})
    assert np.abs(first - same[0]).max() > 1e-3
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", STRENGTHS)
def test_derivative_in_the_strength(name):
    weights = jax.random.normal(jax.random.key(2), IMAGES.shape)
    with jax.enable_x64(True):
        images, weights = (jnp.asarray(x, jnp.float64) for x in (IMAGES, weights))
        function = lambda s: jnp.sum(weights * augment(KEY, images, {name: s}))
        at, h = jnp.float64(0.137), 1e-6
        expected = (function(at + h) - function(at - h)) / (2 * h)
        np.testing.assert_allclose(jax.grad(function)(at), expected, rtol=1e-5, atol=1e-7)


def test_everything_can_be_tuned():
    assert set(AugmentationConfig().tuned) == {*STRENGTHS, "smoothing"}


def test_whole_pixels_are_moved():
    shift = jnp.array([[2.0], [-1.0]]) / 9
    moved = _warp(IMAGES[:1], shift, jnp.zeros(1), jnp.ones(1))
    np.testing.assert_allclose(moved[:, 2:, :-1], IMAGES[:1, :-2, 1:], atol=1e-5)
    assert not np.any(moved[:, :2] > 1e-5) and not np.any(moved[:, :, -1] > 1e-5)


def test_quarter_turn():
    turned = _warp(IMAGES[:1], jnp.zeros((2, 1)), jnp.full(1, np.pi / 2), jnp.ones(1))
    np.testing.assert_allclose(turned, np.rot90(IMAGES[:1], -1, axes=(1, 2)), atol=1e-4)


def test_hole_has_the_area_asked_for():
    hole = _hole((9, 9), jnp.array([[0.13], [-0.2]]), jnp.float32(0.41))
    np.testing.assert_allclose(hole.sum(), (0.41 * 9) ** 2, rtol=1e-5)


def test_smoothed_loss_is_that_of_smoothed_labels(images):
    logits = jax.random.normal(KEY, (40, 10))
    share = augmentation.STRENGTH_TRANSFORM.unconstrain(jnp.float32(0.3))
    found = augmentation.smoothed_cross_entropy(logits, {"smoothing": share}, images.test)
    labels = 0.7 * jax.nn.one_hot(images.test.labels, 10) + 0.03
    expected = -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_hypergradient_is_exact(tiny, images):
    """The strengths act through random draws, which the way back must repeat."""
    task = make(tiny, initial=0.1, tuned=["rotation", "noise", "cutout", "smoothing"])
    inputs = jax.jit(task.sample)(KEY, images)
    grads = {}
    for name, method in {"exact": dj.checkpointed(), "oracle": dj.unrolled()}.items():
        hypergradient = jax.jit(dj.hypergradient(task.problem, num_steps=6, method=method))
        out = hypergradient(
            task.init_hparams(), inputs.params, inputs.inner_batches, inputs.outer_batch,
            key=inputs.key,
        )  # fmt: skip
        grads[name] = out.grad
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), *grads.values())
    assert all(value != 0 for value in grads["oracle"].values())


@pytest.mark.slow
def test_outer_loss_sees_plain_images(tiny, images):
    task = make(tiny, initial=0.9)
    params = task.sample(KEY, images).params
    weak = jax.tree.map(lambda x: x - 10, task.init_hparams())
    losses = [task.problem.outer_loss(params, h, images.test) for h in (weak, task.init_hparams())]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_only_what_is_tuned_has_a_figure(tiny):
    task = make(tiny, tuned=["smoothing"])
    assert set(task.init_hparams()) == {"smoothing"}
    hparams = jax.tree.map(np.asarray, task.init_hparams())
    assert set(task.figures(hparams, task.load_data())) == {"strengths"}
    task = make(tiny, tuned=["noise"])
    hparams = jax.tree.map(np.asarray, task.init_hparams())
    assert set(task.figures(hparams, task.load_data())) == {"strengths", "augmented_images"}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"tuned": ["flip"]}, r"task.tuned\[0\]: expected one of"),
        ({"tuned": []}, "task.tuned: expected at least one name"),
        ({"tuned": ["noise", "noise"]}, "task.tuned: 'noise' is there twice"),
        ({"initial": 1.0}, "task.initial: expected a value below 1, got 1.0"),
    ],
)
def test_wrong_task(tiny, task, message):
    with pytest.raises(ConfigError, match=message):
        make(tiny, **task)


def test_needs_a_convolutional_network(tiny):
    config = configs.parse(tiny | {"task": {"kind": "augmentation"}})
    with pytest.raises(ConfigError, match="model.kind: task 'augmentation' works with 'conv'"):
        make_task(config)
