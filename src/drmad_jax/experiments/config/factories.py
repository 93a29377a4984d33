"""Config sections that call a function by its name: `name = "adam"`, the other keys its arguments.

An argument may be such a table, too: `steps = {name = "measured_steps", cap = 50}`.

Optimizers are looked up in optax and methods in drmad_jax, and the remaining keys are checked
against the function's signature, so that whatever these packages offer can be written in a config.
"""

import contextlib
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import jax
import optax
import pydantic
from pydantic_core import core_schema

import drmad_jax as dj
from drmad_jax.experiments.config.section import (
    MOST_ITEMS,
    MOST_STEPS,
    Section,
    a_list,
    describe,
    dump,
    refuse,
    shown,
    suggest,
)
from drmad_jax.experiments.errors import ConfigError

# Line searches ask for the loss as a function, which an unrolled step does not have.
_UNSUITABLE_OPTIMIZERS = ("lbfgs",)
# What an argument of a method may be made by, beside the methods themselves.
_ARGUMENTS = (
    "knots", "means",
    "every_step", "measured_steps", "segments", "strided_steps",
    "conjugate_gradient", "neumann_series", "nystrom",
)  # fmt: skip
_WORDS = {int: "an integer", float: "a finite number", str: "a string"}


@dataclasses.dataclass(frozen=True)
class Factory:
    """A function's name and its arguments.

    Attributes:
        name: The function's name.
        options: The keyword arguments given in the config; the others keep their defaults.
        most: The largest integer that is taken.
    """

    most: ClassVar[int] = 2**31 - 1

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def choices(cls) -> dict[str, Callable[..., Any]]:
        """The functions that can be named."""
        raise NotImplementedError

    @classmethod
    def makers(cls) -> dict[str, Callable[..., Any]]:
        """The functions by which an argument can be made."""
        return cls.choices()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Reads the section, and checks it by building the value once."""
        return core_schema.no_info_plain_validator_function(lambda table: cls._read(table))

    @classmethod
    def _read(cls, table: Any, *, is_argument: bool = False) -> Self:
        """Reads a table, that of the section itself or that of an argument."""
        if isinstance(table, cls):
            return table
        if not isinstance(table, Mapping):
            raise ValueError(f"expected a table, got {describe(table)}")
        choices = cls.makers() if is_argument else cls.choices()
        name = table.get("name")
        if not isinstance(name, str):
            refuse("name", "missing" if name is None else "string_type", name)
        if name not in choices:
            refuse("name", f"unknown name {name!r}; {suggest(name, choices)}")
        options = {key: value for key, value in table.items() if key != "name"}
        for key, value in options.items():
            _check_size(key, value, cls.most)
        arguments = _arguments(choices[name], cls).model_validate(options)
        calls = {key: value for key, value in arguments if isinstance(value, Factory)}
        section = cls(name, options | {key: calls[key] for key in options if key in calls})
        try:
            section.build()
        except (ArithmeticError, LookupError, TypeError) as error:
            raise ValueError(f"{error} in {section}") from error
        return section

    def to_table(self) -> dict[str, Any]:
        """The section as it is written in a config."""
        return {"name": self.name} | {key: dump(value) for key, value in self.options.items()}

    def build(self) -> Any:
        """Calls the function."""
        options = self.options.items()
        made = {k: value.build() if isinstance(value, Factory) else value for k, value in options}
        return self.makers()[self.name](**made)

    def parameters(self) -> dict[str, Any]:
        """Every argument of the function with the value it takes, defaults included."""
        signature = inspect.signature(self.makers()[self.name])
        return {p.name: p.default for p in signature.parameters.values()} | dict(self.options)

    def __str__(self):
        shown = {k: v if isinstance(v, Factory) else repr(v) for k, v in self.options.items()}
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in shown.items())})"


class Optimizer(Factory):
    """A section naming an optax optimizer, such as `name = "adam"` and `learning_rate = 0.3`."""

    @classmethod
    def choices(cls) -> dict[str, Callable[..., optax.GradientTransformation]]:
        """The public optimizers of optax."""
        return {name: value for name, value in vars(optax).items() if _is_optimizer(name, value)}


@dataclasses.dataclass(frozen=True)
class NoOptimizer(Optimizer):
    """In the place of a section `[inner.optimizer]` that is left out, by tasks that make their own.

    Attributes:
        name: Not written anywhere.
    """

    name: str = "none"

    def to_table(self) -> Any:
        """Nothing to write."""
        return None

    def build(self) -> Any:
        """Refuses.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("inner.optimizer: missing; the task asks for it")

    def parameters(self) -> dict[str, Any]:
        """None."""
        return {}


class Method(Factory):
    """A section naming a hypergradient method of drmad_jax, such as `name = "drmad"`."""

    # Integers count steps, or what is done in them.
    most = MOST_STEPS

    @classmethod
    def choices(cls) -> dict[str, Callable[..., dj.Method | dj.Estimator]]:
        """The public methods of drmad_jax."""
        functions = {name: value for name, value in vars(dj).items() if inspect.isfunction(value)}
        return {name: value for name, value in functions.items() if _makes_method(value)}

    @classmethod
    def makers(cls) -> dict[str, Callable[..., Any]]:
        """The methods, such as that of `truncated`, and those of `_ARGUMENTS`."""
        return cls.choices() | {name: getattr(dj, name) for name in _ARGUMENTS}


class _Arguments(Section):
    @classmethod
    def _unknown(cls) -> str:
        return f"{cls.__name__} has no such argument"


def _check_size(key: str, value: Any, most: int) -> None:
    """Makes sure that numbers are none that no memory holds, and words can be printed."""
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > MOST_ITEMS:
        refuse(key, f"expected at most {MOST_ITEMS:,} items, got {len(items):,}")
    for item in items:
        if isinstance(item, int) and abs(item) > most:
            refuse(key, f"expected at most {most:,}, got {shown(item)}")
        if isinstance(item, str) and not item.isprintable():
            refuse(key, f"expected letters that can be printed, got {shown(item)}")


@functools.cache
def _arguments(function: Callable[..., Any], factory: type[Factory]) -> type[Section]:
    """The section of a function's arguments, typed where annotations speak of plain values."""
    hints = _hints(function)

    def argument(plain: Any) -> Any:
        def read(value: Any, check: Callable[[Any], Any]) -> Any:
            is_call = isinstance(value, Mapping) and ("name" in value or plain is None)
            return factory._read(value, is_argument=True) if is_call else check(value)

        return Annotated[plain or Any, pydantic.WrapValidator(read)]

    fields = {
        name: (
            argument(_plain(hints.get(name))),
            ... if parameter.default is parameter.empty else None,
        )
        for name, parameter in inspect.signature(function).parameters.items()
    }
    return pydantic.create_model(function.__name__, __base__=_Arguments, **fields)  # pyright: ignore


def _is_optimizer(name: str, value: object) -> bool:
    if name.startswith(("_", "scale_by_")) or name in _UNSUITABLE_OPTIMIZERS:
        return False
    return inspect.isfunction(value) and "learning_rate" in inspect.signature(value).parameters


def _makes_method(function: Callable[..., Any]) -> bool:
    made = typing.get_type_hints(function).get("return")
    return hasattr(made, "backward") or hasattr(made, "estimate")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the arguments, but for those that cannot be evaluated from outside."""
    found = {}
    for name, annotation in inspect.get_annotations(function).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(NameError):
            found |= typing.get_type_hints(alone, getattr(function, "__globals__", {}))
    return found


def _plain(hint: Any) -> Any:
    """The part of an annotation that a TOML value can have; `None` if there is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in map(_plain, arguments) if member is not None]
        # optax writes ArrayLike for "a number", which takes in `bool`.
        plain = [m for m in members if m not in (bool, int)] if float in members else members
        return typing.Union[tuple(plain)] if plain else None  # noqa: UP007
    if hint is jax.Array:
        return float
    if origin is Sequence:
        return Annotated[tuple[(*arguments, ...)], a_list(_WORDS.get(arguments[0], "items"))]
    is_plain = origin is typing.Literal or hint in (int, float, bool, str)
    return hint if is_plain else None
