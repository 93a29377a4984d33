"""Whether a configuration can be run at all: it is asked before anything large is made."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.errors import ConfigError, ExperimentError
from drmad_jax.experiments.runs.outer_step import init_carry, outer_key
from drmad_jax.experiments.tasks import Task
from drmad_jax.experiments.tasks.base import train_once
from drmad_jax.experiments.user_code import told_of_user_code

# Of a method's arguments those that say how many training states it has at a time, for each.
_STATES_EACH = {"num_directions": 1, "num_pairs": 2}
_MEND = (
    "take less data, a smaller model or inner.batch_size, or a method that keeps fewer states "
    "(drmad-jax methods)"
)


@contextlib.contextmanager
def told_of_config(what: str = "this configuration cannot be run") -> Iterator[None]:
    """Tells of a configuration that cannot be traced or compiled.

    Args:
        what: The beginning of the sentence.

    Yields:
        Nothing.

    Raises:
        UserCodeError: In place of what the user's own code raises.
        ConfigError: In place of what arguments that fit no function make it raise.
        ExperimentError: Where the device has too little memory.
    """
    try:
        with told_of_user_code():
            yield
    except ExperimentError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, NotImplementedError) as error:
        said = str(error).partition("\n\n")[0] or type(error).__name__
        raise ConfigError(f"{what}: {said}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).partition("\n")[0]
        raise ExperimentError(f"the device is out of memory ({said}); {_MEND}") from error


def check_data(config: Config) -> None:
    """Refuses more examples than there is memory for.

    Args:
        config: The configuration.

    Raises:
        ConfigError: If they cannot fit.
    """
    _check(config.data.num_bytes, "its examples alone need")


def check_training(config: Config, task: Task, data: PyTree) -> None:
    """Refuses models, hyperparameters and counts of states that there is no memory for.

    Args:
        config: The configuration.
        task: Its task.
        data: The task's data.

    Raises:
        ConfigError: If they cannot fit, or cannot be trained with at all.
    """

    def everything(key: Any, data: PyTree) -> PyTree:
        carry, inputs = init_carry(config, task), task.sample(key, data)
        return carry, train_once(task.problem, carry.hparams, inputs, config.inner.num_steps)

    # Those of a problem of one's own come from there.
    module = getattr(config.task, "module", None)
    whose = f" with {module}" if module else ""
    with told_of_config(f"this configuration cannot be run{whose}"):
        carry, state = jax.eval_shape(everything, outer_key(config, 0), data)
    arguments = config.method.parameters()
    count = max(1, *(n * arguments.get(name, 0) for name, n in _STATES_EACH.items()))
    # Of what is trained and what is tuned there is the value and its gradient.
    needed = tree.num_bytes(data) + 2 * tree.num_bytes(carry) + 2 * count * tree.num_bytes(state)
    _check(needed, f"data, hyperparameters and {2 * count:,} training states need")


def check_program(compiled: Any) -> None:
    """Refuses a compiled program that needs more memory than there is.

    Args:
        compiled: What JAX compiled, which knows all that it will need.

    Raises:
        ConfigError: If it cannot fit.
    """
    found = compiled.memory_analysis()
    if found is not None:
        needed = found.argument_size_in_bytes + found.temp_size_in_bytes
        _check(needed, "data and training states need")


def _check(needed: int, what: str) -> None:
    there = _memory()
    if there is not None and needed > there:
        raise ConfigError(
            f"this configuration cannot be run: {what} {needed / 2**30:,.1f} GiB of memory, and "
            f"there are {there / 2**30:,.1f} in all; {_MEND}"
        )


def _memory() -> int | None:
    """All memory of the device, or of the machine where that is its own; `None` if unknown."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
