import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.data import clouds, geotiff
from drmad_jax.experiments.data.clouds import CLASSES
from drmad_jax.experiments.errors import ConfigError, DatasetError
from drmad_jax.experiments.tasks import make_task, segmentation

RNG = np.random.default_rng(0)
SMALL = {
    "data": {"kind": "clouds", "patch_size": 8, "num_train": 6, "num_valid": 3, "num_test": 4},
    "model": {"kind": "pyramid", "width": 2, "dilations": [1]},
}


def make(tiny, *, data=(), **task):
    tiny = tiny | {"inner": tiny["inner"] | {"batch_size": 2}}
    changed = SMALL | {"data": SMALL["data"] | dict(data), "task": {"kind": "clouds", **task}}
    return make_task(configs.parse(tiny | changed))


@pytest.fixture(scope="module")
def patches():
    return clouds.make_splits(32, num_train=2, num_test=60).test


@pytest.fixture(scope="module")
def inputs():
    task = make(TINY)
    return jax.jit(task.sample)(jax.random.key(0), task.load_data())


def test_scenes_are_the_same_at_every_call_and_never_shared():
    first, again = (clouds.make_splits(8, num_train=3, num_test=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    images = np.concatenate([first.train.images, first.test.images])
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6


def test_clouds_are_bright_and_shadows_dark(patches):
    clear, shadow, cloud = (
        np.median(patches.images[patches.labels == index], axis=0) for index in range(3)
    )
    assert np.all(cloud > 1.5 * clear)
    assert np.all(shadow < 0.85 * clear)
    assert np.all(np.bincount(patches.labels.ravel()) > 0.05 * patches.labels.size)


def test_shadows_are_clouds_displaced():
    """At one displacement a scene's shadows coincide with its clouds, where both are in view."""
    rng = np.random.default_rng(3)
    labels = next(x for x in (clouds.make_scene(rng, 64)[1] for _ in range(99)) if covered(x))
    moves = [(i, j) for i in range(-24, 25) for j in range(-24, 25)]
    pad = lambda x: np.pad(x, 24)
    shadow, cloud, inside = pad(labels == 1), pad(labels == 2), pad(labels >= 0)

    def agreement(move):
        moved = np.roll(shadow, move, (0, 1)) & inside
        return np.sum(moved & cloud) / moved.sum() if moved.sum() > 200 else 0

    assert max(map(agreement, moves)) > 0.98


def covered(labels):
    return all(0.15 < np.mean(labels == index) < 0.6 for index in range(3))


def test_class_weights_are_relative():
    logits, labels = RNG.normal(size=(2, 4, 4, 3)), RNG.integers(-1, 3, (2, 4, 4))
    weights = jnp.array([0.3, -0.2, 1.0])
    first, second = (
        segmentation.weighted_cross_entropy(jnp.asarray(logits), labels, w)
        for w in (weights, weights + 5)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5)


@pytest.mark.parametrize("loss", [segmentation.weighted_cross_entropy, segmentation.soft_iou_loss])
def test_pixels_without_value_do_not_count(loss):
    logits, labels = jnp.asarray(RNG.normal(size=(30, 3))), RNG.integers(0, 3, 30)
    masked = labels.copy()
    masked[10:] = -1
    np.testing.assert_allclose(loss(logits, masked), loss(logits[:10], labels[:10]), rtol=1e-5)
    assert np.isfinite(loss(logits, np.full(30, -1)))


def test_scores_are_those_of_the_confusion_matrix():
    labels, found = RNG.integers(-1, 3, 500), RNG.integers(0, 3, 500)
    confusion = np.zeros((3, 3))
    np.add.at(confusion, (labels[labels >= 0], found[labels >= 0]), 1)
    scores = segmentation.scores(100 * jax.nn.one_hot(found, 3), labels, CLASSES)
    hits = np.diag(confusion)
    for name, hit, true, predicted in zip(
        CLASSES, hits, confusion.sum(1), confusion.sum(0), strict=True
    ):
        np.testing.assert_allclose(scores[f"precision_{name}"], hit / predicted, rtol=1e-5)
        np.testing.assert_allclose(scores[f"recall_{name}"], hit / true, rtol=1e-5)
        iou = hit / (true + predicted - hit)
        np.testing.assert_allclose(scores[f"iou_{name}"], iou, rtol=1e-5)
    soft = segmentation.soft_iou_loss(100 * jax.nn.one_hot(found, 3), labels)
    np.testing.assert_allclose(1 - soft, scores["mean_iou"], rtol=1e-5)


def test_only_what_is_tuned_is_a_hyperparameter(tiny):
    shapes = jax.tree.map(jnp.shape, make(tiny).init_hparams())
    layers = dict.fromkeys(["stem", "down", "scale_1", "head"], ())
    assert shapes == {
        "penalties": layers,
        "class_weights": (3,),
        "augmentation": {"brightness": (4,), "noise": (4,)},
    }
    assert set(make(tiny, tuned=["class_weights"]).init_hparams()) == {"class_weights"}


@pytest.mark.slow
def test_what_is_not_tuned_keeps_its_start(tiny, inputs):
    """Equal weights and the initial penalties, whether or not they are hyperparameters."""
    task, fixed = (
        make(tiny, initial_log_l2=-2.0),
        make(tiny, initial_log_l2=-2.0, tuned=["augmentation"]),
    )
    penalties = [
        t.problem.inner_loss.penalty(inputs.params, t.init_hparams()) for t in (task, fixed)
    ]
    assert penalties[0] == penalties[1] > 0
    logits, batch = jnp.asarray(RNG.normal(size=(2, 8, 8, 3))), inputs.inner_batches(0)
    losses = [
        t.problem.inner_loss.criterion(logits, t.init_hparams(), batch) for t in (task, fixed)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_outer_loss_takes_the_statistics_of_training(tiny, inputs):
    task = make(tiny)
    _, updated = jax.jit(task.problem.inner_loss)(
        inputs.params, task.init_hparams(), inputs.inner_batches(0),
        model_state=inputs.model_state, key=inputs.key,
    )  # fmt: skip
    outer_loss = jax.jit(task.problem.outer_loss)
    losses = [
        outer_loss(inputs.params, {}, inputs.outer_batch, model_state=state)
        for state in (inputs.model_state, updated)
    ]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_hypergradient_is_exact(tiny, inputs):
    """Through batch normalisation, random changes of bands and weighted classes."""
    task = make(tiny, initial_strength=0.2)
    grads = []
    for method in (dj.checkpointed(), dj.unrolled()):
        hypergradient = jax.jit(dj.hypergradient(task.problem, num_steps=4, method=method))
        grads.append(hypergradient(task.init_hparams(), **inputs._asdict()).grad)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-7), *grads)


@pytest.mark.slow
def test_figures(tiny):
    task = make(tiny)
    hparams = jax.tree.map(np.asarray, task.init_hparams())
    found = task.figures(hparams, task.load_data())
    assert set(found) == {"predictions", "iou", "hyperparameters"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"patch_size": 9}, "data.patch_size: expected an even number, got 9"),
        ({"num_valid": 6}, "data.num_valid: must leave training examples"),
        ({"num_valid": 5}, "inner.batch_size: must not exceed the 1 training examples"),
    ],
)
def test_wrong_data(tiny, data, message):
    with pytest.raises(ConfigError, match=message):
        make(tiny, data=data)


def test_something_is_tuned(tiny):
    with pytest.raises(ConfigError, match="task.tuned: expected at least one name"):
        make(tiny, tuned=[])


def test_needs_a_pyramid(tiny):
    config = configs.parse(tiny | {"data": SMALL["data"], "task": {"kind": "clouds"}} | {
        "inner": tiny["inner"] | {"batch_size": 2}
    })  # fmt: skip
    with pytest.raises(ConfigError, match="model.kind: task 'clouds' works with 'pyramid'"):
        make_task(config)


def write_scene(folder, name, image, mask):
    rasterio = pytest.importorskip("rasterio")
    options = {"driver": "GTiff", "height": image.shape[1], "width": image.shape[2]}
    with rasterio.open(folder / f"{name}.tif", "w", count=4, dtype="uint16", **options) as file:
        file.write(image)
    path = folder / f"{name}{geotiff.MASK_SUFFIX}.tif"
    with rasterio.open(path, "w", count=1, dtype="uint8", **options) as file:
        file.write(mask[None])


@pytest.fixture
def scenes(tmp_path):
    """Three scenes whose first band tells scene, and whose left half has no value."""
    for index in range(3):
        image = np.full((4, 16, 16), 1023, np.uint16)
        image[0] = index
        mask = np.full((16, 16), 128, np.uint8)
        mask[:, :8], mask[0, 8], mask[1, 8] = 0, 1, 255
        write_scene(tmp_path, f"scene{index}", image, mask)
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scenes_from_files(scenes):
    splits = geotiff.load_splits(scenes, 8, num_train=4, num_test=2)
    assert splits.train.images.shape == (4, 8, 8, 4) and splits.train.images.max() == 1
    np.testing.assert_allclose(splits.train.images[:, 0, 0, 0] * 1023, [0, 0, 1, 1])
    np.testing.assert_allclose(splits.test.images[:, 0, 0, 0] * 1023, [2, 2])
    counts = np.unique(splits.train.labels, return_counts=True)
    np.testing.assert_array_equal(counts, [[0, 1, 2], [2, 252, 2]])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrong_files(scenes):
    with pytest.raises(DatasetError, match="5 patches of 8 pixels asked for, 4 there"):
        geotiff.load_splits(scenes, 8, num_train=5, num_test=2)
    (scenes / f"scene0{geotiff.MASK_SUFFIX}.tif").unlink()
    with pytest.raises(DatasetError, match="scene0.tif: expected its mask beside it"):
        geotiff.load_splits(scenes, 8, num_train=4, num_test=2)
    write_scene(scenes, "scene0", np.ones((4, 16, 16)), np.full((16, 16), 7, np.uint8))
    with pytest.raises(DatasetError, match=r"expected the values 0, 1, 128 and 255, got \[7\]"):
        geotiff.load_splits(scenes, 8, num_train=4, num_test=2)


def test_no_scenes(tmp_path):
    with pytest.raises(DatasetError, match="data.folder: expected at least 2 scenes"):
        geotiff.load_splits(tmp_path, 8, num_train=1, num_test=1)


def test_files_need_rasterio(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.tif").touch()
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(DatasetError, match=r'pip install "drmad_jax\[geotiff\]"'):
        geotiff.load_splits(tmp_path, 8, num_train=1, num_test=1)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["", geotiff.MASK_SUFFIX], ids=["scene", "mask"])
def test_a_damaged_scene_is_named(scenes, suffix):
    (scenes / f"scene0{suffix}.tif").write_bytes(b"II*\0garbage")
    with pytest.raises(DatasetError, match=r"cannot read .*scene0\.tif and its mask: .*take it"):
        geotiff.load_splits(scenes, 8, num_train=4, num_test=2)
