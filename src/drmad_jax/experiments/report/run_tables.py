"""Tables of what each run did and took, and on what it ran."""

from collections.abc import Mapping, Sequence
from typing import Any

from drmad_jax.experiments.report.runs import Run
from drmad_jax.experiments.report.tables import NOTHING, Cell, Table, number


def courses(runs: Sequence[Run]) -> Table:
    """Size, course, time and status of each run.

    Args:
        runs: The runs of one experiment.

    Returns:
        A table with a row for each run.
    """
    header = ["variant", "status", "hyperparameters", "outer steps", "outer loss"]
    header += ["seconds per outer step", "all outer steps (s)", "judging (s)", "compilation (s)"]
    notes = [
        "Outer loss: at the first and at the last outer step, each on a draw of its own. Seconds "
        "per outer step: the median. Compilation is short where a compiled program was kept."
    ]
    notes += [f"{run.label} stopped: {run.reason}." for run in runs if run.reason]
    return Table("Runs", header, [_row(run) for run in runs], num_texts=2, notes=notes)


def environments(experiments: Mapping[str, Sequence[Run]]) -> Table | None:
    """On what the runs were made.

    Args:
        experiments: Runs by the name of their experiment.

    Returns:
        A table with a row for each different set of versions and hardware; `None` if no run has
        ended.
    """
    found: dict[tuple[str, str], list[Run]] = {}
    for run in (run for runs in experiments.values() for run in runs if run.summary):
        versions = run.summary.get("versions", {})
        words = ", ".join(f"{name} {version}" for name, version in versions.items())
        found.setdefault((words, _device(run.summary.get("device", {}))), []).append(run)
    if not found:
        return None
    rows = []
    for (versions, device), runs in found.items():
        names = ", ".join(dict.fromkeys(run.config.label for run in runs))
        days = sorted({run.summary.get("date", "")[:10] for run in runs} - {""})
        span = " to ".join(dict.fromkeys(days[:1] + days[-1:]))
        rows.append([Cell(text) for text in (device, versions, span, names)])
    header = ["device", "versions", "date", "runs"]
    return Table("Versions and hardware", header, rows, num_texts=4)


def _row(run: Run) -> list[Cell]:
    total = sum(line["seconds"] for line in run.metrics if "hypergradient_norm" in line)
    count = run.summary.get("num_hparams")
    judging = run.summary.get("judge", {}).get("seconds")
    compilation = run.summary.get("compile_seconds")
    return [
        Cell(run.label),
        Cell(run.status),
        NOTHING if count is None else Cell(f"{count:,}"),
        Cell(str(run.num_steps_done)),
        _course(run),
        _seconds(run, run.summary.get("median_seconds_per_step")),
        _seconds(run, total or None),
        Cell(_seconds(run, judging).text),
        Cell(_seconds(run, compilation).text),
    ]


def _course(run: Run) -> Cell:
    """First and last outer loss of tuning, each on seeds of its own."""
    values = [line["outer_loss"] for line in run.metrics]
    if not values:
        return NOTHING
    first, last = ("nan" if v is None else number(v) for v in (values[0], values[-1]))
    score = values[-1] if run.is_complete else None
    return Cell(first if len(values) == 1 else f"{first} → {last}", score)


def _seconds(run: Run, seconds: float | None) -> Cell:
    if seconds is None:
        return NOTHING
    text = f"{seconds:#.3g}".rstrip(".") if seconds < 100 else f"{seconds:,.0f}"
    return Cell(text, seconds if run.is_complete else None)


def _device(device: Mapping[str, Any]) -> str:
    words = [f"{device.get('count', 1)} × {device.get('kind', 'unknown')}"]
    if device.get("cores"):
        words.append(f"{device['cores']} CPU core{'s' if device['cores'] != 1 else ''}")
    return ", ".join([*words, *filter(None, [device.get("machine")])])
