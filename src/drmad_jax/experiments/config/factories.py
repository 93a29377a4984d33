"""Config sections that call a function by its name: `name = "adam"`, the other keys its arguments.

An argument may be such a table, too: `num_reverse_steps = {name = "measured_steps", cap = 50}`.

Optimizers are looked up in optax and methods in drmad_jax, and the remaining keys are checked
against the function's signature, so that whatever these packages offer can be written in a config.
"""

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import optax

import drmad_jax as dj
from drmad_jax.experiments.config import section as schema
from drmad_jax.experiments.errors import ConfigError

# Line searches ask for the loss as a function, which an unrolled step does not have.
_UNSUITABLE_OPTIMIZERS = ("lbfgs",)


@dataclasses.dataclass(frozen=True)
class Factory:
    """A function's name and its arguments.

    Attributes:
        name: The function's name.
        options: The keyword arguments given in the config; the others keep their defaults.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_arguments(cls) -> type["Factory"]:
        """What reads the arguments that are tables."""
        return cls

    @classmethod
    def choices(cls) -> dict[str, Callable[..., Any]]:
        """The functions that can be named."""
        raise NotImplementedError

    @classmethod
    def from_table(cls, table: Mapping[str, Any], path: str) -> Self:
        """Reads the section, and checks it by building the value once.

        Args:
            table: The section, `name` and arguments.
            path: Dotted key of the section.

        Returns:
            The checked section.

        Raises:
            ConfigError: If the name is unknown, or the arguments do not fit the signature.
        """
        schema.check_missing(table, ["name"], path)
        name = schema.convert(table["name"], str, schema.join(path, "name"))
        options = {key: value for key, value in table.items() if key != "name"}
        choices = cls.choices()
        if name not in choices:
            raise ConfigError(
                f"{path}.name: unknown name {name!r}; {schema.suggest(name, choices)}"
            )
        _check_options(choices[name], name, options, path)
        read = cls.of_arguments().from_table
        calls = {key: value for key, value in options.items() if isinstance(value, Mapping)}
        made = {key: read(value, schema.join(path, key)) for key, value in calls.items()}
        section = cls(name, options | made)
        try:
            section.build()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return section

    def to_table(self) -> dict[str, Any]:
        """The section as it is written in a config."""
        return {"name": self.name} | {key: schema.dump(x) for key, x in self.options.items()}

    def build(self) -> Any:
        """Calls the function."""
        made = {key: _made(value) for key, value in self.options.items()}
        return self.choices()[self.name](**made)

    def parameters(self) -> dict[str, Any]:
        """Every argument of the function with the value it takes, defaults included."""
        signature = inspect.signature(self.choices()[self.name])
        return {p.name: p.default for p in signature.parameters.values()} | dict(self.options)

    def __str__(self):
        arguments = ", ".join(f"{key}={_shown(value)}" for key, value in self.options.items())
        return f"{self.name}({arguments})"


@dataclasses.dataclass(frozen=True)
class Optimizer(Factory):
    """A section naming an optax optimizer, such as `name = "adam"` and `learning_rate = 0.3`."""

    @classmethod
    def choices(cls) -> dict[str, Callable[..., optax.GradientTransformation]]:
        """The public optimizers of optax."""
        return {name: value for name, value in vars(optax).items() if _is_optimizer(name, value)}


@dataclasses.dataclass(frozen=True)
class Method(Factory):
    """A section naming a hypergradient method of drmad_jax, such as `name = "drmad"`."""

    @classmethod
    def choices(cls) -> dict[str, Callable[..., dj.Method | dj.Estimator]]:
        """The public methods of drmad_jax."""
        functions = {name: value for name, value in vars(dj).items() if inspect.isfunction(value)}
        return {name: value for name, value in functions.items() if _makes_method(value)}

    @classmethod
    def of_arguments(cls) -> type[Factory]:
        """Other methods, and numbers of steps that are measured."""
        return MethodArgument


class MethodArgument(Method):
    """A table within section `[method]`: what an argument of a method is made by."""

    @classmethod
    def choices(cls) -> dict[str, Callable[..., Any]]:
        """The methods, such as that of `truncated`, and `measured_steps` for `drmad`."""
        return Method.choices() | {"measured_steps": dj.measured_steps}


def _made(value: Any) -> Any:
    return value.build() if isinstance(value, Factory) else value


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Factory) else repr(value)


def _is_optimizer(name: str, value: object) -> bool:
    if name.startswith(("_", "scale_by_")) or name in _UNSUITABLE_OPTIMIZERS:
        return False
    return inspect.isfunction(value) and "learning_rate" in inspect.signature(value).parameters


def _makes_method(function: Callable[..., Any]) -> bool:
    made = typing.get_type_hints(function).get("return")
    return hasattr(made, "backward") or hasattr(made, "estimate")


def _check_options(
    function: Callable[..., Any], name: str, options: Mapping[str, Any], path: str
) -> None:
    """Checks names, then types where the annotations speak of plain values."""
    parameters = inspect.signature(function).parameters
    for key in options:
        if key not in parameters:
            hint = schema.suggest(key, parameters, path)
            raise ConfigError(f"{schema.join(path, key)}: {name} has no such argument; {hint}")
    required = [key for key, p in parameters.items() if p.default is inspect.Parameter.empty]
    schema.check_missing(options, required, path)
    hints = _hints(function)
    for key, value in options.items():
        allowed = _plain_types(hints.get(key))
        is_call = isinstance(value, Mapping) and "name" in value
        if allowed and not is_call and not _fits(value, allowed):
            wanted = " or ".join(dict.fromkeys(schema.expected(hint) for hint in allowed))
            raise ConfigError(
                f"{schema.join(path, key)}: expected {wanted}, got {schema.describe(value)}"
            )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the arguments, but for those that cannot be evaluated from outside."""
    found = {}
    for name, annotation in inspect.get_annotations(function).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(NameError):
            found |= typing.get_type_hints(alone, getattr(function, "__globals__", {}))
    return found


def _plain_types(hint: Any) -> list[Any]:
    """The plain types in an annotation, those that a TOML value can have."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [t for member in typing.get_args(hint) for t in _plain_types(member)]
        # optax writes ArrayLike for "a number", which takes in `bool`.
        return [t for t in members if t is not bool] if float in members else members
    if hint is jax.Array:
        return [float]
    if typing.get_origin(hint) is Sequence:
        return [tuple[*typing.get_args(hint), ...]]
    is_checkable = typing.get_origin(hint) is typing.Literal or hint in (int, float, bool, str)
    return [hint] if is_checkable else []


def _fits(value: object, allowed: list[Any]) -> bool:
    for hint in allowed:
        try:
            schema.convert(value, hint, "")
        except ConfigError:
            continue
        return True
    return False
