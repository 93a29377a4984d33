"""Tables of plain values into frozen dataclasses and back, checked against their annotations.

A field's annotation is its schema: `int`, `float`, `str`, `bool`, `Literal[...]`, `tuple[X, ...]`,
unions of these, nested dataclasses, unions of dataclasses told apart by their `kind` (the first
one where it is left out), and `Annotated[X, bound]` with a bound from `above`, `below` or
`at_least`. A dataclass with the class method `from_table(table, path)` reads its own table, and
with the method `to_table()` writes it.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from drmad_jax.experiments.errors import ConfigError

T = TypeVar("T")
Bound = Callable[[Any, str], None]

_PLAIN = {int: "an integer", float: "a finite number", str: "a string", bool: "true or false"}
_KINDS = {int: "integer", float: "number", str: "string", list: "list"}


def above(limit: float) -> Bound:
    """A bound for `Annotated`: the value must be greater than `limit`."""

    def check(value: Any, path: str) -> None:
        if not value > limit:
            raise ConfigError(f"{path}: expected a value above {limit}, got {value!r}")

    return check


def at_least(limit: float) -> Bound:
    """A bound for `Annotated`: the value must not be less than `limit`."""

    def check(value: Any, path: str) -> None:
        if not value >= limit:
            raise ConfigError(f"{path}: expected at least {limit}, got {value!r}")

    return check


def below(limit: float) -> Bound:
    """A bound for `Annotated`: the value must be less than `limit`."""

    def check(value: Any, path: str) -> None:
        if not value < limit:
            raise ConfigError(f"{path}: expected a value below {limit}, got {value!r}")

    return check


PositiveInt = Annotated[int, above(0)]
Count = Annotated[int, at_least(0)]


def parse(cls: type[T], table: object, path: str = "") -> T:
    """Reads a table into a dataclass.

    Args:
        cls: A dataclass, its annotations being the schema.
        table: What the TOML reader returned, a mapping.
        path: Dotted key of the table itself, empty at the top.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigError: On an unknown or missing key, a wrong type or an impossible value.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: expected a table, got {describe(table)}")
    if hasattr(cls, "from_table"):
        return cls.from_table(table, path)  # pyright: ignore[reportAttributeAccessIssue]
    fields = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore
    check_keys(table, fields, path)
    required = [name for name, field in fields.items() if _is_required(field)]
    check_missing(table, required, path)
    hints = typing.get_type_hints(cls, include_extras=True)
    return cls(**{key: convert(table[key], hints[key], join(path, key)) for key in table})


def convert(value: object, hint: Any, path: str) -> Any:
    """Checks one value against one annotation, and converts it where TOML has no such type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        result = convert(value, arguments[0], path)
        for check in arguments[1:]:
            check(result, path)
        return result
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, path)
    if origin is Literal:
        return _convert_literal(value, arguments, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(value, hint, path)
        return tuple(convert(x, arguments[0], f"{path}[{i}]") for i, x in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, path)
    return _convert_plain(value, hint, path)


def dump(value: Any) -> Any:
    """The plain table of a dataclass, the inverse of `parse`; keys that are `None` are left out."""
    if hasattr(value, "to_table"):
        return value.to_table()
    if dataclasses.is_dataclass(value):
        items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: dump(item) for name, item in items.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


def flatten(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The same table with one level of full dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        is_table = isinstance(value, Mapping)
        flat |= flatten(value, join(path, key)) if is_table else {join(path, key): value}
    return flat


def check_keys(table: Iterable[str], known: Iterable[str], path: str) -> None:
    """Raises a `ConfigError` on the first key that is not known, with the nearest known one."""
    known = list(known)
    for key in table:
        if key not in known:
            raise ConfigError(f"{join(path, key)}: unknown key; {suggest(key, known, path)}")


def check_missing(table: Mapping[str, Any], required: Iterable[str], path: str) -> None:
    """Raises a `ConfigError` naming every required key that is not there."""
    missing = [join(path, key) for key in required if key not in table]
    if missing:
        raise ConfigError(f"{missing[0]}: missing; set {', '.join(missing)}")


def suggest(word: str, known: Iterable[str], path: str = "") -> str:
    """The nearest known words, for the end of an error message."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {join(path, near[0])}?"
    return f"expected one of {', '.join(known)}" if known else "expected no keys here"


def join(path: str, key: str) -> str:
    """The full dotted key of `key` in the table at `path`."""
    return f"{path}.{key}" if path else key


def describe(value: object) -> str:
    """A value and its type in TOML's words, for error messages."""
    if isinstance(value, Mapping):
        return f"a table with the keys {', '.join(value)}" if value else "an empty table"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"the {_KINDS.get(type(value), type(value).__name__)} {value!r}"


def expected(hint: Any) -> str:
    """An annotation in words, for error messages."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return expected(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expected(member) for member in arguments)
    if origin is Literal:
        return ", ".join(map(repr, arguments))
    if origin is tuple:
        return f"a list (of {expected(arguments[0])})"
    return _PLAIN.get(hint, "a table")


def _convert_union(value: object, members: tuple[Any, ...], path: str) -> Any:
    if all(dataclasses.is_dataclass(member) for member in members):
        return parse(_member_of_kind(value, members, path), value, path)
    for member in members:
        try:
            return convert(value, member, path)
        except ConfigError:
            continue
    raise _wrong_type(value, typing.Union[members], path)  # noqa: UP007


def _member_of_kind(value: object, members: tuple[Any, ...], path: str) -> type:
    """The dataclass whose literal `kind` the table names, the first one if it names none."""
    kinds = {typing.get_args(typing.get_type_hints(m)["kind"])[0]: m for m in members}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected a table, got {describe(value)}")
    kind = value.get("kind", next(iter(kinds)))
    return kinds[_convert_literal(kind, tuple(kinds), join(path, "kind"))]


def _convert_literal(value: object, options: tuple[Any, ...], path: str) -> Any:
    if value in options:
        return value
    words = [option for option in options if isinstance(option, str)]
    near = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{path}: expected {_listed(options)}, got {describe(value)}{hint}")


def _convert_plain(value: object, hint: Any, path: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    # bool is a subclass of int, so isinstance would let `true` pass as a count.
    is_number = isinstance(value, float) and math.isfinite(value)
    if type(value) is not hint or (hint is float and not is_number):
        raise _wrong_type(value, hint, path)
    return value


def _wrong_type(value: object, hint: Any, path: str) -> ConfigError:
    return ConfigError(f"{path}: expected {expected(hint)}, got {describe(value)}")


def _listed(options: tuple[Any, ...]) -> str:
    return ("one of " if len(options) > 1 else "") + ", ".join(map(repr, options))


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
