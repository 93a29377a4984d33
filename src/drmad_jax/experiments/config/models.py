"""The kinds of section `[model]`."""

from typing import Annotated, Literal

from pydantic import Field

from drmad_jax.experiments.config.section import Log, PositiveInt, Section, a_list, one_of

# Of layers, and what else a model has one after the other or side by side.
Integers = Annotated[tuple[PositiveInt, ...], a_list("an integer"), Field(max_length=100)]
# In pixels; no image is larger.
Side = Annotated[PositiveInt, Field(le=128)]
Activation = Literal["tanh", "relu", "gelu", "silu"]


class MLPConfig(Section):
    """Section `[model]`, a multi-layer perceptron.

    Attributes:
        hidden: Units of each hidden layer.
        activation: Name of the activation between layers.
        init_log_scale: Natural log of the standard deviation of the initial weights and biases
            (Maclaurin et al. 2015: -3), or "lecun" for LeCun's fan-in scale and zero biases.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: Integers = (50, 50, 50)
    activation: Activation = "tanh"
    init_log_scale: Log | Literal["lecun"] = -3.0


class ConvConfig(Section):
    """Section `[model]`, a small convolutional network.

    Attributes:
        channels: Output channels of each convolution; each halves the sides of the image.
        kernel_size: Side of the kernels.
        activation: Name of the activation after each convolution.
    """

    kind: Literal["conv"] = "conv"
    channels: Integers = (8, 16)
    kernel_size: Side = 3
    activation: Activation = "silu"


class DenseNetConfig(Section):
    """Section `[model]`, DenseNet without bottlenecks (Huang et al. 2017).

    Attributes:
        depth: Layers in all, 3n + 4 with n of them in each of three blocks; published: 40.
        growth: Output channels of each layer of a block; published: 12.
        stem_channels: Output channels of the first convolution; published: 16.
        stem_stride: Step of the first convolution; published: 1. With 2 a step costs a quarter.
        dropout: Share of each layer's outputs that training drops; published: 0.2.
    """

    kind: Literal["densenet"] = "densenet"
    depth: Annotated[PositiveInt, Field(le=400)] = 40
    growth: PositiveInt = 12
    stem_channels: PositiveInt = 16
    stem_stride: Side = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2


class PyramidConfig(Section):
    """Section `[model]`, a convolutional network that labels pixels, with several scales.

    Attributes:
        width: Channels of every convolution.
        dilations: Steps of the convolutions side by side.
    """

    kind: Literal["pyramid"] = "pyramid"
    width: PositiveInt = 8
    dilations: Integers = (1, 2, 4)


class NoModel(Section):
    """Section `[model]` of a task that makes its own model: it is left out."""

    kind: Literal["none"] = "none"

    @classmethod
    def _unknown(cls) -> str:
        return "unknown key: a problem of your own (task.module) makes its model itself"

    def to_table(self) -> None:
        """Nothing to write."""


KINDS = MLPConfig, ConvConfig, DenseNetConfig, PyramidConfig
ModelConfig = Annotated[
    MLPConfig | ConvConfig | DenseNetConfig | PyramidConfig, one_of(lambda: KINDS)
]
