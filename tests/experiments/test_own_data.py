"""Data of one's own: arrays, pictures, and any data set of TensorFlow Datasets."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_datasets import needs_mnist
from tiny import without_seconds

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.data import datasets
from drmad_jax.experiments.errors import ConfigError, DatasetError
from drmad_jax.experiments.runs.draw import draw
from drmad_jax.experiments.runs.loop import run

SIZES = {"num_train": 60, "num_valid": 30, "num_test": 40}


def section(tiny, **data):
    """The section `[data]` of a tiny config with this in it."""
    return configs.parse(tiny | {"data": SIZES | data}).data


@pytest.fixture
def digits():
    return datasets.load_splits("digits", num_train=120, num_test=50)


@pytest.fixture
def archive(tmp_path, digits):
    """An .npz file with bytes, sorted by label as files often are; returns its arrays."""
    order = np.argsort(digits.train.labels)
    arrays = {
        "x_train": (digits.train.images[order, ..., 0] * 255).astype(np.uint8),
        "y_train": digits.train.labels[order].astype(np.int64),
        "x_test": (digits.test.images[..., 0] * 255).astype(np.uint8),
        "y_test": digits.test.labels.astype(np.int64),
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    return arrays


@pytest.fixture
def pictures(tmp_path, digits):
    """A folder with a sub-folder for each class."""
    for number, (image, label) in enumerate(zip(*digits.train, strict=True)):
        place = tmp_path / "pictures" / f"digit {label}"
        place.mkdir(parents=True, exist_ok=True)
        array = (image[..., 0] * 255).astype(np.uint8)
        Image.fromarray(array).save(place / f"{number}.png")
    return tmp_path / "pictures"


def test_images_of_a_file(tiny, tmp_path, archive):
    data = section(tiny, file=str(tmp_path / "mine.npz"))
    assert data.spec == datasets.DatasetSpec((8, 8, 1), 10, num_train=120, num_test=50)
    train, test = data.load()
    assert train.images.shape == (60, 8, 8, 1) and test.images.shape == (40, 8, 8, 1)
    assert train.images.dtype == np.float32 and train.labels.dtype == np.int32
    # Sorted in the file, and drawn from all classes here.
    assert len(set(train.labels)) == 10
    rows = {
        row.tobytes(): label
        for row, label in zip(archive["x_train"], archive["y_train"], strict=True)
    }
    for image, label in zip(train.images, train.labels, strict=True):
        assert rows[np.rint(image[..., 0] * 255).astype(np.uint8).tobytes()] == label
    np.testing.assert_array_equal(data.load().train.images, train.images)


def test_file_without_test_examples_and_with_other_names(tiny, tmp_path):
    pixels = np.random.default_rng(0).normal(size=(100, 5))
    np.savez(tmp_path / "a.npz", features=pixels, target=np.arange(100) % 3)
    names = ["features", "target", "none", "no"]
    data = section(tiny, file=str(tmp_path / "a.npz"), arrays=names)
    train, test = data.load()
    assert data.spec.image_shape == (1, 5, 1) and data.spec.num_classes == 3
    both = np.concatenate([train.images, test.images])[:, 0, :, 0]
    assert len(np.unique(both, axis=0)) == 100
    rows = {row.tobytes() for row in pixels.astype(np.float32)}
    assert {row.tobytes() for row in both} == rows
    with pytest.raises(DatasetError, match=r"110 examples asked for \(data.num_train \+ data"):
        section(tiny, file=str(tmp_path / "a.npz"), arrays=names, num_test=50).load()


WRONG = {
    "names": ({"images": np.zeros((9, 2))}, r"no array 'x_train'; it has images \(data\.arrays"),
    "half": ({"x_train": np.zeros((9, 2)), "y_train": np.zeros(9, int), "x_test": 0}, r"'y_test'"),
    "shape": ({"x_train": np.zeros(9), "y_train": np.zeros(9, int)}, r"expected x_train to be num"),
    "count": ({"x_train": np.zeros((9, 2)), "y_train": np.zeros(8, int)}, r"expected y_train to"),
    "floats": ({"x_train": np.zeros((9, 2)), "y_train": np.zeros(9)}, r"got float64 of shape"),
    "negative": ({"x_train": np.zeros((9, 2)), "y_train": np.full(9, -1)}, r"class numbers from 0"),
    "nan": ({"x_train": np.full((9, 2), np.nan), "y_train": np.zeros(9, int)}, r"not finite"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_file_is_named(tiny, tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DatasetError, match=f"data.file: {tmp_path}.*{message}"):
        section(tiny, file=str(tmp_path / "a.npz")).load()


def test_files_that_are_none_and_pickles_are_refused(tiny, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "a.npz", x_train=np.array([Trap()], object), y_train=np.zeros(1, int))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.npz", "c.npz"):
        with pytest.raises(DatasetError, match=f"data.file: .*{name}"):
            section(tiny, file=str(tmp_path / name)).load()
    assert not (tmp_path / "sprung").exists()


def test_pictures_in_a_folder(tiny, pictures, digits):
    data = section(tiny, folder=str(pictures), grey=True)
    assert data.spec.image_shape == (8, 8, 1) and data.spec.num_classes == 10
    train, test = data.load()
    assert len(train.labels) == 60 and len(test.labels) == 40
    known = {
        np.rint(image * 255).astype(np.uint8).tobytes(): label
        for image, label in zip(*digits.train, strict=True)
    }
    for image, label in (*zip(*train, strict=True), *zip(*test, strict=True)):
        # It was written with its fraction cut off.
        nearest = min(
            known, key=lambda k: np.abs(np.frombuffer(k, np.uint8) - 255.0 * image.ravel()).max()
        )
        assert known[nearest] == label
    coloured = section(tiny, folder=str(pictures), image_size=5)
    assert coloured.load().train.images.shape == (60, 5, 5, 3)


def test_pictures_set_apart_to_test_with(tiny, pictures, tmp_path):
    (tmp_path / "set").mkdir()
    pictures.rename(tmp_path / "set" / "train")
    folder = tmp_path / "set"
    with pytest.raises(DatasetError, match="expected both 'train' and 'test'"):
        section(tiny, folder=str(folder)).load()
    for name in range(10):
        (folder / "test" / f"digit {name}").mkdir(parents=True)
        black = Image.fromarray(np.zeros((8, 8), np.uint8))
        for number in range(4):
            black.save(folder / "test" / f"digit {name}" / f"{number}.bmp")
    train, test = section(tiny, folder=str(folder), grey=True).load()
    assert train.images.max() > 0 and not test.images.any()
    assert sorted(test.labels) == sorted([*range(10)] * 4)
    (folder / "test" / "digit 9").rename(folder / "test" / "digit x")
    with pytest.raises(DatasetError, match="the same classes to train and to test with"):
        section(tiny, folder=str(folder)).load()


def test_what_is_wrong_with_a_folder_is_named(tiny, pictures):
    with pytest.raises(DatasetError, match="data.folder: there is no folder"):
        section(tiny, folder=str(pictures / "none")).load()
    with pytest.raises(DatasetError, match="data.folder: expected a sub-folder of .* for each"):
        section(tiny, folder=str(pictures / "digit 0")).load()
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(pictures / "digit 3" / "odd.png")
    with pytest.raises(DatasetError, match="of several sizes; say by data.image_size"):
        section(tiny, folder=str(pictures)).load()
    (pictures / "digit 3" / "odd.png").write_text("no picture")
    with pytest.raises(DatasetError, match=r"cannot read the picture .*odd\.png"):
        section(tiny, folder=str(pictures), image_size=8).load()
    (pictures / "digit 3" / "odd.png").unlink()
    (pictures / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty holds no pictures; expected \.png"):
        section(tiny, folder=str(pictures), image_size=8).load()


@pytest.fixture
def other_name(tmp_path, monkeypatch):
    """A prepared data set under a name that nothing here knows."""
    source = Path(os.environ["TFDS_DATA_DIR"]) / "fashion_mnist" / "3.0.1"
    (tmp_path / "tfds" / "clothes").mkdir(parents=True)
    (tmp_path / "tfds" / "clothes" / "3.0.1").symlink_to(source)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


@needs_mnist
@pytest.mark.slow
def test_any_data_set_of_images_with_classes(tiny, other_name, monkeypatch):
    data = section(tiny, dataset="clothes")
    assert data.spec == datasets.DatasetSpec((28, 28, 1), 10, 60_000, 10_000)
    found = data.load()
    small = section(tiny, dataset="clothes", image_size=7)
    assert small.spec.image_shape == small.load().test.images.shape[1:] == (7, 7, 1)
    with pytest.raises(DatasetError, match="clothes: 10001 test examples asked for, 10000 there"):
        section(tiny, dataset="clothes", num_test=10_001).load()
    monkeypatch.undo()
    known = section(tiny, dataset="fashion_mnist").load()
    for one, other in zip(found, known, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_data_sets_that_are_not_there_are_told_apart(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"data\.dataset: expected 'digits' or .*'mnits'; .*'mnist'"
    ):
        section(tiny, dataset="mnits").load()
    with pytest.raises(
        DatasetError, match="(?s)kmnist is not prepared in .*drmad-jax prepare kmnist"
    ):
        _ = section(tiny, dataset="kmnist").spec
    damaged = tmp_path / "kmnist" / "3.0.1"
    damaged.mkdir(parents=True)
    (damaged / "dataset_info.json").write_text("{")
    with pytest.raises(DatasetError, match=f"(?s)cannot read {damaged}: .*prepare kmnist"):
        section(tiny, dataset="kmnist").load()


@pytest.mark.slow
def test_built_in_tasks_on_data_of_ones_own(tiny, tmp_path, archive, pictures, monkeypatch):
    text = configs.to_toml(configs.parse(tiny))
    for name, line in (
        ("file", 'file = "mine.npz"'),
        ("folder", 'folder = "pictures"\ngrey = true'),
    ):
        path = tmp_path / f"{name}.toml"
        path.write_text(text.replace('dataset = "digits"', line))
        monkeypatch.chdir("/")
        assert main(["run", str(path), "--out", str(tmp_path / name)]) == 0
        assert main(["run", str(path), "--out", str(tmp_path / name), "--resume"]) == 0
        assert without_seconds(tmp_path / name)[0]["test_error"] < 1
        assert tmp_path / name / "figures" / "input_penalties.png" in draw(tmp_path / name)
        assert main(["report", str(tmp_path / name)]) == 0
    config = configs.load(tmp_path / "file" / "config.toml")
    (tmp_path / "mine.npz").unlink()
    with pytest.raises(DatasetError, match="data.file: cannot read"):
        run(config, tmp_path / "again", progress=False)


DIGITS = 'dataset = "digits"\nnum_train = 60\nnum_valid = 30\nnum_test = 9'
OWN = """
import jax.numpy as jnp, optax
import drmad_jax as dj
from drmad_jax.experiments.own import OwnTask

def make_task(given):
    data = given.data
    if not isinstance(data, dict):
        data = {"x": data.train.images.reshape(60, -1), "y": data.train.labels / 9}
        assert given.num_valid == 30
    loss = lambda w, h, batch: jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
    inner = lambda w, h, batch: loss(w, h, batch) + jnp.exp(h) * jnp.sum(w**2)
    return OwnTask(
        problem=dj.Problem(inner, loss, optax.sgd(0.01)), hparams=jnp.float32(-3.0),
        init=lambda key: jnp.zeros(data["x"].shape[1]), train=data, num_valid=20,
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("line", ['file = "mine.npz"', DIGITS], ids=["file", "dataset"])
def test_problems_of_ones_own_on_named_data(tmp_path, line):
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x=x, y=x[:, 0])
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(
        'name = "own"\ninner = {num_steps = 10, batch_size = 8}\n'
        'outer = {num_steps = 2, optimizer = {name = "adam", learning_rate = 0.3}}\n'
        f'task.module = "own.py:make_task"\n[data]\n{line}\n'
    )
    assert main(["run", str(tmp_path / "own.toml"), "--out", str(tmp_path / "run")]) == 0
    # There is no metric beside the outer loss, nor need there be.
    assert {path.name for path in draw(tmp_path / "run")} == {"curves.png", "hyperparameters.png"}
    assert main(["report", str(tmp_path / "run")]) == 0
