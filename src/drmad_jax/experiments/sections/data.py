"""The kinds of section `[data]`."""

import dataclasses
from typing import Literal

from drmad_jax.experiments.datasets import DATASETS
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.schema import PositiveInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """Section `[data]`, labelled images.

    Attributes:
        kind: "images".
        dataset: "digits" (comes with scikit-learn), "mnist" or "fashion_mnist" (`drmad-jax
            prepare`).
        num_train: Examples from which training and validation sets are drawn again at every outer
            step: the first ones of the training split.
        num_valid: How many of those are held out for validation.
        num_test: Test examples: the first ones of the test split, never trained or tuned on.
    """

    kind: Literal["images"] = "images"
    dataset: Literal["digits", "mnist", "fashion_mnist"]
    num_train: PositiveInt
    num_valid: PositiveInt
    num_test: PositiveInt

    def check(self, batch_size: int) -> None:
        """Checks the sizes against each other and against the data set.

        Args:
            batch_size: Examples per minibatch of the training set.

        Raises:
            ConfigError: If there are fewer examples than asked for.
        """
        spec = DATASETS[self.dataset]
        for key, size in (("num_train", spec.num_train), ("num_test", spec.num_test)):
            if getattr(self, key) > size:
                raise ConfigError(
                    f"data.{key}: {self.dataset} has {size} such examples, got {getattr(self, key)}"
                )
        left = self.num_train - self.num_valid
        if left < 1:
            raise ConfigError(
                f"data.num_valid: must leave training examples out of data.num_train = "
                f"{self.num_train}, got {self.num_valid}"
            )
        if batch_size > left:
            raise ConfigError(
                f"inner.batch_size: must not exceed the {left} training examples "
                f"(data.num_train - data.num_valid), got {batch_size}"
            )
