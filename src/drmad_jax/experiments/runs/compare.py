"""`drmad-jax compare`: methods beside the exact one on the problem of a configuration."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax

import drmad_jax as dj
from drmad_jax.experiments.config import Config, to_toml
from drmad_jax.experiments.config.section import suggest
from drmad_jax.experiments.errors import ConfigError, RunFolderError
from drmad_jax.experiments.files import say, write_json, write_text
from drmad_jax.experiments.runs import run_folder
from drmad_jax.experiments.runs.feasible import check_data, check_training, told_of_config
from drmad_jax.experiments.runs.outer_step import outer_key
from drmad_jax.experiments.runs.summary import device, versions
from drmad_jax.experiments.tasks import make_task

MARKDOWN = "compare.md"
REFERENCE = "checkpointed"


def standard_methods(config: Config) -> dict[str, dj.Method]:
    """The methods that a comparison can name.

    Args:
        config: The configuration; "config" is the method of its own section `[method]`.

    Returns:
        Methods by name, those of `DEFAULT_METHODS` among them.
    """
    few = max(1, config.inner.num_steps // 10)
    return {
        "published_drmad": dj.published_drmad(num_reverse_steps=few),
        "drmad": dj.drmad(),
        "drmad_line": dj.drmad(knots=2),
        "truncated": dj.truncated(num_reverse_steps=few),
        "one_step": dj.one_step(),
        "implicit": dj.implicit(
            solver=dj.conjugate_gradient(max_iterations=20),
            # Of the Hessian it would meet negative curvature: short runs are at no minimum.
            curvature="gauss_newton",
            num_batches=max(1, few // 20),
        ),
        REFERENCE: dj.checkpointed(),
        "stored": dj.stored(),
        "drmad_steps": dj.drmad(curvature="gauss_newton"),
        "drmad_strided": dj.drmad(steps=dj.strided_steps(few)),
        "config": config.method.build(),
    }


DEFAULT_METHODS = (
    "published_drmad", "drmad", "drmad_line", "drmad_strided", "truncated", "one_step",
    "implicit", REFERENCE,
)  # fmt: skip


def compare(
    config: Config,
    folder: Path,
    *,
    names: Sequence[str] = DEFAULT_METHODS,
    num_seeds: int = 8,
    progress: bool = True,
) -> dj.Comparison:
    """Compares methods at the hyperparameters from which tuning starts.

    The folder gets `config.toml`, `compare.json` and `compare.md`.

    Args:
        config: The configuration.
        folder: Where to write; what an earlier comparison left there is replaced.
        names: Names of `standard_methods`; the exact method is added if it is not among them.
        num_seeds: Training runs, each as one outer step of the configuration would draw it.
        progress: Tell of each method and seed on standard error.

    Returns:
        What was found, as written.

    Raises:
        ConfigError: On an unknown name, fewer than two seeds, several processes, or a method that
            cannot be run here.
        RunFolderError: If the folder is that of something else, or in use.
    """
    methods = _chosen(config, names)
    if num_seeds < 2:
        raise ConfigError(f"--seeds: expected at least 2, got {num_seeds}")
    if jax.process_count() > 1:
        raise ConfigError(
            f"a comparison measures one process, and is one of {jax.process_count()} here"
        )
    with run_folder.claimed(folder):
        _check(folder)
        comparison = _measure(config, methods, num_seeds, progress)
        _write(folder, config, comparison)
    return comparison


def _check(folder: Path) -> None:
    found = any(not path.name.startswith(".") for path in folder.iterdir())
    if found and not (folder / run_folder.COMPARISON).exists():
        raise RunFolderError(
            f"{folder} has other files than those of a comparison; choose another folder with --out"
        )


def _measure(
    config: Config, methods: dict[str, dj.Method], num_seeds: int, progress: bool
) -> dj.Comparison:
    task = make_task(config)
    check_data(config)
    data = task.load_data()
    check_training(config, task, data)
    measure = dj.compare(
        task.problem,
        methods,
        num_steps=config.inner.num_steps,
        reference=methods[REFERENCE],
        step_size=_step_size(config),
        progress=say if progress else None,
    )
    sample = jax.jit(task.sample)
    runs = (sample(outer_key(config, seed), data)._asdict() for seed in range(num_seeds))
    if progress:
        say(f"compiling {len(methods)} methods for {num_seeds} seeds")
    with told_of_config("this comparison cannot be run"):
        return measure(task.init_hparams(), runs)


def _write(folder: Path, config: Config, comparison: dj.Comparison) -> None:
    conditions = {"name": config.name, "versions": versions(), "device": device()}
    # First what makes the folder that of a comparison.
    write_json(folder / run_folder.COMPARISON, conditions | json.loads(comparison.to_json()))
    write_text(folder / MARKDOWN, comparison.to_markdown())
    write_text(folder / run_folder.CONFIG, to_toml(config))


def _chosen(config: Config, names: Iterable[str]) -> dict[str, dj.Method]:
    methods = standard_methods(config)
    for name in names:
        if name not in methods:
            raise ConfigError(f"--methods: unknown name {name!r}; {suggest(name, methods)}")
    return {name: methods[name] for name in dict.fromkeys([*names, REFERENCE])}


def _step_size(config: Config) -> float:
    """One outer update, where the outer optimizer's step size is a number."""
    rate = config.outer.optimizer.parameters().get("learning_rate")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else 0.1
