"""The configuration of an experiment, read from TOML."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
import tomli_w

from drmad_jax.experiments.config import variants
from drmad_jax.experiments.config.data import DataConfig
from drmad_jax.experiments.config.factories import Method, Optimizer
from drmad_jax.experiments.config.models import MLPConfig, ModelConfig
from drmad_jax.experiments.config.section import (
    MOST_STEPS,
    Count,
    PositiveInt,
    Section,
    Seed,
    dump,
    explain,
    flatten,
    one_of,
)
from drmad_jax.experiments.config.task import TaskConfig, sections
from drmad_jax.experiments.errors import ConfigError


class InnerConfig(Section):
    """Section `[inner]`: one training run.

    Attributes:
        num_steps: Steps of training, T.
        batch_size: Examples per minibatch, drawn with replacement.
        optimizer: An optax optimizer by name, with its arguments.
    """

    num_steps: Annotated[PositiveInt, pydantic.Field(le=MOST_STEPS)]
    batch_size: PositiveInt
    optimizer: Optimizer


class OuterConfig(Section):
    """Section `[outer]`: the tuning of the hyperparameters.

    Attributes:
        num_steps: Updates of the hyperparameters, each after one training run; 0 for no tuning,
            to judge what tuning starts from.
        optimizer: An optax optimizer by name, with its arguments.
        certify_every: Every so many steps the metrics say what the hypergradient is worth, by
            tangents of the true training along it and along 8 random directions; 0 for never.
    """

    num_steps: Count
    optimizer: Optimizer
    certify_every: Count = 0


class JudgeConfig(Section):
    """Section `[judge]`: what tuning was worth, on seeds that it never saw.

    Attributes:
        num_seeds: Training runs with the first and with the final hyperparameters each, on the
            same fresh seeds; 0 for none. One seed gives no interval.
    """

    num_seeds: Count = 0


class Config(Section):
    """A whole experiment.

    Attributes:
        name: Names the experiment, and the default run folder, `runs/<name>`.
        variant: Which of the file's variants this is; empty for the file's own settings.
        seed: Seed of every random draw.
        data: Section `[data]`.
        model: Section `[model]`.
        task: Section `[task]`.
        inner: Section `[inner]`.
        outer: Section `[outer]`.
        judge: Section `[judge]`.
        method: Section `[method]`: a hypergradient method of drmad_jax, with its arguments.
    """

    name: Annotated[str, pydantic.AfterValidator(variants.plain)]
    variant: Annotated[str, pydantic.AfterValidator(lambda x: x and variants.plain(x))] = ""
    seed: Seed = 0
    data: DataConfig
    model: ModelConfig = MLPConfig()
    task: Annotated[TaskConfig, one_of(sections)] = pydantic.Field({}, validate_default=True)
    inner: InnerConfig
    outer: OuterConfig
    judge: JudgeConfig = JudgeConfig()
    method: Method = Method("drmad")

    @property
    def label(self) -> str:
        """The experiment, and the variant behind a slash."""
        return f"{self.name}/{self.variant}" if self.variant else self.name

    @property
    def folder(self) -> str:
        """Where the variant is kept among the others of its experiment."""
        return self.variant or variants.BASE


def load(
    path: Path | str,
    overrides: Iterable[str] = (),
    *,
    variant: str | None = None,
    smoke: bool = False,
) -> Config:
    """Reads a configuration file: its own settings, then variant, then smoke test, then overrides.

    Args:
        path: A TOML file.
        overrides: Entries "a.b=value" that replace what the file says; each value is read as TOML,
            and as a string where it is none.
        variant: A name under `[variants]`; `None` or "base" for the file's own settings.
        smoke: Apply the table `[smoke]`, for a run that only shows that everything works.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If the file cannot be read, there is no such variant or smoke test, or a key
            or value is wrong.
    """
    table = variants.choose(_read(path), variant=variant, smoke=smoke)
    for override in overrides:
        _override(table, override)
    try:
        return parse(table)
    except ConfigError as error:
        where = f" (variant {table['variant']})" if table.get("variant") else ""
        raise ConfigError(f"{error}{where}") from error


def variant_names(path: Path | str) -> list[str]:
    """The variants of a configuration file.

    Args:
        path: A TOML file.

    Returns:
        "base" and the names of its variants, in the file's order; "base" alone if it has none.

    Raises:
        ConfigError: If the file cannot be read, or a variant is not a table.
    """
    return [variants.BASE, *variants.named(_read(path))]


def parse(table: Mapping[str, Any]) -> Config:
    """Checks a table of plain values.

    Args:
        table: Nested mappings, as the TOML reader returns them.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a key or value is wrong.
    """
    try:
        config = Config.model_validate(table)
    except pydantic.ValidationError as error:
        raise ConfigError(explain(error, table)) from error
    except RecursionError as error:
        raise ConfigError("the config is nested too deeply") from error
    config.data.check(config.inner.batch_size)
    return config


def to_toml(config: Config) -> str:
    """Writes the resolved configuration, defaults filled in; `parse` reads it back to the same.

    Args:
        config: A configuration.

    Returns:
        TOML text.
    """
    return tomli_w.dumps(dump(config))


def differences(old: Config, new: Config) -> list[str]:
    """The dotted keys in which two configurations differ, each with both values.

    Args:
        old: One configuration.
        new: The other.

    Returns:
        Lines such as "outer.num_steps: 10 -> 20"; none if they are equal.
    """
    before, after = flatten(dump(old)), flatten(dump(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key, 'unset')!r} -> {after.get(key, 'unset')!r}" for key in keys]


def _read(path: Path | str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ConfigError(f"cannot read the config {path}: it is nested too deeply") from error
    except (OSError, ValueError) as error:  # A number of thousands of digits is the latter, too.
        raise ConfigError(f"cannot read the config {path}: {error}") from error


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected a.b=value")
    for depth, part in enumerate(parts[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {'.'.join(parts[:depth])} is not a table")
    table[parts[-1]] = _read_value(text.strip())


def _read_value(text: str) -> Any:
    # TOML has no ".02", and people type it.
    number = f"0{text}" if text.startswith(".") else text
    try:
        table = tomllib.loads(f"value = {number}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text
