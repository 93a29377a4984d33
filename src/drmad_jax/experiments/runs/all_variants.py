"""All variants of a configuration file, one run after the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.errors import RunFolderError, RunStopped
from drmad_jax.experiments.files import say
from drmad_jax.experiments.processes import from_leader, leads
from drmad_jax.experiments.runs import run_folder
from drmad_jax.experiments.runs.ended import summary_of_ended
from drmad_jax.experiments.runs.loop import run
from drmad_jax.experiments.runs.summary import COMPLETE


class Outcome(NamedTuple):
    """What became of one variant.

    Attributes:
        config: Its configuration.
        folder: Its run folder.
        summary: Its summary; nothing but in the process that writes.
        skipped: Whether it had ended before.
    """

    config: Config
    folder: Path
    summary: dict[str, Any]
    skipped: bool

    @property
    def stopped(self) -> str | None:
        """Why the run could not go on, in one line; `None` if it is complete."""
        status = self.summary["status"]
        return None if status == COMPLETE else status.partition(";")[0]


def load_all(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    smoke: bool = False,
    runs_code: bool = False,
) -> list[Config]:
    """Every variant of a configuration file, its own settings first.

    Args:
        path: A TOML file.
        overrides: Entries "a.b=value", for each of them.
        smoke: Apply the table `[smoke]`.
        runs_code: Whether code that the file names may be run.

    Returns:
        The checked configurations.

    Raises:
        ConfigError: If one of them is wrong.
    """
    names = configs.variant_names(path)
    options = {"smoke": smoke, "runs_code": runs_code}
    return [configs.load(path, overrides, variant=name, **options) for name in names]


def run_all(
    variants: Sequence[Config], root: Path, *, resume: bool = False, progress: bool = True
) -> Iterator[Outcome]:
    """Runs one variant after the other; a run that stops is a result, and the next one begins.

    Args:
        variants: Configurations, as `load_all` returns them.
        root: Folder of the experiment; each variant gets its run folder in it.
        resume: Go on with the runs in the folder. Those that have ended, complete or stopped, are
            left as they are.
        progress: Tell on standard error which one is running, and show progress bars.

    Yields:
        What became of each, when it has ended.

    Raises:
        RunFolderError: Before the first run, if one of the folders cannot be used.
    """
    if leads():
        _check(variants, root, resume)
    for number, config in enumerate(variants, start=1):
        folder = root / config.folder
        summary = summary_of_ended(folder, config) if leads() else None
        if from_leader(summary is not None):
            yield Outcome(config, folder, summary or {}, skipped=True)
            continue
        if progress and leads():
            say(f"[{number}/{len(variants)}] {config.label}")
        try:
            summary = run(config, folder, resume=resume, progress=progress)
        except RunStopped:
            summary = (run_folder.read_summary(folder) or {}) if leads() else {}
        yield Outcome(config, folder, summary, skipped=False)


def _check(variants: Sequence[Config], root: Path, resume: bool) -> None:
    if (root / run_folder.CONFIG).exists():
        raise RunFolderError(
            f"{root} is the folder of a single run; choose another one for all variants with --out"
        )
    for config in variants:
        run_folder.check(root / config.folder, config, resume=resume)
