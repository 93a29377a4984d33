"""Labelled images of the user's own: an .npz file, or a folder with a sub-folder for each class."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drmad_jax.experiments.data.datasets import DatasetSpec, Images, Splits
from drmad_jax.experiments.errors import DatasetError
from drmad_jax.experiments.files import read_arrays

# As Keras has them; those of the test split may be missing.
NAMES = ("x_train", "y_train", "x_test", "y_test")
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_SPLITS = ("train", "test")


class Pools(NamedTuple):
    """All examples that there are, in an order that has nothing to do with the labels.

    Attributes:
        train: Examples to train and validate on.
        test: Examples to test with; `None` where nobody has set them apart.
        classes: How many classes there are.
    """

    train: Images
    test: Images | None
    classes: int

    def spec(self) -> DatasetSpec:
        """Shape and counts; where no test examples are set apart, all can be such ones."""
        count = len(self.train.labels)
        shape: Any = self.train.images.shape[1:]
        return DatasetSpec(
            shape, self.classes, count, count if self.test is None else len(self.test.labels)
        )

    def split(self, what: str, num_train: int, num_test: int) -> Splits:
        """The first examples of both; those after the training examples where nothing is set apart.

        Args:
            what: The file or folder.
            num_train: Examples to train and validate on.
            num_test: Examples to test with.

        Returns:
            Both.

        Raises:
            DatasetError: If there are fewer.
        """
        take = lambda images, start, stop: Images(*(array[start:stop] for array in images))
        needed = num_train + (num_test if self.test is None else 0)
        if needed > len(self.train.labels):
            parts = "data.num_train" + (" + data.num_test" if self.test is None else "")
            raise DatasetError(
                f"{what}: {needed} examples asked for ({parts}), {len(self.train.labels)} there"
            )
        train = take(self.train, 0, num_train)
        if self.test is None:
            return Splits(train, take(self.train, num_train, needed))
        if num_test > len(self.test.labels):
            raise DatasetError(
                f"{what}: {num_test} test examples asked for (data.num_test), "
                f"{len(self.test.labels)} there"
            )
        return Splits(train, take(self.test, 0, num_test))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file; never any code, which pickled arrays might hold.

    Args:
        path: The file.

    Returns:
        Arrays by name.

    Raises:
        DatasetError: If it is not there, or no whole archive of plain arrays.
    """
    try:
        return read_arrays(path)
    except OSError as error:
        raise DatasetError(f"data.file: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"data.file: {path}: {error}; write it by numpy.savez") from error


def pools_of_file(path: Path, names: Sequence[str]) -> Pools:
    """The images of an .npz file.

    Args:
        path: The file.
        names: What its arrays are called: training images and labels, test images and labels.

    Returns:
        The examples.

    Raises:
        DatasetError: If it cannot be read, or holds no such arrays.
    """
    return _of_file(path, tuple(names), _state([path]))


def pools_of_folder(folder: Path, side: int | None, grey: bool) -> Pools:
    """The pictures in a folder: a sub-folder for each class, or those in `train` and in `test`.

    Args:
        folder: The folder.
        side: Pixels along each side, to which pictures are brought; `None` for those of one size.
        grey: One channel in place of red, green and blue.

    Returns:
        The examples; the classes are numbered in the order of their names.

    Raises:
        DatasetError: If there are no such sub-folders, or a picture cannot be used.
    """
    if not folder.is_dir():
        raise DatasetError(f"data.folder: there is no folder {folder}")
    return _of_folder(folder, side, grey, _state(sorted(folder.rglob("*"))))


def _state(paths: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever the files do, so that nothing stale is taken for what is there."""
    stats = [(str(path), path.stat()) for path in paths if path.exists()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


# A run asks for the same examples several times: for their shape, their number, themselves.
@functools.lru_cache(maxsize=1)
def _of_file(path: Path, names: tuple[str, ...], state: Any) -> Pools:
    del state
    arrays = read_npz(path)
    missing = [name for name in names[:2] if name not in arrays]
    has_test = [name in arrays for name in names[2:]]
    if any(has_test) and not all(has_test):
        missing += [name for name in names[2:] if name not in arrays]
    if missing:
        raise DatasetError(
            f"data.file: {path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'} "
            "(data.arrays says what images and labels are called)"
        )
    pairs = [(names[0], names[1])] + ([(names[2], names[3])] if all(has_test) else [])
    made = [
        _examples(f"data.file: {path}", pair, arrays[pair[0]], arrays[pair[1]]) for pair in pairs
    ]
    if len(made) == 2 and made[0].images.shape[1:] != made[1].images.shape[1:]:
        raise DatasetError(
            f"data.file: {path}: expected images of one shape, got {made[0].images.shape[1:]} for "
            f"{names[0]} and {made[1].images.shape[1:]} for {names[2]}"
        )
    test = made[1] if len(made) == 2 else None
    return Pools(made[0], test, 1 + max(int(part.labels.max()) for part in made))


@functools.lru_cache(maxsize=1)
def _of_folder(folder: Path, side: int | None, grey: bool, state: Any) -> Pools:
    del state
    places = [folder / name for name in _SPLITS if (folder / name).is_dir()] or [folder]
    if len(places) == 2 or places == [folder]:
        classes = [_classes(place) for place in places]
    else:
        raise DatasetError(
            f"data.folder: {folder} has a sub-folder {places[0].name!r}; expected both 'train' and "
            "'test', or a sub-folder for each class"
        )
    if classes[0] != classes[-1]:
        raise DatasetError(
            f"data.folder: {folder}: expected the same classes to train and to test with, got "
            f"{', '.join(classes[0])} and {', '.join(classes[-1])}"
        )
    made = [_pictures(place, classes[0], side, grey) for place in places]
    if made[0].images.shape[1:] != made[-1].images.shape[1:]:
        raise DatasetError(f"data.folder: {folder}: {_SIZES}")
    return Pools(made[0], made[1] if len(made) == 2 else None, len(classes[0]))


def shuffled(images: np.ndarray, labels: np.ndarray) -> Images:
    """The same examples in an order of no meaning, always the same."""
    order = np.random.default_rng(0).permutation(len(labels))
    return Images(images[order], labels[order].astype(np.int32))


_SIZES = "pictures of several sizes; say by data.image_size to how many pixels they are brought"


def _examples(what: str, names: tuple[str, str], images: Any, labels: Any) -> Images:
    """Checked arrays: intensities from 0 to 255 become 0 to 1, vectors become rows of one pixel."""
    if images.ndim not in (2, 3, 4) or len(images) == 0 or images.dtype.kind not in "fiub":
        raise DatasetError(
            f"{what}: expected {names[0]} to be numbers of shape (examples, height, width, "
            "channels), (examples, height, width) or (examples, features), got "
            f"{images.dtype} of shape {images.shape}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DatasetError(
            f"{what}: expected {names[1]} to be class numbers from 0, integers of shape "
            f"({len(images)},), got {labels.dtype} of shape {labels.shape}"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise DatasetError(f"{what}: {names[0]} has entries that are not finite")
    white = 255 if images.dtype == np.uint8 else 1
    scaled = images.astype(np.float32) / np.float32(white)
    if images.ndim == 2:
        scaled = scaled[:, None]
    return shuffled(scaled if images.ndim == 4 else scaled[..., None], labels)


def _classes(folder: Path) -> list[str]:
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    found = [name for name in found if not name.startswith(".")]
    if len(found) < 2:
        raise DatasetError(
            f"data.folder: expected a sub-folder of {folder} for each class, got "
            f"{', '.join(found) or 'none'}"
        )
    return found


def _pictures(place: Path, classes: Sequence[str], side: int | None, grey: bool) -> Images:
    images, labels = [], []
    for number, name in enumerate(classes):
        paths = sorted(p for p in (place / name).iterdir() if p.suffix.lower() in _ENDINGS)
        if not paths:
            raise DatasetError(
                f"data.folder: {place / name} holds no pictures; expected {', '.join(_ENDINGS)}"
            )
        images += [_picture(path, side, grey) for path in paths]
        labels += [number] * len(paths)
    if len({image.shape for image in images}) > 1:
        raise DatasetError(f"data.folder: {place}: {_SIZES}")
    return shuffled(np.stack(images).astype(np.float32) / np.float32(255), np.array(labels))


def _picture(path: Path, side: int | None, grey: bool) -> np.ndarray:
    """Intensities from 0 to 255, shape (height, width, channels)."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture = picture.convert("L" if grey else "RGB")
            array = np.asarray(picture if side is None else picture.resize((side, side)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"data.folder: cannot read the picture {path}: {error}") from error
    return array[..., None] if grey else array
