"""The kinds of section `[data]`."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from drmad_jax.experiments.config.section import PositiveInt, Section, Text, a_list, one_of, suggest
from drmad_jax.experiments.data.datasets import DATASETS
from drmad_jax.experiments.data.omniglot import ALPHABETS, IMAGE_SIZE, NUM_DRAWINGS
from drmad_jax.experiments.errors import ConfigError


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


class ImagesConfig(Examples):
    """Section `[data]`, labelled images.

    Attributes:
        dataset: "digits" (comes with scikit-learn), "mnist", "fashion_mnist" or "cifar10"
            (`drmad-jax prepare`).
        num_train: Examples from which training and validation sets are drawn again at every outer
            step: the first ones of the training split.
        num_valid: How many of those are held out for validation.
        num_test: Test examples: the first ones of the test split, never trained or tuned on.
    """

    kind: Literal["images"] = "images"
    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10"]
    num_train: PositiveInt
    num_valid: PositiveInt
    num_test: PositiveInt

    @property
    def num_bytes(self) -> int:
        """What the images take, in single precision."""
        return 4 * (self.num_train + self.num_test) * math.prod(DATASETS[self.dataset].image_shape)

    def check(self, batch_size: int) -> None:
        """Checks the sizes against each other and against the data set."""
        spec = DATASETS[self.dataset]
        for key, size in (("num_train", spec.num_train), ("num_test", spec.num_test)):
            if getattr(self, key) > size:
                raise ConfigError(
                    f"data.{key}: {self.dataset} has {size} such examples, got {getattr(self, key)}"
                )
        super().check(batch_size)


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


KINDS = ImagesConfig, AlphabetsConfig, CloudsConfig
DataConfig = Annotated[ImagesConfig | AlphabetsConfig | CloudsConfig, one_of(lambda: KINDS)]
