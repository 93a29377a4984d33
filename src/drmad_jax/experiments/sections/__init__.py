"""The sections of a configuration: every key, its type and its meaning.

Where a section comes in several kinds, the first one is meant if the key `kind` is left out.
"""

from drmad_jax.experiments.sections.data import ImagesConfig
from drmad_jax.experiments.sections.loop import InnerConfig, JudgeConfig, OuterConfig
from drmad_jax.experiments.sections.models import MLPConfig
from drmad_jax.experiments.sections.tasks import L2Config, TrainingConfig

__all__ = [
    "DataConfig",
    "ImagesConfig",
    "InnerConfig",
    "JudgeConfig",
    "L2Config",
    "MLPConfig",
    "ModelConfig",
    "OuterConfig",
    "TaskConfig",
    "TrainingConfig",
]

# Unions once there are several kinds.
DataConfig = ImagesConfig
ModelConfig = MLPConfig
TaskConfig = L2Config | TrainingConfig
