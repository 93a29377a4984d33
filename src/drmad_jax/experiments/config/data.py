"""The kinds of section `[data]`."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from drmad_jax.experiments.config.section import PositiveInt, Section, Text, a_list, one_of, suggest
from drmad_jax.experiments.data import tfds_images
from drmad_jax.experiments.data.datasets import (
    DATASETS,
    DatasetSpec,
    Splits,
    load_splits,
)
from drmad_jax.experiments.data.omniglot import ALPHABETS, IMAGE_SIZE, NUM_DRAWINGS
from drmad_jax.experiments.data.own_images import (
    NAMES,
    Pools,
    pools_of_file,
    pools_of_folder,
    read_npz,
)
from drmad_jax.experiments.errors import ConfigError

# Of TensorFlow Datasets, behind a slash that of one of its configurations.
_NAME = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9_.-]+)?")
MOST_PIXELS = 1024


class Examples(Section):
    """What the sections `[data]` have in common: `num_train`, `num_valid` and `num_test`."""

    @property
    def num_bytes(self) -> int:
        """What the examples take of memory."""
        raise NotImplementedError

    def check(self: Any, batch_size: int) -> None:
        """Checks what the rest of the configuration has a say in.

        Args:
            batch_size: Examples per minibatch of the training set.

        Raises:
            ConfigError: If there are fewer examples than asked for, or no such ones.
        """
        num_train, num_valid = self.num_train, self.num_valid
        left = num_train - num_valid
        if left < 1:
            raise ConfigError(
                f"data.num_valid: must leave training examples out of data.num_train = "
                f"{num_train}, got {num_valid}"
            )
        if batch_size > left:
            raise ConfigError(
                f"inner.batch_size: must not exceed the {left} training examples "
                f"(data.num_train - data.num_valid), got {batch_size}"
            )


class NoData(Section):
    """Section `[data]` of a problem that brings its own: it is left out."""

    kind: Literal["none"] = "none"

    @property
    def num_bytes(self) -> int:
        """Nothing is known of them."""
        return 0

    def check(self, batch_size: int) -> None:
        """Nothing to check."""
        del batch_size

    def load(self) -> Any:
        """Refuses.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("data: missing; the task asks for it")

    def to_table(self) -> None:
        """Nothing to write."""


class ArraysConfig(Section):
    """Section `[data]`, arrays for a problem of the user's own, who knows what they are.

    Attributes:
        file: An .npz file, as `numpy.savez` writes it, relative to the config.
    """

    kind: Literal["arrays"] = "arrays"
    file: Text

    @property
    def num_bytes(self) -> int:
        """What the file takes, which is no more than its arrays."""
        path = Path(self.file)
        return path.stat().st_size if path.is_file() else 0

    def check(self, batch_size: int) -> None:
        """Nothing to check without reading the file."""
        del batch_size

    def load(self) -> dict[str, np.ndarray]:
        """The arrays by name.

        Raises:
            DatasetError: If they cannot be read.
        """
        return read_npz(Path(self.file))


class ImagesConfig(Examples):
    """Section `[data]`, labelled images: one of `dataset`, `file` and `folder`.

    Attributes:
        dataset: "digits" (comes with scikit-learn), or a data set of images with classes of
            TensorFlow Datasets, such as "mnist", "fashion_mnist", "cifar10" or "svhn_cropped"
            (`drmad-jax prepare NAME`).
        file: An .npz file, relative to the config, with the arrays `x_train`, `y_train` and, where
            test examples are set apart, `x_test` and `y_test`. Vectors are taken for images of one
            row.
        arrays: What those four arrays are called in the file.
        folder: A folder of pictures, relative to the config, with a sub-folder for each class, or
            with such folders in `train` and `test`.
        image_size: Pixels along each side, to which the pictures of a folder or of TensorFlow
            Datasets are brought.
        grey: Whether the pictures of a folder have one channel in place of three.
        num_train: Examples from which training and validation sets are drawn again at every outer
            step: the first ones of the training split.
        num_valid: How many of those are held out for validation.
        num_test: Test examples: the first ones of the test split, never trained or tuned on.
    """

    kind: Literal["images"] = "images"
    dataset: Text | None = None
    file: Text | None = None
    arrays: Annotated[tuple[Text, Text, Text, Text], a_list("four strings")] | None = None
    folder: Text | None = None
    image_size: Annotated[PositiveInt, Field(le=MOST_PIXELS)] | None = None
    grey: bool | None = None
    num_train: PositiveInt
    num_valid: PositiveInt
    num_test: PositiveInt

    @property
    def spec(self) -> DatasetSpec:
        """Shape of the images, and how many of them and of their classes there are.

        Raises:
            ConfigError: If there is no such data set.
            DatasetError: If it is not there, or cannot be read.
        """
        if self.dataset is None:
            return self._pools.spec()
        known = DATASETS.get(self.dataset)
        return known or tfds_images.describe(self.dataset, self.image_size)

    @property
    def num_bytes(self) -> int:
        """What the images take, in single precision."""
        return 4 * (self.num_train + self.num_test) * math.prod(self.spec.image_shape)

    def load(self) -> Splits:
        """Reads the examples to train and validate on, and those to test with.

        Raises:
            DatasetError: If they are not there, or cannot be read.
        """
        sizes = {"num_train": self.num_train, "num_test": self.num_test}
        if self.dataset in DATASETS:
            return load_splits(self.dataset, **sizes)
        if self.dataset is not None:
            return tfds_images.load(self.dataset, **sizes, side=self.image_size)
        return self._pools.split(f"data: {self.file or self.folder}", **sizes)

    def check(self, batch_size: int) -> None:
        """Checks the sizes against each other and against the data set, where it is known."""
        self._check_source()
        if self.dataset in DATASETS:
            spec = DATASETS[self.dataset]
            for key, size in (("num_train", spec.num_train), ("num_test", spec.num_test)):
                if getattr(self, key) > size:
                    raise ConfigError(
                        f"data.{key}: {self.dataset} has {size} such examples, got "
                        f"{getattr(self, key)}"
                    )
        super().check(batch_size)

    @property
    def _pools(self) -> Pools:
        if self.file is not None:
            return pools_of_file(Path(self.file), self.arrays or NAMES)
        return pools_of_folder(Path(self.folder or ""), self.image_size, bool(self.grey))

    def _check_source(self) -> None:
        """One source, and what belongs to it."""
        sources = ("dataset", "file", "folder")
        given = [key for key in sources if getattr(self, key) is not None]
        if not given:
            raise ConfigError(
                "data.dataset: missing; set data.dataset, or data.file (an .npz file) or "
                "data.folder (of pictures) in its place"
            )
        if len(given) > 1:
            raise ConfigError(f"data.{given[1]}: expected one of {', '.join(sources)}, got {given}")
        of_source = {
            "arrays": ("file",),
            "image_size": ("folder", "dataset"),
            "grey": ("folder",),
        }
        for key, places in of_source.items():
            is_known = key == "image_size" and self.dataset in DATASETS
            if getattr(self, key) is not None and (given[0] not in places or is_known):
                raise ConfigError(
                    f"data.{key}: belongs to data.{' or data.'.join(places)}, and has no meaning "
                    f"for data.{given[0]} = {getattr(self, given[0])!r}; remove it"
                )
        if self.dataset is not None and not _NAME.fullmatch(self.dataset):
            raise ConfigError(
                f"data.dataset: expected the name of a data set, got {self.dataset!r}; a file is "
                "named by data.file, a folder by data.folder"
            )


class AlphabetsConfig(Examples):
    """Section `[data]`, alphabets of Omniglot, one classifier each.

    Attributes:
        alphabets: Names of alphabets of the background set.
        rotated: Whether each alphabet comes a second time, turned by 90 degrees (published).
        image_size: Pixels along each side, of 105.
        num_train: Of the twenty drawings of each character, those to train on.
        num_valid: Those held out for validation; with the former, drawn again at every outer step.
        num_test: Those to test on, always the same.
    """

    kind: Literal["alphabets"] = "alphabets"
    alphabets: Annotated[tuple[str, ...], a_list("a string")]
    rotated: bool = True
    image_size: Annotated[PositiveInt, Field(le=IMAGE_SIZE)] = 28
    num_train: PositiveInt
    num_valid: PositiveInt
    num_test: PositiveInt

    @property
    def num_bytes(self) -> int:
        """What the drawings take, in single precision."""
        drawings = NUM_DRAWINGS * sum(ALPHABETS[name] for name in self.alphabets)
        return 4 * (1 + self.rotated) * drawings * self.image_size**2

    def check(self, batch_size: int) -> None:
        """Checks the names, and the sizes against each other and against the data set."""
        for name in self.alphabets:
            if name not in ALPHABETS:
                raise ConfigError(
                    f"data.alphabets: unknown alphabet {name!r}; {suggest(name, ALPHABETS)}"
                )
        if not self.alphabets or len(set(self.alphabets)) < len(self.alphabets):
            raise ConfigError(
                f"data.alphabets: expected different names, got {list(self.alphabets)}"
            )
        drawings = self.num_train + self.num_valid + self.num_test
        if drawings > NUM_DRAWINGS:
            raise ConfigError(
                f"data.num_train, num_valid and num_test: there are {NUM_DRAWINGS} drawings of a "
                f"character, got {drawings} in all"
            )
        if batch_size > self.num_train:
            raise ConfigError(
                f"inner.batch_size: must not exceed data.num_train = {self.num_train} drawings of "
                f"each character, got {batch_size}"
            )


class CloudsConfig(Examples):
    """Section `[data]`, satellite images with clouds and their shadows, four bands.

    Attributes:
        folder: A folder of GeoTIFF scenes of Gaofen-1's wide-field camera with their masks, such as
            GF1_WHU (needs the extra `geotiff`); empty for made-up scenes.
        patch_size: Pixels along each side of a patch, an even number.
        num_train: Patches from which training and validation sets are drawn again at every outer
            step.
        num_valid: How many of those are held out for validation.
        num_test: Patches of other scenes, never trained or tuned on.
    """

    kind: Literal["clouds"] = "clouds"
    folder: Text = ""
    patch_size: PositiveInt = 32
    num_train: PositiveInt
    num_valid: PositiveInt
    num_test: PositiveInt

    @property
    def num_bytes(self) -> int:
        """What the patches take: four bands in single precision, and the labels."""
        return 4 * 5 * (self.num_train + self.num_test) * self.patch_size**2

    def check(self, batch_size: int) -> None:
        """Checks the sizes against each other, and that sides are even."""
        if self.patch_size % 2:
            raise ConfigError(f"data.patch_size: expected an even number, got {self.patch_size}")
        super().check(batch_size)


# Those that name files and folders relative to the config.
PLACED = ("images", "arrays")
KINDS = ImagesConfig, AlphabetsConfig, CloudsConfig
DataConfig = Annotated[ImagesConfig | AlphabetsConfig | CloudsConfig, one_of(lambda: KINDS)]


def _kind_of_own(table: Any) -> Any:
    """What section `[data]` of a problem of one's own is where it names no kind."""
    if not isinstance(table, Mapping) or "kind" in table:
        return table
    return {"kind": "images" if {"dataset", "folder"} & set(table) else "arrays", **table}


OwnDataConfig = Annotated[
    NoData | ArraysConfig | ImagesConfig,
    one_of(lambda: (ArraysConfig, ImagesConfig)),
    BeforeValidator(_kind_of_own),
]
