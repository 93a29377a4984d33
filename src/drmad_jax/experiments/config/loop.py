"""The sections on training, tuning and judging."""

from drmad_jax.experiments.config.factories import Optimizer
from drmad_jax.experiments.config.section import Count, PositiveInt, Section


class InnerConfig(Section):
    """Section `[inner]`: one training run.

    Attributes:
        num_steps: Steps of training, T.
        batch_size: Examples per minibatch, drawn with replacement.
        optimizer: An optax optimizer by name, with its arguments.
    """

    num_steps: PositiveInt
    batch_size: PositiveInt
    optimizer: Optimizer


class OuterConfig(Section):
    """Section `[outer]`: the tuning of the hyperparameters.

    Attributes:
        num_steps: Updates of the hyperparameters, each after one training run; 0 for no tuning,
            to judge what tuning starts from.
        optimizer: An optax optimizer by name, with its arguments.
    """

    num_steps: Count
    optimizer: Optimizer


class JudgeConfig(Section):
    """Section `[judge]`: what tuning was worth, on seeds that it never saw.

    Attributes:
        num_seeds: Training runs with the first and with the final hyperparameters each, on the
            same fresh seeds; 0 for none. One seed gives no interval.
    """

    num_seeds: Count = 0
