"""Section `[task]`: a kind for each task.

Tasks are found as plug-ins, by the folder they are in: nothing here imports one, and each of them
imports the configuration.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import pydantic

from drmad_jax.experiments.config.section import Section

_DEFAULT = "l2"
# The kind of a problem of the user's own.
OWN = "own"


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
    """Base of the sections `[task]`, each of which is found by its kind.

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        names_code: Whether the section names code of the user's.
        make: Makes the task of a configuration with this section; `tasks.base.task` sets it.
        kind: The task's name, a literal with itself as default.
    """

    headline: ClassVar[str] = "test_error"
    names_code: ClassVar[bool] = False
    make: ClassVar[Callable[[Any], Any]]

    kind: Any

    def given_on_purpose(self, folder: Path) -> Self:
        """The section of a file that was given to a command to be run.

        Args:
            folder: The folder of the file.

        Returns:
            The section, whose code may be run if it names any.
        """
        del folder
        return self


def names_code(table: Mapping[str, Any]) -> bool:
    """Whether a configuration's section `[task]` is that of a problem of the user's own.

    Args:
        table: The whole configuration.

    Returns:
        True if it is of the kind "own", which the key `module` says as well.
    """
    section = table.get("task")
    return (
        isinstance(section, Mapping)
        and section.get("kind", OWN if "module" in section else None) == OWN
    )


def sections() -> list[type[TaskConfig]]:
    """The section of every task, the one that is meant where none is named first."""
    importlib.import_module("drmad_jax.experiments.tasks")
    kind = lambda section: section.model_fields["kind"].default
    return sorted(TaskConfig.__subclasses__(), key=lambda section: kind(section) != _DEFAULT)
