"""One case: all subjects prepared, compared with the reference, then timed in turn."""

import queue
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.pool import Failed, Limits, Worker
from benchmarks.peers.subject import Answer, Subject
from benchmarks.peers.worker import Readiness, Run

# Of the difference from the reference, relative to its norm: float32, a thousand steps, and other
# orders of summation.
EXACT_TOLERANCE = 1e-4
# A subject that takes longer is timed in the call that weighs it, and in no further one.
SLOW_SECONDS = 30.0


class Plan(NamedTuple):
    """How a case is measured.

    Attributes:
        cores: The processor's cores of the workers: the first group for what is timed, all groups
            at once for what is prepared.
        limits: Of each worker.
        seconds: For the timed rounds; whatever they take, there are `least` of them.
        least: Fewest rounds.
        most: Most rounds.
    """

    cores: list[list[int]]
    limits: Limits
    seconds: float
    least: int
    most: int


class Started(NamedTuple):
    """A worker that has run twice."""

    worker: Worker
    readiness: Readiness
    first: Run
    weighed: Run


class Disagreement(Exception):
    """An exact subject that is not."""


def measure_case(
    subjects: list[Subject],
    case: Any,
    plan: Plan,
    progress: Callable[[str], None],
    *,
    reference: str,
) -> dict[str, dict[str, Any]]:
    """Measures all subjects on a case.

    Args:
        subjects: Whom to measure.
        case: The problem.
        plan: Rounds and limits.
        progress: Called with a text at each piece of work.
        reference: Name of the subject that exact ones must agree with.

    Returns:
        A row for each subject: seconds and bytes, or `failed` with the reason.

    Raises:
        Disagreement: If an exact subject differs from the reference, or that gave no answer.
    """
    rows = {each.name: {"package": each.package, "kind": each.kind} for each in subjects}
    started: dict[str, Started] = {}
    try:
        _start_all(subjects, case, plan, rows, started, progress)
        agreements = _agreements(started, reference)
        runs = _rounds(started, rows, plan, progress)
        for name, each in started.items():
            rows[name] |= _figures(each, runs[name]) | agreements.get(name, {})
    finally:
        for each in started.values():
            each.worker.stop()
    return rows


def _start_all(
    subjects: list[Subject],
    case: Any,
    plan: Plan,
    rows: dict,
    started: dict[str, Started],
    progress: Callable[[str], None],
) -> None:
    """Prepares as many at a time as there are groups of cores; all then move to the first."""
    free = queue.SimpleQueue()
    for cores in plan.cores:
        free.put(cores)

    def start(subject: Subject) -> Started:
        cores = free.get()
        try:
            return _start(subject, case, cores, plan.limits)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(plan.cores)) as pool:
        futures = {pool.submit(start, subject): subject.name for subject in subjects}
        for future in as_completed(futures):
            name = futures[future]
            progress(f"{name}: prepared")
            try:
                started[name] = future.result()
                started[name].worker.move(plan.cores[0])
            except Failed as failure:
                _report(rows, name, failure)


def _start(subject: Subject, case: Any, cores: list[int], limits: Limits) -> Started:
    worker = Worker(subject, case, cores=cores, limits=limits)
    try:
        return Started(worker, worker.prepare(), worker.ask("first"), worker.ask("weigh"))
    except BaseException:
        worker.stop()
        raise


def _report(rows: dict, name: str, failure: Failed) -> None:
    print(f"\n{name}: {failure}", file=sys.stderr, flush=True)
    rows[name]["failed"] = str(failure)


def _rounds(
    started: dict[str, Started], rows: dict, plan: Plan, progress: Callable[[str], None]
) -> dict[str, list[Run]]:
    """All in turn, so that a machine that drifts slows all of them alike."""
    slow = {k: each for k, each in started.items() if each.weighed.seconds > SLOW_SECONDS}
    runs = {name: [slow[name].weighed] if name in slow else [] for name in started}
    begin = time.monotonic()
    for count in range(plan.most):
        if count >= plan.least and time.monotonic() - begin > plan.seconds:
            break
        for name in [name for name in started if name not in slow]:
            progress(f"{name}: round {count + 1}")
            try:
                runs[name].append(started[name].worker.ask())
            except Failed as failure:
                _report(rows, name, failure)
                started.pop(name).worker.stop()
    return runs


def _figures(each: Started, runs: list[Run]) -> dict[str, Any]:
    seconds = [run.seconds for run in runs]
    growth = each.weighed.growth_bytes
    temporary = each.readiness.temporary_bytes
    return {
        "first_call_s": round(each.readiness.seconds + each.first.seconds, 4),
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "n": len(seconds),
        "processor_s": statistics.median(run.processor_seconds for run in runs),
        "growth_bytes": growth,
        "temporary_bytes": temporary,
        # What is asked for but never written does not grow the process, and what it finds free in
        # it neither: the larger of both is what it needs.
        "memory_bytes": max(growth, temporary or 0),
        "resident_bytes": each.readiness.resident_bytes,
        "value": each.first.answer.value,
        **(each.weighed.answer.extra or {}),
    }


def _agreements(started: dict[str, Started], reference: str) -> dict[str, dict[str, Any]]:
    """How each hypergradient agrees with the reference's, exact ones within the tolerance."""
    if reference not in started:
        raise Disagreement(f"the reference, {reference}, gave no answer to compare with")
    exact = started[reference].first.answer
    found, wrong = {}, []
    for name, each in started.items():
        answer = each.weighed.answer
        if answer.grad is None:
            continue
        found[name] = agreement(answer, exact)
        error = found[name]["relative_error"]
        within = error is not None and error <= EXACT_TOLERANCE
        if each.worker.subject.kind == "exact" and not within:
            wrong.append(f"{name}: {found[name]}")
    if wrong:
        raise Disagreement(f"not exact within {EXACT_TOLERANCE}: " + "; ".join(wrong))
    return found


def agreement(answer: Answer, reference: Answer) -> dict[str, float | None]:
    """Cosine, ratio of norms and relative error of a hypergradient.

    Args:
        answer: With a hypergradient.
        reference: With the exact one.

    Returns:
        The three figures, `None` where they are not finite.
    """
    grad, exact = (np.asarray(each.grad, np.float64) for each in (answer, reference))
    norm, exact_norm = np.linalg.norm(grad), np.linalg.norm(exact)
    figures = {
        "cosine": grad @ exact / (norm * exact_norm),
        "norm_ratio": norm / exact_norm,
        "relative_error": np.linalg.norm(grad - exact) / exact_norm,
    }
    return {name: float(x) if np.isfinite(x) else None for name, x in figures.items()}
