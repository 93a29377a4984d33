"""The kinds of section `[task]`."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from drmad_jax.experiments.schema import PositiveInt, above, at_least


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2Config:
    """Section `[task]`: learn L2 penalties of the weights (biases have none).

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "l2".
        granularity: What shares one penalty: the weights out of one input "unit", those of one
            "layer", each "parameter" alone, or all weights ("global").
        coordinates: "penalty" adds Σ exp(log_l2)·w² to the loss. "rescaled" is the published
            form: the network uses w = z·exp(t), training moves z, the penalty is exp(-4)·‖z‖²,
            and t is the hyperparameter, so that log_l2 = -4 - 2t.
        initial_log_l2: Natural log of the initial penalties; published: -4.4 (t = .2).
    """

    headline: ClassVar[str] = "test_error"

    kind: Literal["l2"] = "l2"
    granularity: Literal["unit", "layer", "parameter", "global"] = "unit"
    coordinates: Literal["penalty", "rescaled"] = "penalty"
    initial_log_l2: float = -4.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperCleaningConfig:
    """Section `[task]`: learn a weight for each training example, some having wrong labels.

    `inner.batch_size` = the number of training examples is full-batch training, as published.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "hyper_cleaning".
        corrupted: Share of the training labels that are replaced by another class.
        budget: Upper limit R of the sum of the weights, each of them in [0, 1]; the number of
            training examples for no limit but that.
        start: Tuning starts from the same weight for all, R/n at most 1 ("even"), or from full
            weight for clean examples alone ("oracle"), as far as R allows it.
        threshold: An example counts as thrown out where its weight is below this.
    """

    headline: ClassVar[str] = "test_error"

    kind: Literal["hyper_cleaning"] = "hyper_cleaning"
    corrupted: Annotated[float, at_least(0)] = 0.5
    budget: Annotated[float, above(0)]
    start: Literal["even", "oracle"] = "even"
    threshold: Annotated[float, above(0)] = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedDataConfig:
    """Section `[task]`: learn a few training images, judged by what is trained on them.

    `inner.batch_size` = the number of these images is full-batch training, as published.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "learned_data".
        images_per_class: Training images of each class.
        start: What learning begins with: "blank" images, all zero; the "means" of each class; or
            random "real" images, drawn anew for each training run, which can be judged only.
        noise: Standard deviation of what is added to that for each pixel, once and for all; needed
            where there are several images of each class, which would stay alike without it.
    """

    headline: ClassVar[str] = "test_error"

    kind: Literal["learned_data"] = "learned_data"
    images_per_class: PositiveInt = 1
    start: Literal["blank", "means", "real"] = "blank"
    noise: Annotated[float, at_least(0)] = 0.0
