"""A problem of one's own: a function that the configuration names."""

import functools
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, PyTree

import drmad_jax as dj
from drmad_jax.experiments import user_code
from drmad_jax.experiments.config.data import ArraysConfig, ImagesConfig, NoData
from drmad_jax.experiments.config.models import NoModel
from drmad_jax.experiments.config.section import Section, Text, dump, refuse, suggest
from drmad_jax.experiments.config.task import TaskConfig
from drmad_jax.experiments.data.batches import FullBatch, inner_batches
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.metrics import RESERVED
from drmad_jax.experiments.own import Given, OwnTask
from drmad_jax.experiments.tasks.base import Inputs, Scores, Task, task
from drmad_jax.experiments.tasks.classification import hold_out

_KEYS = ("kind", "module", "sha256")


class OwnConfig(TaskConfig):
    """Section `[task]`: a problem of one's own.

    Attributes:
        module: "FILE.py:FUNCTION", the file relative to the config, or "package.module:FUNCTION".
            The function returns a `drmad_jax.experiments.own.OwnTask`.
        sha256: Of the file, as `run` and `compare` note it in their folder; not to be set.
        options: All other keys of the section, the function's keyword arguments.
    """

    headline: ClassVar[str] = ""
    names_code: ClassVar[bool] = True

    kind: Literal["own"] = "own"
    module: Text
    sha256: Text = ""
    options: dict[str, Any] = {}

    _reference: user_code.Reference | None = pydantic.PrivateAttr(None)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _check_keys(cls, table: Any) -> Any:
        """Sets the function's arguments apart, which nobody can check without running it."""
        if not isinstance(table, Mapping):
            return table
        options = {key: value for key, value in table.items() if key not in _KEYS}
        for key, value in options.items():
            if not _is_plain(value):
                refuse(key, "expected plain values, of finite numbers and printable words")
        return {key: table[key] for key in _KEYS if key in table} | {"options": options}

    def to_table(self) -> dict[str, Any]:
        """The section as it is written in a config."""
        table = {key: getattr(self, key) for key in _KEYS if getattr(self, key)}
        return table | dump(self.options)

    def given_on_purpose(self, folder: Path) -> Self:
        """The same section, whose code may be run."""
        if self.sha256:
            raise ConfigError(
                "task.sha256: stands in the record of a run, which is not run again; give the "
                "config that it was made from"
            )
        reference = user_code.find(self.module, folder)
        section = self.model_copy(update={"sha256": reference.sha256})
        section._reference = reference
        return section

    def call(self, given: Given) -> OwnTask:
        """Calls the function.

        Args:
            given: Its first argument.

        Returns:
            What it returns.

        Raises:
            ConfigError: If it was not given on purpose, takes other arguments, returns something
                else, or raises something.
        """
        if self._reference is None:
            raise ConfigError(
                f"task.module: {self.module} is code, which runs only for a config that is given "
                "to `drmad-jax run` or `compare` itself (in Python: "
                "config.load(FILE, runs_code=True))"
            )
        function = user_code.load(self._reference)
        name = f"{self._reference.function} of {self._reference.file.name}"
        _check_arguments(function, name, self.options)
        with user_code.told_of_user_code():
            made = function(given, **self.options)
        if not isinstance(made, OwnTask):
            raise ConfigError(
                f"task.module: {name} must return a drmad_jax.experiments.own.OwnTask, got "
                f"{made!r:.80}"
            )
        given.check_all_is_used(name, draws_minibatches=not callable(made.train))
        return made


@task(OwnConfig, data=(NoData, ArraysConfig, ImagesConfig), model=[NoModel])
class ConfiguredTask(Task[OwnConfig, Section, Section]):
    """Trains and tunes what a function of the user's returns; all names here are the user's."""

    def check(self) -> None:
        """Calls the function, and sees that there are enough examples for a minibatch."""
        size, train = self.config.inner.batch_size, self.own.train
        if callable(train):
            return
        count = jax.tree.leaves(train)[0].shape[0] - self.own.num_valid
        if size > count:
            raise ConfigError(
                f"inner.batch_size: must not exceed the {count} training examples that "
                f"{self.task.module} leaves, got {size}"
            )

    @functools.cached_property
    def own(self) -> OwnTask:
        """What the function returned, which is called once."""
        return self.task.call(Given(self.config))

    @property
    def problem(self) -> dj.Problem:
        """The problem."""
        return self.own.problem

    @property
    def project(self) -> Any:
        """The projection."""
        return self.own.project

    def load_data(self) -> dict[str, PyTree]:
        """All arrays, so that they are no constants of what is compiled."""
        names = ("train", "valid", "test")
        found = {name: getattr(self.own, name) for name in names}
        return jax.device_put({k: None if callable(v) else v for k, v in found.items()})

    def init_hparams(self) -> PyTree:
        """The hyperparameters as they came, plain numbers as arrays like those of later steps."""
        array = lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf))
        return jax.tree.map(array, self.own.hparams)

    def sample(self, key: Array, data: PyTree) -> Inputs:
        """New weights, new batches, and a new validation set where it is drawn."""
        own = self.own
        split_key, params_key, batch_key, run_key = jax.random.split(key, 4)
        train, valid = data["train"], data["valid"]
        if own.num_valid:
            train, valid = hold_out(split_key, train, own.num_valid)
        size = self.config.inner.batch_size
        if callable(own.train):
            batches = own.train(batch_key)
        else:
            batches = inner_batches(train, size, batch_key) if size else FullBatch(train)
        valid = own.valid(batch_key) if callable(own.valid) else valid
        make_state = own.init_model_state
        state = None if make_state is None else make_state(jax.random.fold_in(params_key, 1))
        return Inputs(own.init(params_key), batches, valid, state, run_key)

    def evaluate(self, state: dj.TrainState, hparams: PyTree, data: PyTree) -> Scores:
        """The user's metrics."""
        if self.own.metrics is None:
            return {}
        given = {} if state.model_state is None else {"model_state": state.model_state}
        found = self.own.metrics(state.params, hparams, data["test"], **given)
        return _checked(found, self.task.module)


def _check_arguments(function: Any, name: str, options: Mapping[str, Any]) -> None:
    """Makes sure that the section's keys are arguments, and all that have no default are there."""
    parameters = list(inspect.signature(function).parameters.values())
    variadic = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    named = [p for p in parameters if p not in variadic]
    if not named or named[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ConfigError(f"task.module: {name} must take what is given as its first argument")
    known = {p.name: p.default is p.empty for p in named[1:]}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in variadic)
    for key in options:
        if key not in known and not takes_any:
            raise ConfigError(
                f"task.{key}: {name} has no such argument; {suggest(key, known, 'task')}"
            )
    missing = [f"task.{key}" for key, needed in known.items() if needed and key not in options]
    if missing:
        raise ConfigError(f"{missing[0]}: missing; {name} needs {', '.join(missing)}")


def _checked(found: Any, module: str) -> Scores:
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ConfigError(
            f"task.module: `metrics` of {module} must return scalars by name, got {found!r:.80}"
        )
    for name, value in found.items():
        if name in RESERVED or not name.isidentifier():
            raise ConfigError(
                f"task.module: `metrics` of {module} must not be called {name!r}; expected a plain "
                f"name other than {', '.join(RESERVED)}"
            )
        if jnp.shape(value) != ():
            raise ConfigError(
                f"task.module: `metrics` of {module} must return scalars, got {name} of shape "
                f"{jnp.shape(value)}"
            )
    return {name: jnp.asarray(value, float) for name, value in found.items()}


def _is_plain(value: Any) -> bool:
    """Whether a value can be written, read again and compared."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and k.isprintable() for k in value) and all(
            map(_is_plain, value.values())
        )
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, str) or value.isprintable()
