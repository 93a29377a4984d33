"""Tasks: what is trained, what is tuned, and how it is judged; one module each."""

from drmad_jax.experiments.config import Config
from drmad_jax.experiments.tasks.augmentation import AugmentationTask
from drmad_jax.experiments.tasks.base import Inputs, Task
from drmad_jax.experiments.tasks.clouds import CloudsTask
from drmad_jax.experiments.tasks.hyper_cleaning import HyperCleaningTask
from drmad_jax.experiments.tasks.l2 import L2Task
from drmad_jax.experiments.tasks.learned_data import LearnedDataTask
from drmad_jax.experiments.tasks.online import OnlineTask
from drmad_jax.experiments.tasks.sharing import SharingTask
from drmad_jax.experiments.tasks.training import TrainingTask

__all__ = ["Inputs", "Task", "make_task"]

_TASKS = {
    "l2": L2Task.of,
    "hyper_cleaning": HyperCleaningTask.of,
    "learned_data": LearnedDataTask.of,
    "training": TrainingTask.of,
    "sharing": SharingTask.of,
    "augmentation": AugmentationTask.of,
    "clouds": CloudsTask.of,
    "online": OnlineTask.of,
}


def make_task(config: Config) -> Task:
    """The task that section `[task]` asks for.

    Args:
        config: The whole configuration.

    Returns:
        A frozen value.

    Raises:
        ConfigError: If the task does not work with the kinds of the other sections.
    """
    return _TASKS[config.task.kind](config)
