"""Data sets as plain arrays: bundled with scikit-learn, or prepared by TensorFlow Datasets."""

import contextlib
import hashlib
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from drmad_jax.experiments.errors import DatasetError, RunFolderError
from drmad_jax.experiments.files import cache_dir, locked, read_arrays, tidy, write_arrays

Split = Literal["train", "test"]


class Images(NamedTuple):
    """Labelled images.

    Attributes:
        images: Intensities from 0 to 1, shape (N, H, W, channels).
        labels: Class numbers from 0, shape (N,), or (N, H, W) for labels of pixels.
    """

    images: Float32[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, "n *pixels"]


class Splits(NamedTuple):
    """Examples to train and validate on, to be divided by their user, and others to test with."""

    train: Any
    test: Any


class DatasetSpec(NamedTuple):
    """What is known of a data set without reading it.

    Attributes:
        image_shape: (H, W, channels).
        num_classes: Number of classes.
        num_train: Examples in the training split.
        num_test: Examples in the test split.
        bundled: Whether it comes with scikit-learn, and needs no preparation.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    bundled: bool = False


DATASETS = {
    "digits": DatasetSpec((8, 8, 1), 10, num_train=1297, num_test=500, bundled=True),
    "mnist": DatasetSpec((28, 28, 1), 10, num_train=60_000, num_test=10_000),
    "fashion_mnist": DatasetSpec((28, 28, 1), 10, num_train=60_000, num_test=10_000),
    "cifar10": DatasetSpec((32, 32, 3), 10, num_train=50_000, num_test=10_000),
}
# Those that `prepare` knows; omniglot has a module of its own.
PREPARABLE = (*DATASETS, "omniglot")


def load_images(name: str, split: Split, num_examples: int) -> Images:
    """The first examples of a split, in an order that has nothing to do with the labels.

    Args:
        name: A key of `DATASETS`.
        split: "train" or "test".
        num_examples: How many.

    Returns:
        Images and labels.

    Raises:
        DatasetError: If the data set has not been prepared, or holds fewer examples.
    """
    if DATASETS[name].bundled:
        images, labels, white = _load_digits(split)
    else:
        images, labels, white = _load(name, split, num_examples)
    if num_examples > len(labels):
        raise DatasetError(
            f"{name}: {num_examples} {split} examples asked for, {len(labels)} there"
        )
    shape = (len(labels), *DATASETS[name].image_shape)
    if images.shape != shape:
        raise DatasetError(f"{name}: expected images of shape {shape}, found {images.shape}")
    scaled = images[:num_examples].astype(np.float32) / np.float32(white)
    return Images(scaled, labels[:num_examples].astype(np.int32))


def load_splits(name: str, *, num_train: int, num_test: int) -> Splits:
    """The first examples of both splits.

    Args:
        name: A key of `DATASETS`.
        num_train: Examples of the training split.
        num_test: Examples of the test split.

    Returns:
        Both splits.

    Raises:
        DatasetError: As `load_images`.
    """
    train = load_images(name, "train", num_train)
    return Splits(train, load_images(name, "test", num_test))


def prepare(name: str) -> Path | None:
    """Downloads a data set and prepares it to be read without TensorFlow.

    Args:
        name: One of `PREPARABLE`, or of TensorFlow Datasets.

    Returns:
        The folder it was prepared in; `None` if nothing had to be done.

    Raises:
        DatasetError: If the name is unknown, or TensorFlow is missing.
    """
    if name not in PREPARABLE and not is_known(name):
        raise DatasetError(
            f"unknown data set {name!r}; expected one of {', '.join(PREPARABLE)}, or of "
            "https://www.tensorflow.org/datasets/catalog"
        )
    is_bundled = name in DATASETS and DATASETS[name].bundled
    if is_bundled or _newest(name) is not None:
        return None
    # TFDS's writer needs both, and declares neither.
    for module in ("tensorflow", "importlib_resources"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise DatasetError(
                f"preparing {name} needs TensorFlow (reading it afterwards does not):\n"
                "    pip install tensorflow importlib_resources"
            ) from error
    import tensorflow_datasets as tfds

    with explained(f"cannot prepare {name} in {data_dir()}", "mend this and try again"):
        builder = tfds.builder(name, data_dir=data_dir(), file_format="array_record")
        builder.download_and_prepare()
    return Path(builder.data_path)


def is_known(name: str) -> bool:
    """Whether TensorFlow Datasets has a data set of that name.

    Args:
        name: A name, behind a slash that of one of its configurations.

    Returns:
        True if it can be prepared.
    """
    import tensorflow_datasets as tfds

    return name.partition("/")[0] in tfds.list_builders(with_community_datasets=False)


def open_source(name: str, split: Split) -> Any:
    """The examples of a prepared data set, read without TensorFlow.

    Args:
        name: One of `PREPARABLE` that is not bundled.
        split: "train" or "test".

    Returns:
        A sequence of examples, dictionaries of NumPy values that are decoded when asked for; it can
        read many at once, too.

    Raises:
        DatasetError: If the data set has not been prepared, in another format, or is damaged.
    """
    import tensorflow_datasets as tfds

    folder = prepared_folder(name)
    versioned = f"{name}:{folder.name}"
    with explained(f"cannot read {folder}", _again(name)):
        return tfds.data_source(versioned, split=split, data_dir=data_dir(), download=False)


@contextlib.contextmanager
def explained(what: str, mend: str) -> Iterator[None]:
    """Tells what could not be done, whatever another package makes of it.

    Args:
        what: Such as "cannot read FILE".
        mend: What there is to do about it.

    Yields:
        Nothing.

    Raises:
        DatasetError: In place of what is raised within, but for missing packages and memory.
    """
    try:
        yield
    except (DatasetError, ImportError, MemoryError):
        raise
    except Exception as error:  # What damage makes other packages raise has no one name.
        said = str(error).partition("\n")[0] or type(error).__name__
        raise DatasetError(f"{what}: {said}; {mend}") from error


def prepared_folder(name: str) -> Path:
    """The folder of a prepared data set.

    Args:
        name: Its name.

    Returns:
        The folder of its newest version.

    Raises:
        DatasetError: If it has not been prepared.
    """
    folder = _newest(name)
    if folder is None:
        raise DatasetError(
            f"{name} is not prepared in {data_dir()}; run\n    drmad-jax prepare {name}\n"
            "or set TFDS_DATA_DIR to the folder where it is"
        )
    return folder


def data_dir() -> Path:
    """The folder of prepared data sets: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _load_digits(split: Split) -> tuple[np.ndarray, np.ndarray, float]:
    """The digits come sorted by writer and without a test split: one fixed shuffle gives both."""
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(targets))
    num_train = DATASETS["digits"].num_train
    order = order[:num_train] if split == "train" else order[num_train:]
    return pixels[order].reshape(-1, *DATASETS["digits"].image_shape), targets[order], 16.0


def _load(name: str, split: Split, num_examples: int) -> tuple[np.ndarray, np.ndarray, float]:
    """As many decoded images, or more, or all there are; from the cache where it has them."""
    folder = prepared_folder(name)
    cached = cache_dir() / f"{name}-{folder.name}-{split}-{_fingerprint(folder)}.npz"
    arrays = _read_cache(cached)
    if arrays is None or len(arrays[1]) < num_examples:
        arrays = images, labels = _decode(name, split, num_examples)
        # A cache that cannot be written costs seconds, not the run.
        with contextlib.suppress(OSError, RunFolderError):
            cached.parent.mkdir(parents=True, exist_ok=True)
            with locked(cached.parent):
                tidy(cached.parent)
                write_arrays(cached, {"images": images, "labels": labels})
    return *arrays, 255.0


def _again(name: str) -> str:
    return f"move it away and run\n    drmad-jax prepare {name}"


def _newest(name: str) -> Path | None:
    """The folder of the newest prepared version."""
    found = [info.parent for info in (data_dir() / name).glob("*/dataset_info.json")]
    # Beside them lies what a killed preparation leaves, such as "incomplete.AB12CD_3.0.1".
    versions = [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def _fingerprint(folder: Path) -> str:
    """Changes whenever the prepared files do, so that a stale cache is never read."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(folder.iterdir()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _decode(
    name: str, split: Split, num_examples: int
) -> tuple[UInt8[np.ndarray, "n h w c"], UInt8[np.ndarray, " n"]]:
    source = open_source(name, split)
    with explained(f"cannot read {prepared_folder(name)}", _again(name)):
        # Read one by one, they would take three times as long.
        examples = source.__getitems__(range(min(num_examples, len(source))))
        images = np.stack([example["image"] for example in examples])
        return images, np.array([example["label"] for example in examples], np.uint8)


def _read_cache(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The cached arrays; `None` if there are none, or they are damaged."""
    try:
        arrays = read_arrays(path)
        return arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError):
        return None
