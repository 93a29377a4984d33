"""The sections of a configuration: every key, its type and its meaning.

Where a section comes in several kinds, the first one is meant if the key `kind` is left out.
"""

from drmad_jax.experiments.sections.data import AlphabetsConfig, ImagesConfig
from drmad_jax.experiments.sections.loop import InnerConfig, JudgeConfig, OuterConfig
from drmad_jax.experiments.sections.models import MLPConfig
from drmad_jax.experiments.sections.tasks import (
    HyperCleaningConfig,
    L2Config,
    LearnedDataConfig,
    SharingConfig,
    TrainingConfig,
)

__all__ = [
    "AlphabetsConfig",
    "DataConfig",
    "HyperCleaningConfig",
    "ImagesConfig",
    "InnerConfig",
    "JudgeConfig",
    "L2Config",
    "LearnedDataConfig",
    "MLPConfig",
    "ModelConfig",
    "OuterConfig",
    "SharingConfig",
    "TaskConfig",
    "TrainingConfig",
]

DataConfig = ImagesConfig | AlphabetsConfig
ModelConfig = MLPConfig
TaskConfig = L2Config | HyperCleaningConfig | LearnedDataConfig | TrainingConfig | SharingConfig
