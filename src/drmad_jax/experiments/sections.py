"""The sections of a configuration: every key, its type and its meaning."""

import dataclasses
from typing import Literal

from drmad_jax.experiments.factories import Optimizer
from drmad_jax.experiments.schema import Count, PositiveInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Section `[data]`.

    Attributes:
        dataset: "digits" (comes with scikit-learn), "mnist" or "fashion_mnist" (`drmad-jax
            prepare`).
        num_train: Examples from which training and validation sets are drawn again at every outer
            step: the first ones of the training split.
        num_valid: How many of those are held out for validation.
        num_test: Test examples: the first ones of the test split, never trained or tuned on.
    """

    dataset: Literal["digits", "mnist", "fashion_mnist"]
    num_train: PositiveInt
    num_valid: PositiveInt
    num_test: PositiveInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Section `[model]`, a multi-layer perceptron.

    Attributes:
        kind: "mlp".
        hidden: Units of each hidden layer.
        activation: Name of the activation between layers.
        init_log_scale: Natural log of the standard deviation of the initial weights and biases
            (Maclaurin et al. 2015: -3), or "lecun" for LeCun's fan-in scale and zero biases.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (50, 50, 50)
    activation: Literal["tanh", "relu", "gelu", "silu"] = "tanh"
    init_log_scale: float | Literal["lecun"] = -3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2Config:
    """Section `[task]`: learn L2 penalties of the weights (biases have none).

    Attributes:
        kind: "l2".
        granularity: What shares one penalty: the weights out of one input "unit", those of one
            "layer", each "parameter" alone, or all weights ("global").
        coordinates: "penalty" adds Σ exp(log_l2)·w² to the loss. "rescaled" is the published
            form: the network uses w = z·exp(t), training moves z, the penalty is exp(-4)·‖z‖²,
            and t is the hyperparameter, so that log_l2 = -4 - 2t.
        initial_log_l2: Natural log of the initial penalties; published: -4.4 (t = .2).
    """

    kind: Literal["l2"] = "l2"
    granularity: Literal["unit", "layer", "parameter", "global"] = "unit"
    coordinates: Literal["penalty", "rescaled"] = "penalty"
    initial_log_l2: float = -4.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """Section `[inner]`: one training run.

    Attributes:
        num_steps: Steps of training, T.
        batch_size: Examples per minibatch, drawn with replacement.
        optimizer: An optax optimizer by name, with its arguments.
    """

    num_steps: PositiveInt
    batch_size: PositiveInt
    optimizer: Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """Section `[outer]`: the tuning of the hyperparameters.

    Attributes:
        num_steps: Updates of the hyperparameters, each after one training run; 0 for no tuning,
            to judge what tuning starts from.
        optimizer: An optax optimizer by name, with its arguments.
    """

    num_steps: Count
    optimizer: Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Section `[judge]`: what tuning was worth, on seeds that it never saw.

    Attributes:
        num_seeds: Training runs with the first and with the final hyperparameters each, on the
            same fresh seeds; 0 for none. One seed gives no interval.
    """

    num_seeds: Count = 0
