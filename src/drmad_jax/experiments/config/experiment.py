"""The configuration of an experiment, read from TOML."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
import tomli_w

from drmad_jax.experiments.config import variants
from drmad_jax.experiments.config.data import PLACED, DataConfig, NoData, OwnDataConfig
from drmad_jax.experiments.config.factories import Method, NoOptimizer, Optimizer
from drmad_jax.experiments.config.models import MLPConfig, ModelConfig, NoModel
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
from drmad_jax.experiments.config.task import OWN, TaskConfig, names_code, sections
from drmad_jax.experiments.errors import ConfigError, UserCodeError

# Files beside a configuration that make it the record of a run or a comparison.
_RECORDS = ("metrics.jsonl", "summary.json", "judge.jsonl", "checkpoints", "compare.json")


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


class OwnInnerConfig(InnerConfig):
    """Section `[inner]` of a problem of the user's own.

    Attributes:
        batch_size: Examples per minibatch; 0, or unset, for all of them at every step.
        optimizer: For a problem that asks for it.
    """

    batch_size: Count = 0
    optimizer: Optimizer = NoOptimizer()


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


class OwnProblemConfig(Config):
    """An experiment on a problem of the user's own, which brings what it needs."""

    # Sections are frozen, so that narrower ones may stand in their place.
    data: OwnDataConfig = NoData()  # pyright: ignore[reportIncompatibleVariableOverride]
    model: NoModel = NoModel()  # pyright: ignore[reportIncompatibleVariableOverride]
    inner: OwnInnerConfig  # pyright: ignore[reportIncompatibleVariableOverride]


def load(
    path: Path | str,
    overrides: Iterable[str] = (),
    *,
    variant: str | None = None,
    smoke: bool = False,
    runs_code: bool = False,
) -> Config:
    """Reads a configuration file: its own settings, then variant, then smoke test, then overrides.

    Args:
        path: A TOML file.
        overrides: Entries "a.b=value" that replace what the file says; each value is read as TOML,
            and as a string where it is none.
        variant: A name under `[variants]`; `None` or "base" for the file's own settings.
        smoke: Apply the table `[smoke]`, for a run that only shows that everything works.
        runs_code: Whether code that the file names (`task.module`) may be run later on; for files
            that were given for that, and never for the record in a run folder.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If the file cannot be read, there is no such variant or smoke test, a key or
            value is wrong, or code that may be run is not there.
    """
    table = variants.choose(_read(path), variant=variant, smoke=smoke)
    for override in overrides:
        _override(table, override)
    folder = Path(path).parent
    try:
        config = parse(_with_full_paths(table, folder))
        if not runs_code:
            return config
        _refuse_record(Path(path), config)
        return config.model_copy(update={"task": config.task.given_on_purpose(folder)})
    except UserCodeError:
        raise
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
    kind: type[Config] = Config
    if names_code(table):
        kind, table = OwnProblemConfig, {**table, "task": {"kind": OWN, **table["task"]}}
    try:
        config = kind.model_validate(table)
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


def _with_full_paths(table: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The same with files of data named from the root: relative ones are meant from the config."""
    data = table.get("data")
    if not isinstance(data, Mapping) or data.get("kind", "images") not in PLACED:
        return table
    full = {
        key: str((folder / Path(data[key]).expanduser()).absolute())
        for key in ("file", "folder")
        if isinstance(data.get(key), str) and data[key].isprintable()
    }
    return {**table, "data": {**data, **full}}


def _refuse_record(path: Path, config: Config) -> None:
    """What lies in a run folder was written by a run, or by whoever the folder came from."""
    beside = [name for name in _RECORDS if (path.parent / name).exists()]
    if config.task.names_code and beside:
        raise ConfigError(
            f"task.module: {path} lies in a run folder (beside {beside[0]}), from which no code is "
            "run; give the config that the run was made from"
        )


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
