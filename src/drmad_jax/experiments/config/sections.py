"""The sections of a configuration: every key, its type and its meaning.

Where a section comes in several kinds, the first one is meant if the key `kind` is left out.
"""

from drmad_jax.experiments.config.data import AlphabetsConfig, CloudsConfig, ImagesConfig
from drmad_jax.experiments.config.loop import InnerConfig, JudgeConfig, OuterConfig
from drmad_jax.experiments.config.models import (
    ConvConfig,
    DenseNetConfig,
    MLPConfig,
    PyramidConfig,
)
from drmad_jax.experiments.config.tasks import (
    HyperCleaningConfig,
    L2Config,
    LearnedDataConfig,
    OnlineConfig,
    SharingConfig,
    TrainingConfig,
)
from drmad_jax.experiments.config.vision import AugmentationConfig, CloudsTaskConfig

__all__ = [
    "AlphabetsConfig",
    "AugmentationConfig",
    "CloudsConfig",
    "CloudsTaskConfig",
    "ConvConfig",
    "DataConfig",
    "DenseNetConfig",
    "HyperCleaningConfig",
    "ImagesConfig",
    "InnerConfig",
    "JudgeConfig",
    "L2Config",
    "LearnedDataConfig",
    "MLPConfig",
    "ModelConfig",
    "OnlineConfig",
    "OuterConfig",
    "PyramidConfig",
    "SharingConfig",
    "TaskConfig",
    "TrainingConfig",
]

DataConfig = ImagesConfig | AlphabetsConfig | CloudsConfig
ModelConfig = MLPConfig | ConvConfig | DenseNetConfig | PyramidConfig
TaskConfig = (
    L2Config
    | HyperCleaningConfig
    | LearnedDataConfig
    | TrainingConfig
    | SharingConfig
    | AugmentationConfig
    | CloudsTaskConfig
    | OnlineConfig
)
