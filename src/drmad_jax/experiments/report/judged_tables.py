"""Tables of what tuning was worth, on fresh seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from drmad_jax.experiments.metrics import metric
from drmad_jax.experiments.report.runs import Run, headlines
from drmad_jax.experiments.report.tables import NOTHING, Cell, Table, number
from drmad_jax.experiments.runs.intervals import paired


def results(runs: Sequence[Run]) -> Table | None:
    """Outer loss and headline of each run, before and after tuning.

    Args:
        runs: The runs of one experiment.

    Returns:
        A table with a row for each run; `None` if none was judged.
    """
    shown = [name for name in headlines(runs) if any(name in run.judged for run in runs)]
    if not shown:
        return None
    header = ["variant", "method"]
    for name in shown:
        header += [f"{metric(name).label}, before", "after", "difference"]
    rows = []
    for run in runs:
        label = run.label if run.is_complete else f"{run.label} ({run.status})"
        cells = [cell for name in shown for cell in _judged(run, name)]
        rows.append([Cell(label), Cell(run.method), *cells])
    return Table("Fresh seeds", header, rows, num_texts=2, notes=_notes(runs))


def against_first(runs: Sequence[Run]) -> Table | None:
    """How far each run ended from the first one, on the same fresh seeds.

    Args:
        runs: The runs of one experiment.

    Returns:
        A table; `None` without two runs that were judged on the same seeds.
    """
    first, *others = runs
    shown = [name for name in headlines(runs) if name in first.judged]
    others = [run for run in others if _same_seeds(first, run)]
    if not (shown and others):
        return None
    rows = []
    for run in others:
        cells = []
        for name in shown:
            ends = [each.judged[name]["after"]["values"] for each in (first, run)]
            cells.append(Cell(_estimate(paired(*ends), metric(name).factor)))
        rows.append([Cell(run.label), *cells])
    title = f"After tuning, less {first.label}"
    notes = [
        f"Means of the differences to {first.label}, seed by seed, with their 95% intervals: below "
        f"zero is better{_but_for(shown)}. They are narrower than the intervals above wherever "
        "seeds differ more than variants do."
    ]
    return Table(title, ["variant", *(metric(name).label for name in shown)], rows, notes=notes)


def other_metrics(runs: Sequence[Run]) -> Table | None:
    """What else was measured on fresh seeds.

    Args:
        runs: The runs of one experiment.

    Returns:
        A table with a row for each metric and judged run; `None` if there is nothing else.
    """
    main = headlines(runs)
    names = dict.fromkeys(name for run in runs for name in run.judged if name not in main)
    if not names:
        return None
    # Nobody knows here whether more or less of it is better.
    plain = lambda cells: [Cell(cell.text) for cell in cells]
    rows = [
        [Cell(metric(name).label), Cell(run.label), *plain(_judged(run, name))]
        for name in names
        for run in runs
        if name in run.judged
    ]
    header = ["metric", "variant", "before", "after", "difference"]
    return Table("Other metrics on the fresh seeds", header, rows, num_texts=2)


def _estimate(found: Mapping[str, Any] | None, factor: float = 1) -> str:
    """A mean and the half of its 95% interval, with two digits of the latter: "0.326 ± 0.012"."""
    if not found or not found["values"]:
        return NOTHING.text
    diverged = sum(value is None for value in found["values"])
    if diverged:
        return f"diverged on {diverged} of {len(found['values'])}"
    mean = factor * found["mean"]
    if found["interval"] is None:
        return _signed(number(mean))
    half = factor * (found["interval"][1] - found["interval"][0]) / 2
    digits = min(max(1 - math.floor(math.log10(half)), 0), 6) if half > 0 else 4
    return _signed(f"{mean:.{digits}f} ± {half:.{digits}f}")


def _judged(run: Run, name: str) -> list[Cell]:
    """One metric on fresh seeds: before, after, difference."""
    found = run.judged.get(name)
    if found is None:
        return [NOTHING] * 3
    _, factor, more_is_better = metric(name)
    cells = [Cell(_estimate(found["before"], factor))]
    for part in ("after", "difference"):
        score = found[part]["mean"] if run.is_complete else None
        score = -score if more_is_better and score is not None else score
        cells.append(Cell(_estimate(found[part], factor), score))
    tuned = any(found["difference"]["values"])
    return cells if tuned else [cells[0], cells[1], NOTHING]


def _same_seeds(run: Run, other: Run) -> bool:
    """Whether the fresh seeds of both drew the same examples, weights and minibatches."""
    same = ("seed", "data", "model", "judge")
    return bool(other.judged) and all(
        getattr(run.config, name) == getattr(other.config, name) for name in same
    )


def _notes(runs: Sequence[Run]) -> list[str]:
    counts = sorted({run.summary["judge"]["num_seeds"] for run in runs if run.judged})
    notes = [
        f"Means over {' or '.join(map(str, counts))} training runs on seeds that tuning never saw, "
        "the same ones before and after, ± half of the 95% interval (Student's t). Difference: "
        "after − before, seed by seed, with its own interval."
    ]
    if len(runs) > 1:
        notes.append(
            "Bold: the best of the column among complete runs. Where intervals overlap, it need "
            "not be the best."
        )
    return notes


def _but_for(names: Sequence[str]) -> str:
    """The exceptions to "less is better"."""
    more = [metric(name).label for name in names if metric(name).more_is_better]
    return f", above zero for {' and '.join(more)}" if more else ""


def _signed(text: str) -> str:
    return text.replace("-", "−")
