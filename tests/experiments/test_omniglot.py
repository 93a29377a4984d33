import os

import numpy as np
import pytest

from drmad_jax.experiments.data import omniglot
from drmad_jax.experiments.data.omniglot import ALPHABETS, average, load_alphabets
from drmad_jax.experiments.errors import DatasetError

needs_omniglot = pytest.mark.skipif(
    not os.environ.get("OMNIGLOT_DIR"),
    reason="OMNIGLOT IS NOT TESTED: set OMNIGLOT_DIR to a folder with omniglot_bool105.npz",
)


def test_alphabets_fill_the_background_set():
    assert len(ALPHABETS) == 30 and sum(ALPHABETS.values()) == 964


@pytest.mark.parametrize("size", [1, 2, 4, 7, 10])
def test_average_keeps_the_ink(size):
    images = np.random.default_rng(0).random((3, 2, 10, 10)) < 0.3
    found = average(images, size)
    assert found.shape == (3, 2, size, size) and found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=(2, 3)), images.mean(axis=(2, 3)), atol=1e-6)


def test_average_over_whole_pixels_is_their_mean():
    images = np.random.default_rng(0).random((10, 10)) < 0.3
    expected = images.reshape(5, 2, 5, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(average(images, 5), expected, atol=1e-6)


@pytest.fixture
def small(monkeypatch):
    """Two alphabets of 2 and 3 characters, 4 drawings each of 5 x 5 pixels."""
    monkeypatch.setattr(omniglot, "ALPHABETS", {"A": 2, "B": 3})
    monkeypatch.setattr(omniglot, "NUM_DRAWINGS", 4)
    monkeypatch.setattr(omniglot, "IMAGE_SIZE", 5)
    return np.random.default_rng(0).random((5, 4, 5, 5)) < 0.3


def assert_reads(small):
    second, first = load_alphabets(("B", "A"), 5)
    np.testing.assert_array_equal(first, small[:2])
    np.testing.assert_array_equal(second, small[2:])


def test_reads_the_archive(small, tmp_path, monkeypatch):
    np.savez(tmp_path / "omniglot_bool105.npz", background=~small)
    monkeypatch.setenv("OMNIGLOT_DIR", str(tmp_path))
    assert_reads(small)


def test_reads_what_was_prepared_in_whatever_order(small, monkeypatch):
    monkeypatch.delenv("OMNIGLOT_DIR", raising=False)
    # Equal drawings would have no order to be compared in.
    small[:] = small[:, :1]
    examples = [
        {"image": np.repeat(255 * ~image[..., None], 3, axis=-1).astype(np.uint8), "label": label}
        for label, drawings in enumerate(small)
        for image in drawings
    ]
    np.random.default_rng(1).shuffle(examples)
    monkeypatch.setattr(omniglot.datasets, "open_source", lambda name, split: examples)
    assert_reads(small)


def test_says_how_to_get_the_data(small, tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIGLOT_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match="OMNIGLOT_DIR points(.|\n)*drmad-jax prepare omniglot"):
        load_alphabets(("A",), 5)
    monkeypatch.delenv("OMNIGLOT_DIR")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match="omniglot is not prepared in"):
        load_alphabets(("A",), 5)


def test_refuses_other_data(small, tmp_path, monkeypatch):
    np.savez(tmp_path / "omniglot_bool105.npz", background=small[:4])
    monkeypatch.setenv("OMNIGLOT_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match="expected an array of shape"):
        load_alphabets(("A",), 5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"hello"),
        lambda path: np.savez(path, background=np.zeros(3)),
        lambda path: np.savez(path, other=np.zeros(3)),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file")
def test_damaged_archive_is_named(small, tmp_path, monkeypatch, damage):
    path = tmp_path / "omniglot_bool105.npz"
    np.savez(path, background=~small)
    damage(path)
    monkeypatch.setenv("OMNIGLOT_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match=rf"cannot read {path}, where OMNIGLOT_DIR points: "):
        load_alphabets(("A",), 5)


@needs_omniglot
@pytest.mark.slow
def test_braille_is_where_it_should_be():
    """Seven pixels fit into dots, and not into the strokes of the neighbours."""
    names = ("Blackfoot_(Canadian_Aboriginal_Syllabics)", "Braille", "Cyrillic")
    before, braille, after = (alphabet[:, :10] for alphabet in load_alphabets(names, 105))

    def solid(images):
        windows = np.lib.stride_tricks.sliding_window_view(images, (7, 7), axis=(2, 3))
        return windows.min(axis=(4, 5)).sum(axis=(1, 2, 3)) / images.sum(axis=(1, 2, 3))

    assert solid(braille).min() > 0.05
    assert solid(before[-1:]) < 0.01 and solid(after[:1]) < 0.01
