"""Tasks: what is trained, what is tuned, and how it is judged.

A task is one file here: its section of the configuration, its class and its figures. It registers
itself by `tasks.base.task`, and is found by being in this folder.
"""

import importlib
import pkgutil

from drmad_jax.experiments.config import Config
from drmad_jax.experiments.tasks.base import Inputs, Task

__all__ = ["Inputs", "Task", "make_task"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def make_task(config: Config) -> Task:
    """The task that section `[task]` asks for.

    Args:
        config: The whole configuration.

    Returns:
        A frozen value.

    Raises:
        ConfigError: If the task does not work with the kinds of the other sections.
    """
    return config.task.make(config)
