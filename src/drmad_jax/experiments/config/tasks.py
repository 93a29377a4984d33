"""The kinds of section `[task]`."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from drmad_jax.experiments.config.section import PositiveInt, above, at_least


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Section `[task]`: learn how to train, starting from the rates of `[inner.optimizer]`.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "training".
        tuned: What is learned of "learning_rates", "momenta" and "initial_scales" (standard
            deviations of the initial weights); the rest stays where it starts.
        granularity: What has values of its own: each "array" of weights (published: kernel and
            bias of every layer), each "layer", or all weights together ("global").
        blocks: Blocks of training steps with rates of their own: "steps" for a rate at every step
            (published), 1 for constant rates.
        outer_loss: What is to become small: the loss on the whole "training" set (published), or
            on the "validation" set.
    """

    headline: ClassVar[str] = "test_error"

    kind: Literal["training"] = "training"
    tuned: tuple[Literal["learning_rates", "momenta", "initial_scales"], ...] = (
        "learning_rates",
        "momenta",
    )
    granularity: Literal["array", "layer", "global"] = "array"
    blocks: PositiveInt | Literal["steps"] = "steps"
    outer_loss: Literal["training", "validation"] = "training"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharingConfig:
    """Section `[task]`: learn how much alphabets share of their networks' weights.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "sharing".
        initial_sharing: Where the sharing starts, 0 for networks on their own, 1 for one network:
            a number for all layers, or one for each; published: 0.5.
        log_l2: Natural log of the penalty on the weights before they are mixed; published: -4.
    """

    headline: ClassVar[str] = "test_loss"

    kind: Literal["sharing"] = "sharing"
    initial_sharing: float | tuple[float, ...] = 0.5
    log_l2: float = -4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """Section `[task]`: adapt learning rates and L2 penalties at every step of training.

    With `outer.num_steps = 0`, since nothing is handed on to another run.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "online".
        tuned: What adapts of "learning_rates", starting from that of `[inner.optimizer]`, and
            "penalties".
        granularity: What has values of its own: each "parameter", each "tensor", or all weights
            together ("scalar").
        rule: A step by the "sign" of the hypergradient, by itself ("raw"), or by its "cosine".
        log_step: Step of the values' natural logs.
        initial_log_l2: Natural log of the initial penalties, those of Σ exp(log_l2)·w².
    """

    headline: ClassVar[str] = "test_error"

    kind: Literal["online"] = "online"
    tuned: tuple[Literal["learning_rates", "penalties"], ...] = ("learning_rates", "penalties")
    granularity: Literal["parameter", "tensor", "scalar"] = "parameter"
    rule: Literal["sign", "raw", "cosine"] = "sign"
    log_step: Annotated[float, above(0)] = 0.01
    initial_log_l2: float = -9.0
