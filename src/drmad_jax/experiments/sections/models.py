"""The kinds of section `[model]`."""

import dataclasses
from typing import Literal

from drmad_jax.experiments.schema import PositiveInt


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
