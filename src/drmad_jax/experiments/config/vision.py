"""The kinds of section `[task]` that train on images changed at random."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from drmad_jax.experiments.config.section import above, below


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Section `[task]`: learn how strongly to augment images, and to smooth labels.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "augmentation".
        tuned: What is learned, one strength each; what is not in the list is not done at all.
            Largest changes are drawn evenly between both directions: "shift" and the side of a
            "cutout" hole in shares of the image's side, "rotation" in radians, "zoom" and
            "contrast" as logs of a factor, "brightness" in intensities from 0 to 1, and the
            standard deviation of "noise". "smoothing" is the share of each label spread evenly
            over all classes.
        initial: The strengths that tuning starts from.
    """

    headline: ClassVar[str] = "test_error"

    kind: Literal["augmentation"] = "augmentation"
    tuned: tuple[
        Literal[
            "shift", "rotation", "zoom", "contrast", "brightness", "noise", "cutout", "smoothing"
        ],
        ...,
    ] = ("shift", "rotation", "zoom", "contrast", "brightness", "noise", "cutout", "smoothing")
    initial: Annotated[float, above(0), below(1)] = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloudsTaskConfig:
    """Section `[task]`: learn how to train a network that finds clouds and their shadows.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "clouds".
        tuned: What is learned: "penalties", a log L2 penalty for each layer's kernel;
            "class_weights", the log of each class's weight in the training loss; "augmentation",
            how strongly each band is brightened and made noisy. What is not in the list keeps its
            start: the initial penalties, equal weights, no augmentation.
        initial_log_l2: Natural log of the initial penalties.
        initial_strength: Augmentation that tuning starts from: the largest log of a band's factor,
            and the standard deviation of its noise in reflectance.
        outer_loss: What is to be small on validation patches: "soft_iou", 1 - mean intersection
            over union of probabilities, or the plain "cross_entropy".
    """

    headline: ClassVar[str] = "mean_iou"

    kind: Literal["clouds"] = "clouds"
    tuned: tuple[Literal["penalties", "class_weights", "augmentation"], ...] = (
        "penalties",
        "class_weights",
        "augmentation",
    )
    initial_log_l2: float = -9.0
    initial_strength: Annotated[float, above(0), below(1)] = 0.02
    outer_loss: Literal["soft_iou", "cross_entropy"] = "soft_iou"
