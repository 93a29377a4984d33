"""The sections of a configuration: every key, its type and its meaning.

Where a section comes in several kinds, the first one is meant if the key `kind` is left out.
"""

from drmad_jax.experiments.sections.data import AlphabetsConfig, ImagesConfig
from drmad_jax.experiments.sections.loop import InnerConfig, JudgeConfig, OuterConfig
from drmad_jax.experiments.sections.models import MLPConfig
from drmad_jax.experiments.sections.tasks import L2Config, SharingConfig, TrainingConfig

__all__ = [
    "AlphabetsConfig",
    "DataConfig",
    "ImagesConfig",
    "InnerConfig",
    "JudgeConfig",
    "L2Config",
    "MLPConfig",
    "ModelConfig",
    "OuterConfig",
    "SharingConfig",
    "TaskConfig",
    "TrainingConfig",
]

# Unions once there are several kinds.
DataConfig = ImagesConfig | AlphabetsConfig
ModelConfig = MLPConfig
TaskConfig = L2Config | TrainingConfig | SharingConfig
