import os
import sys

import numpy as np
import pytest

from drmad_jax.experiments.data import datasets
from drmad_jax.experiments.data.datasets import DATASETS, load_images, load_splits
from drmad_jax.experiments.errors import DatasetError

needs_mnist = pytest.mark.skipif(
    not os.environ.get("TFDS_DATA_DIR"),
    reason="MNIST IS NOT TESTED: set TFDS_DATA_DIR to a folder with mnist prepared",
)


def assert_examples(images, name, size):
    assert images.images.shape == (size, *DATASETS[name].image_shape)
    assert images.images.dtype == np.float32
    assert images.images.min() == 0 and images.images.max() == 1
    assert images.labels.shape == (size,) and images.labels.dtype == np.int32
    assert set(np.unique(images.labels)) == set(range(10))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "drmad_jax"


@pytest.fixture
def fake_mnist(tmp_path, monkeypatch, cache):
    """A prepared folder whose decoding is counted instead of done."""
    folder = tmp_path / "tfds" / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    calls = []

    def decode(*arguments):
        calls.append(arguments)
        count = min(arguments[-1], 6)
        return np.full((count, 28, 28, 1), 51, np.uint8), np.arange(count, dtype=np.uint8)

    monkeypatch.setattr(datasets, "_decode", decode)
    return folder, calls


def test_digits_need_nothing():
    splits = load_splits("digits", num_train=1297, num_test=500)
    assert_examples(splits.train, "digits", 1297)
    assert_examples(splits.test, "digits", 500)


def test_digits_splits_share_no_example():
    train, test = load_splits("digits", num_train=1297, num_test=500)
    everything = np.concatenate([train.images, test.images]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == 1797


def test_first_examples_are_taken():
    few, many = load_images("digits", "train", 5), load_images("digits", "train", 9)
    np.testing.assert_array_equal(few.images, many.images[:5])


def test_too_many_examples():
    with pytest.raises(DatasetError, match="digits: 501 test examples asked for, 500 there"):
        load_images("digits", "test", 501)


@needs_mnist
@pytest.mark.slow
def test_mnist(cache):
    first = load_images("mnist", "test", 1000)
    assert_examples(first, "mnist", 1000)
    again = load_images("mnist", "test", 1000)
    np.testing.assert_array_equal(first.images, again.images)
    assert len(list(cache.glob("mnist-3.0.1-test-*.npz"))) == 1


def test_missing_data_set_names_the_command(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(
        DatasetError, match="mnist is not prepared in .*\n    drmad-jax prepare mnist"
    ):
        load_images("mnist", "train", 10)


def test_decodes_once(fake_mnist, cache):
    _, calls = fake_mnist
    for _ in range(2):
        images = load_images("mnist", "train", 3)
        np.testing.assert_allclose(images.images, np.full((3, 28, 28, 1), 0.2), rtol=1e-6)
    assert len(calls) == 1
    assert not list(cache.glob(".*"))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nonsense", None])
def test_damaged_cache_is_rebuilt(fake_mnist, cache, damage):
    _, calls = fake_mnist
    load_images("mnist", "train", 3)
    (file,) = cache.iterdir()
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 0xFF
    file.write_bytes(contents if damage is None else damage)
    assert load_images("mnist", "train", 3).labels.tolist() == [0, 1, 2]
    load_images("mnist", "train", 3)
    assert len(calls) == 2


def test_no_more_are_decoded_than_asked_for(fake_mnist):
    _, calls = fake_mnist
    for count in (3, 5, 4):
        assert load_images("mnist", "train", count).labels.tolist() == list(range(count))
    assert [call[-1] for call in calls] == [3, 5]


def test_more_than_were_prepared(fake_mnist):
    with pytest.raises(DatasetError, match="mnist: 9 train examples asked for, 6 there"):
        load_images("mnist", "train", 9)


def test_changed_files_are_decoded_again(fake_mnist):
    folder, calls = fake_mnist
    load_images("mnist", "train", 3)
    (folder / "mnist-train.array_record-00000-of-00001").write_bytes(b"new")
    load_images("mnist", "train", 3)
    assert len(calls) == 2


def test_unwritable_cache_is_no_error(fake_mnist, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_images("mnist", "train", 3).labels) == 3


def test_what_a_killed_preparation_leaves_is_no_data_set(fake_mnist, tmp_path, monkeypatch):
    folder, _ = fake_mnist
    left = folder.with_name("incomplete.AB12CD_3.0.2")
    folder.rename(left)
    with pytest.raises(DatasetError, match="mnist is not prepared"):
        load_images("mnist", "train", 3)
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    assert len(load_images("mnist", "train", 3).labels) == 3


@pytest.mark.parametrize("info", ["{}", "{", '{"name": "mnist", "version": "3.0.1"}', "\0" * 9])
def test_damaged_prepared_folder_is_named(tmp_path, monkeypatch, cache, info):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(info)
    (folder / "features.json").write_text("{")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match=f"(?s)cannot read {folder}: .*prepare mnist"):
        load_images("mnist", "train", 3)


def test_images_of_another_shape_are_refused(fake_mnist, monkeypatch):
    made = np.zeros((3, 5, 5, 1), np.uint8), np.zeros(3, np.uint8)
    monkeypatch.setattr(datasets, "_decode", lambda *arguments: made)
    with pytest.raises(DatasetError, match=r"mnist: expected images of shape \(3, 28, 28, 1\)"):
        load_images("mnist", "train", 3)


def test_prepare_says_how_to_get_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(DatasetError, match="pip install tensorflow"):
        datasets.prepare("mnist")


def test_prepare_has_nothing_to_do(fake_mnist):
    assert datasets.prepare("digits") is None
    assert datasets.prepare("mnist") is None


def test_prepare_unknown():
    with pytest.raises(DatasetError, match="unknown data set 'imagenet'"):
        datasets.prepare("imagenet")
