"""Sections of a configuration: pydantic models, and what is said about a table that fits none.

A field's annotation is its schema, without any conversion but that of integers to floats and of
lists to tuples. What pydantic finds wrong is told in one sentence with the full dotted key.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import pydantic
from pydantic_core import InitErrorDetails, PydanticCustomError

# Numbers that fit into 32 bits, as JAX has them.
PositiveInt = Annotated[int, pydantic.Field(gt=0, lt=2**31)]
Count = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
# Steps of a training run, and counts of what a method does in them.
MOST_STEPS = 10_000_000
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
# Natural logs of numbers that there are.
Log = Annotated[float, pydantic.Field(ge=-700, le=700)]
MOST_ITEMS = 10_000
_MOST_LETTERS = 80

_EXPECTED = {
    "int_type": "an integer", "float_type": "a finite number", "finite_number": "a finite number",
    "string_type": "a string", "bool_type": "true or false", "model_type": "a table",
    "literal_error": "{expected}",
}  # fmt: skip
_BOUNDS = {
    "greater_than": "a value above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "less_than": "a value below {lt}",
}
_TOML = {int: "integer", float: "number", str: "string", list: "list"}


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"expected letters that can be printed, got {shown(text)}")
    return text


Text = Annotated[str, pydantic.AfterValidator(_printable)]


class Section(pydantic.BaseModel):
    """A table of a configuration, frozen; its annotations are its schema."""

    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _check_keys(cls, table: Any) -> Any:
        for key in table if isinstance(table, Mapping) else ():
            if key not in cls.model_fields:
                refuse(key, cls._unknown(), known=[*cls.model_fields])
        return table

    @classmethod
    def _unknown(cls) -> str:
        """What is said of a key that is no field."""
        return "unknown key"


def one_of(sections: Callable[[], Sequence[type[Section]]]) -> Any:
    """For `Annotated`: reads a table by the section of its `kind`.

    Args:
        sections: Returns them; the first one is meant where the table names no kind.

    Returns:
        A validator.
    """

    def read(table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        kinds = {cls.model_fields["kind"].default: cls for cls in sections()}
        kind = table.get("kind", next(iter(kinds)))
        if not isinstance(kind, str) or kind not in kinds:
            refuse("kind", "literal_error", kind, expected=", ".join(map(repr, kinds)))
        return kinds[kind].model_validate(table)

    return pydantic.BeforeValidator(read)


def a_list(item: str) -> Any:
    """For `Annotated`: takes a list for a tuple.

    Args:
        item: What it holds, in words, such as "an integer".

    Returns:
        A validator.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise PydanticCustomError("list", f"a list (of {item})")  # pyright: ignore
        if len(value) > MOST_ITEMS:
            raise ValueError(f"expected at most {MOST_ITEMS:,} items, got {len(value):,}")
        return tuple(value)

    return pydantic.BeforeValidator(read)


def refuse(key: str, fault: str, value: Any = None, **context: Any) -> NoReturn:
    """Says from within a validator of a table what is wrong with one of its keys.

    Args:
        key: The key.
        fault: A type of pydantic's errors, or a text of our own.
        value: What came.
        context: What the type wants to know; `known` for the words that the key may have meant.

    Raises:
        ValidationError: Always.
    """
    kind = PydanticCustomError("told", fault, context) if " " in fault else fault  # pyright: ignore
    line = InitErrorDetails(type=kind, loc=(key,), input=value, ctx=context)
    raise pydantic.ValidationError.from_exception_data("section", [line])


def explain(error: pydantic.ValidationError, table: Mapping[str, Any]) -> str:
    """The first fault in a sentence: unknown keys, then missing ones, then wrong values.

    Args:
        error: What pydantic found.
        table: What it found it in.

    Returns:
        The full dotted key, what was expected and what came.
    """
    faults = [(_path(fault, table), fault) for fault in error.errors()]
    unknown = [(path, fault) for path, fault in faults if "known" in fault.get("ctx", {})]
    if unknown:
        path, fault = unknown[0]
        parent, _, key = path.rpartition(".")
        return f"{path}: {fault['msg']}; {suggest(key, fault['ctx']['known'], parent)}"  # pyright: ignore
    missing = [path for path, fault in faults if fault["type"] == "missing"]
    if missing:
        return f"{missing[0]}: missing; set {', '.join(missing)}"
    first = faults[0][0]
    # Of a list within a union the faulty item says most.
    path = max((p for p, _ in faults if p == first or p.startswith(f"{first}[")), key=len)
    return _of_value(path, [fault for p, fault in faults if p == path])


def dump(value: Any) -> Any:
    """The plain table of a section, the inverse of reading it; `None` is left out."""
    if hasattr(value, "to_table"):
        return value.to_table()
    if isinstance(value, Section):
        made = {name: dump(item) for name, item in value}
        return {name: item for name, item in made.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


def flatten(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The same table with one level of full dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        is_table = isinstance(value, Mapping)
        flat |= flatten(value, _join(path, key)) if is_table else {_join(path, key): value}
    return flat


def suggest(word: str, known: Iterable[str], path: str = "") -> str:
    """The nearest known words, for the end of an error message."""
    known = list(known)
    near = difflib.get_close_matches(shorten(word), known, n=1)
    if near:
        return f"did you mean {_join(path, near[0])}?"
    return f"expected one of {', '.join(known)}" if known else "expected no keys here"


def describe(value: object) -> str:
    """A value and its type in TOML's words, for error messages."""
    if isinstance(value, Mapping):
        keys = shorten(", ".join(value))
        return f"a table with the keys {keys}" if value else "an empty table"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"the {_TOML.get(type(value), type(value).__name__)} {shown(value)}"


def shown(value: object) -> str:
    """A value as it is written, or its beginning, for error messages."""
    try:
        return shorten(repr(value))
    except (ValueError, RecursionError):  # Python does not write numbers of thousands of digits.
        return f"a very long {type(value).__name__}"


def shorten(text: str) -> str:
    """A text, or its beginning, for error messages."""
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"


def _of_value(path: str, faults: list[Any]) -> str:
    """What was expected of one value: all that the members of a union would have taken."""
    fault, context = faults[0], faults[0].get("ctx", {})
    if fault["type"] in ("told", "value_error"):
        text = str(context.get("error", fault["msg"]))
        return f"{path}: {text}" if path else text
    if fault["type"] in _BOUNDS:
        # What bounds a float is one itself, and reads as it was written.
        bounds = {k: f"{v:.15g}" if isinstance(v, float) else v for k, v in context.items()}
        bound = _BOUNDS[fault["type"]].format(**bounds)
        return f"{path}: expected {bound}, got {shown(fault['input'])}"
    words = [
        _EXPECTED.get(f["type"], "{msg}").format(msg=f["msg"], **f.get("ctx", {})) for f in faults
    ]
    options = [option for word in words for option in re.findall(r"'([^']*)'", word)]
    one_of = "one of " if len(words) == 1 < len(options) else ""
    word = fault["input"] if isinstance(fault["input"], str) else ""
    near = difflib.get_close_matches(shorten(word), options, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    wanted = " or ".join(dict.fromkeys(words))
    return f"{path}: expected {one_of}{wanted}, got {describe(fault['input'])}{hint}"


def _path(fault: Any, table: Mapping[str, Any]) -> str:
    """A fault's dotted key, without the members of unions that pydantic adds."""
    path: str = ""
    here: Any = table
    for part in fault["loc"]:
        if isinstance(here, Mapping) and (part in here or fault["type"] == "missing"):
            path, here = _join(path, part), here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int):
            path, here = f"{path}[{part}]", here[part]
    return path


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
