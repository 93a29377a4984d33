"""What one configuration file may hold beside its own settings: variants, and a smoke test.

A table `[variants.NAME]` or `[smoke]` changes the rest of the file. Nested tables are merged, but
for one that names a function (`name`) or another kind (`kind`): it replaces the whole section,
whose other keys are the arguments of the function or kind before. A variant may change `[smoke]`,
too, in its table `[variants.NAME.smoke]`.
"""

from collections.abc import Mapping
from typing import Any

from drmad_jax.experiments.config.section import describe, shorten, shown
from drmad_jax.experiments.errors import ConfigError

# The file's own settings, beside its variants.
BASE = "base"
SMOKE_SUFFIX = "-smoke"
# Two of them and an ending must be one name of a file.
_MOST_BYTES = 100
_FIXED = ("name", "variant", "variants")


def named(table: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The variants of a configuration file.

    Args:
        table: The file's contents.

    Returns:
        What each changes, by its name, in the file's order.

    Raises:
        ConfigError: If a variant is not a table, is named "base", or as no folder can be.
    """
    variants = table.get("variants", {})
    if not isinstance(variants, Mapping):
        raise ConfigError(f"variants: expected tables [variants.NAME], got {describe(variants)}")
    for name, changes in variants.items():
        try:
            plain(name)
        except ValueError as error:
            raise ConfigError(f"variants.{shorten(name)}: {error}") from error
        if not isinstance(changes, Mapping):
            raise ConfigError(f"variants.{name}: expected a table, got {describe(changes)}")
        if name == BASE:
            raise ConfigError(
                f"variants.{BASE}: this is the name of the file's own settings; choose another"
            )
    return variants


def plain(name: str) -> str:
    """Makes sure that a folder can be named so.

    Args:
        name: The name of an experiment or a variant.

    Returns:
        The name.

    Raises:
        ValueError: If it cannot.
    """
    if len(name.encode(errors="replace")) > _MOST_BYTES:
        raise ValueError(f"expected a name of up to {_MOST_BYTES} bytes, got {shown(name)}")
    is_plain = name.isprintable() and not set(name) & set("/\\") and not name.startswith(".")
    if not name or not is_plain:
        raise ValueError(f"expected a plain folder name, got {name!r}")
    return name


def choose(
    table: Mapping[str, Any], *, variant: str | None = None, smoke: bool = False
) -> dict[str, Any]:
    """The settings of one variant.

    Args:
        table: The file's contents.
        variant: Its name; `None` or "base" for the file's own settings.
        smoke: Apply the table `[smoke]` as well, and let the name end in "-smoke".

    Returns:
        A table without `variants` and `smoke`, with the name of the variant as its `variant`.

    Raises:
        ConfigError: If there is no such variant or no `[smoke]`, or they change the name.
    """
    variants = named(table)
    chosen = {key: value for key, value in table.items() if key != "variants"}
    if variant not in (None, BASE):
        if variant not in variants:
            raise ConfigError(
                f"--variant {variant}: the config has no such variant; it has "
                f"{', '.join([BASE, *variants])}"
            )
        _check_changes(variants[variant], f"variants.{variant}")
        chosen = merge(chosen, variants[variant]) | {"variant": variant}
    changes = chosen.pop("smoke", None)
    if not smoke:
        return chosen
    if not isinstance(changes, Mapping):
        raise ConfigError("--smoke: the config has no table [smoke]")
    _check_changes(changes, "smoke")
    chosen = merge(chosen, changes)
    if isinstance(chosen.get("name"), str):
        chosen["name"] += SMOKE_SUFFIX
    return chosen


def merge(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes some values of a table, in nested tables too; neither argument is modified.

    Args:
        table: A table of plain values.
        changes: The values to change or add. A nested table with the key `name`, or with another
            `kind`, replaces the one before as a whole.

    Returns:
        The changed table.

    Example:
        >>> merge({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 4}})
        {'a': 1, 'b': {'c': 2, 'd': 4}}
        >>> merge({"method": {"name": "drmad", "knots": 2}}, {"method": {"name": "stored"}})
        {'method': {'name': 'stored'}}
    """
    merged = dict(table)
    for key, value in changes.items():
        before = table.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and _extends(before, value):
            value = merge(before, value)
        merged[key] = value
    return merged


def _extends(before: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Whether the keys of both belong to one thing."""
    same_kind = before.get("kind", changes.get("kind")) == changes.get("kind", before.get("kind"))
    return "name" not in changes and same_kind


def _check_changes(changes: Mapping[str, Any], path: str) -> None:
    """One experiment has one name: by it, runs of its variants are compared."""
    for key in _FIXED:
        if key in changes:
            raise ConfigError(f"{path}.{key}: cannot be changed here; remove this key")
