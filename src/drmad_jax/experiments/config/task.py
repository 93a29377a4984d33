"""Section `[task]`: a kind for each task that registers itself.

Tasks are found as plug-ins, by the folder they are in: nothing here names one, and each of them
imports the configuration.
"""

import importlib
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import pydantic

from drmad_jax.experiments.config.section import Section

_FOLDER = "drmad_jax.experiments.tasks"


def _chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("expected at least one name; for no tuning set outer.num_steps = 0")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"{name!r} is there twice")
    return names


# For `Annotated`: a list of what is learned has something in it, and nothing twice.
chosen = pydantic.AfterValidator(_chosen)


class TaskConfig(Section):
    """Base of the sections `[task]`.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: The task's name, a literal with itself as default.
    """

    headline: ClassVar[str] = "test_error"

    kind: Any


class Registered(NamedTuple):
    """A task: its section, and what makes it of a whole configuration."""

    section: type[TaskConfig]
    make: Callable[[Any], Any]


_TASKS: dict[str, Registered] = {}


def register(section: type[TaskConfig], make: Callable[[Any], Any]) -> None:
    """Lets configurations name a task.

    Args:
        section: Its section `[task]`.
        make: Makes the task of a configuration with this section.
    """
    _TASKS[section.model_fields["kind"].default] = Registered(section, make)


def registered() -> dict[str, Registered]:
    """Every task by its kind."""
    importlib.import_module(_FOLDER)
    return _TASKS


def sections() -> dict[str, type[TaskConfig]]:
    """The sections of every task by its kind."""
    return {kind: task.section for kind, task in registered().items()}
