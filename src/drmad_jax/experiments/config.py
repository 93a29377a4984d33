"""The configuration of an experiment: every key, its type and its meaning, read from TOML."""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w

from drmad_jax.experiments import schema
from drmad_jax.experiments.datasets import DATASETS
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.factories import Method, Optimizer
from drmad_jax.experiments.schema import PositiveInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Section `[data]`.

    Attributes:
        dataset: "digits" (comes with scikit-learn), "mnist" or "fashion_mnist" (`drmad-jax
            prepare`).
        num_train: Examples from which training and validation sets are drawn again at every outer
            step: the first ones of the training split.
        num_valid: How many of those are held out for validation.
        num_test: Test examples: the first ones of the test split, never trained or tuned on.
    """

    dataset: Literal["digits", "mnist", "fashion_mnist"]
    num_train: PositiveInt
    num_valid: PositiveInt
    num_test: PositiveInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Section `[model]`, a multi-layer perceptron.

    Attributes:
        kind: "mlp".
        hidden: Units of each hidden layer.
        activation: Name of the activation between layers.
        init_log_scale: Natural log of the standard deviation of the initial weights and biases
            (Maclaurin et al. 2015: -3), or "lecun" for LeCun's fan-in scale and zero biases.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (50, 50, 50)
    activation: Literal["tanh", "relu", "gelu", "silu"] = "tanh"
    init_log_scale: float | Literal["lecun"] = -3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2Config:
    """Section `[task]`: learn L2 penalties of the weights (biases have none).

    Attributes:
        kind: "l2".
        granularity: What shares one penalty: the weights out of one input "unit", those of one
            "layer", each "parameter" alone, or all weights ("global").
        coordinates: "penalty" adds Σ exp(log_l2)·w² to the loss. "rescaled" is the published
            form: the network uses w = z·exp(t), training moves z, the penalty is exp(-4)·‖z‖²,
            and t is the hyperparameter, so that log_l2 = -4 - 2t.
        initial_log_l2: Natural log of the initial penalties; published: -4.4 (t = .2).
    """

    kind: Literal["l2"] = "l2"
    granularity: Literal["unit", "layer", "parameter", "global"] = "unit"
    coordinates: Literal["penalty", "rescaled"] = "penalty"
    initial_log_l2: float = -4.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """Section `[inner]`: one training run.

    Attributes:
        num_steps: Steps of training, T.
        batch_size: Examples per minibatch, drawn with replacement.
        optimizer: An optax optimizer by name, with its arguments.
    """

    num_steps: PositiveInt
    batch_size: PositiveInt
    optimizer: Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """Section `[outer]`: the tuning of the hyperparameters.

    Attributes:
        num_steps: Updates of the hyperparameters, each after one training run.
        optimizer: An optax optimizer by name, with its arguments.
    """

    num_steps: PositiveInt
    optimizer: Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment.

    Attributes:
        name: Names the default run folder, `runs/<name>`.
        seed: Seed of every random draw.
        data: Section `[data]`.
        model: Section `[model]`.
        task: Section `[task]`.
        inner: Section `[inner]`.
        outer: Section `[outer]`.
        method: Section `[method]`: a hypergradient method of drmad_jax, with its arguments.
    """

    name: str
    seed: Annotated[int, schema.at_least(0)] = 0
    data: DataConfig
    model: MLPConfig = MLPConfig()
    task: L2Config = L2Config()
    inner: InnerConfig
    outer: OuterConfig
    method: Method = Method("drmad")


def load(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Reads a configuration file.

    Args:
        path: A TOML file.
        overrides: Entries "a.b=value" that replace what the file says; each value is read as TOML,
            and as a string where it is none.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is wrong.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from error
    for override in overrides:
        _override(table, override)
    return parse(table)


def parse(table: Mapping[str, Any]) -> Config:
    """Checks a table of plain values.

    Args:
        table: Nested mappings, as the TOML reader returns them.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a key or value is wrong.
    """
    config = schema.parse(Config, table)
    _check_name(config.name)
    _check_sizes(config)
    return config


def to_toml(config: Config) -> str:
    """Writes the resolved configuration, defaults filled in; `parse` reads it back to the same.

    Args:
        config: A configuration.

    Returns:
        TOML text.
    """
    return tomli_w.dumps(schema.dump(config))


def differences(old: Config, new: Config) -> list[str]:
    """The dotted keys in which two configurations differ, each with both values.

    Args:
        old: One configuration.
        new: The other.

    Returns:
        Lines such as "outer.num_steps: 10 -> 20"; none if they are equal.
    """
    before, after = schema.flatten(schema.dump(old)), schema.flatten(schema.dump(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key, 'unset')!r} -> {after.get(key, 'unset')!r}" for key in keys]


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
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _check_name(name: str) -> None:
    if not name or set(name) & set("/\\") or name in (".", ".."):
        raise ConfigError(f"name: expected a plain folder name, got {name!r}")


def _check_sizes(config: Config) -> None:
    data, batch_size = config.data, config.inner.batch_size
    spec = DATASETS[data.dataset]
    for key, size in (("num_train", spec.num_train), ("num_test", spec.num_test)):
        if getattr(data, key) > size:
            raise ConfigError(
                f"data.{key}: {data.dataset} has {size} such examples, got {getattr(data, key)}"
            )
    left = data.num_train - data.num_valid
    if left < 1:
        raise ConfigError(
            f"data.num_valid: must leave training examples out of data.num_train = "
            f"{data.num_train}, got {data.num_valid}"
        )
    if batch_size > left:
        raise ConfigError(
            f"inner.batch_size: must not exceed the {left} training examples "
            f"(data.num_train - data.num_valid), got {batch_size}"
        )
