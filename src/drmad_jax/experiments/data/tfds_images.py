"""Images with classes of TensorFlow Datasets, whichever it is: read without TensorFlow."""

import difflib
from typing import Any

import numpy as np

from drmad_jax.experiments.data.datasets import (
    DATASETS,
    DatasetSpec,
    Images,
    Splits,
    explained,
    is_known,
    prepared_folder,
)
from drmad_jax.experiments.errors import ConfigError, DatasetError


def describe(name: str, side: int | None) -> DatasetSpec:
    """What is known of a prepared data set without reading its examples.

    Args:
        name: Its name.
        side: Pixels along each side, to which images are to be brought.

    Returns:
        Shape and counts; without a test split, every training example can be a test example.

    Raises:
        ConfigError: If it is no set of images with classes, or they are of several sizes.
        DatasetError: If it has not been prepared, or is damaged.
    """
    info = _builder(name).info
    image, label = (info.features[key] for key in _keys(name, info))
    height, width, channels = image.shape
    if side is not None:
        height = width = side
    if height is None or width is None:
        raise ConfigError(
            f"data.image_size: missing; {name} has images of several sizes, so say to how many "
            "pixels along each side they are brought"
        )
    train, test = _splits(name, info)
    sizes = [info.splits[split].num_examples for split in (train, test or train)]
    return DatasetSpec((height, width, channels or 3), label.num_classes, *sizes)


def load(name: str, *, num_train: int, num_test: int, side: int | None) -> Splits:
    """The first examples of both splits; of the only one, the test examples come after the others.

    Args:
        name: Its name.
        num_train: Examples of the training split.
        num_test: Examples of the test split.
        side: Pixels along each side, to which images are brought.

    Returns:
        Both splits.

    Raises:
        ConfigError: If it is no set of images with classes.
        DatasetError: If it has not been prepared, is damaged, or holds fewer examples.
    """
    spec, builder = describe(name, side), _builder(name)
    train, test = _splits(name, builder.info)
    first = 0 if test else num_train
    with explained(f"cannot read {prepared_folder(name)}", "move it away and prepare it again"):
        return Splits(
            _read(builder, name, train, (0, num_train), spec),
            _read(builder, name, test or train, (first, first + num_test), spec),
        )


def check_name(name: str) -> None:
    """Refuses what is no data set of TensorFlow Datasets.

    Args:
        name: A name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if not is_known(name):
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"data.dataset: expected 'digits' or the name of a data set of TensorFlow Datasets, "
            f"got {name!r}{hint}"
        )


def _builder(name: str) -> Any:
    """What reads a prepared data set, of the user's own making, too."""
    import tensorflow_datasets as tfds

    try:
        folder = prepared_folder(name)
    except DatasetError:
        check_name(name)
        raise
    with explained(f"cannot read {folder}", f"move it away and run\n    drmad-jax prepare {name}"):
        return tfds.builder_from_directory(folder)


def _keys(name: str, info: Any) -> tuple[str, str]:
    """The names of image and label."""
    import tensorflow_datasets as tfds

    keys = info.supervised_keys or ("image", "label")
    kinds = tfds.features.Image, tfds.features.ClassLabel
    features = dict(info.features)
    has_both = len(keys) == 2 and all(
        isinstance(features.get(key), kind) for key, kind in zip(keys, kinds, strict=True)
    )
    if not has_both:
        raise ConfigError(
            f"data.dataset: expected images with one class each, got {name} with "
            f"{', '.join(f'{key} ({type(value).__name__})' for key, value in features.items())}"
        )
    return keys


def _splits(name: str, info: Any) -> tuple[str, str | None]:
    """The split to train with, and the one to test with if there is one with labels."""
    found = list(info.splits)
    if "train" not in found:
        raise ConfigError(
            f"data.dataset: expected a split 'train', got {name} with {', '.join(found)}"
        )
    return "train", next((split for split in ("test", "validation") if split in found), None)


def _read(builder: Any, name: str, split: str, rows: tuple[int, int], spec: DatasetSpec) -> Images:
    source = builder.as_data_source(split)
    if rows[1] > len(source):
        raise DatasetError(f"{name}: {rows[1]} {split} examples asked for, {len(source)} there")
    image_key, label_key = _keys(name, builder.info)
    examples = source.__getitems__(range(*rows))
    images = np.stack([_resized(example[image_key], spec.image_shape) for example in examples])
    if images.dtype != np.uint8:
        raise DatasetError(f"{name}: expected images of 8 bits, got {images.dtype}")
    labels = np.array([example[label_key] for example in examples], np.int32)
    if labels.min() < 0:
        raise DatasetError(f"{name}: the split {split!r} has examples without a label")
    return Images(images.astype(np.float32) / np.float32(255), labels)


def _resized(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    if image.shape == shape:
        return image
    from PIL import Image

    plain = image[..., 0] if image.shape[-1] == 1 else image
    resized = np.asarray(Image.fromarray(plain).resize((shape[1], shape[0])))
    return resized.reshape(shape)
