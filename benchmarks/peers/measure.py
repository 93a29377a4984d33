"""One case: all subjects prepared, compared with the reference, then timed in turn."""

import argparse
import contextlib
import os
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.peers import worker
from benchmarks.peers.subject import Answer, Case, Subject
from benchmarks.peers.worker import Failed, Limits, Readiness, Run, Worker, groups_of_cores

# Of the difference from the reference, relative to its norm: float32, a thousand steps, and other
# orders of summation.
EXACT_TOLERANCE = 1e-4
# A subject that takes longer is timed in the call that weighs it, and in no further one.
SLOW_SECONDS = 30.0


class Plan(NamedTuple):
    """How a case is measured."""

    # Groups of the processor's cores: the first for what is timed, all for what is prepared.
    cores: list[list[int]]
    limits: Limits  # of each worker
    seconds: float  # for the timed rounds; whatever they take, there are `least` of them
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


def options(benchmark: str, *, seconds: float) -> argparse.ArgumentParser:
    """Options of every command that measures subjects, with the default for a case's rounds."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}")
    add = parser.add_argument
    add("--name", default=benchmark, help="name of the record (%(default)s)")
    add("--threads", type=int, default=1, help="threads and cores of each worker (%(default)s)")
    add("--seconds", type=float, default=seconds, help="for a case's timed rounds (%(default)s)")
    add("--least", type=int, default=3, help="fewest rounds (%(default)s)")
    add("--most", type=int, default=9, help="most rounds (%(default)s)")
    add("--memory-limit", type=float, default=8, help="GiB for a worker (%(default)s)")
    add("--time-limit", type=float, default=400, help="seconds for one answer (%(default)s)")
    return parser


@contextlib.contextmanager
def plan(asked: argparse.Namespace) -> Iterator[Plan]:
    """The plan that the options ask for, with the environment that workers inherit."""
    limits = Limits(int(asked.memory_limit * 2**30), asked.time_limit)
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(worker.environment(asked.threads, cache))
        cores = groups_of_cores(asked.threads)
        yield Plan(cores, limits, asked.seconds, asked.least, asked.most)


def measure_case(
    name: str, subjects: list[Subject], case: Case, plan: Plan, *, reference: str
) -> dict[str, dict[str, Any]]:
    """A row for each subject on a case: seconds and bytes, or `failed` with the reason.

    Raises `Disagreement` if an exact subject differs from the reference, or that gave no answer.
    """
    bar = tqdm(total=len(subjects) * (1 + plan.most), desc=name, mininterval=2)
    with bar, _Measurement(subjects, case, plan, bar) as measurement:
        return measurement.rows_against(reference)


class _Measurement(contextlib.ExitStack):
    """The workers of a case, all stopped at its end, and what is known of them so far."""

    def __init__(self, subjects: list[Subject], case: Case, plan: Plan, bar: tqdm):
        super().__init__()
        self.subjects, self.case, self.plan, self.bar = subjects, case, plan, bar
        self.rows = {each.name: {"package": each.package, "kind": each.kind} for each in subjects}
        self.started: dict[str, Started] = {}

    def rows_against(self, reference: str) -> dict[str, dict[str, Any]]:
        """A row for each subject."""
        self._start_all()
        agreements = _agreements(self.started, reference)
        runs = self._rounds()
        for name, each in self.started.items():
            self.rows[name] |= _figures(each, runs[name]) | agreements.get(name, {})
        return self.rows

    def _start_all(self) -> None:
        """Prepares as many at a time as there are groups of cores; all then move to the first."""
        free = queue.SimpleQueue()
        for cores in self.plan.cores:
            free.put(cores)

        def start(subject: Subject) -> Started:
            cores = free.get()
            try:
                worker = Worker(subject, self.case, cores=cores, limits=self.plan.limits)
                self.callback(worker.stop)
                return Started(worker, worker.answer(), worker.ask("first"), worker.ask("weigh"))
            finally:
                free.put(cores)

        with ThreadPoolExecutor(len(self.plan.cores)) as pool:
            futures = {pool.submit(start, subject): subject.name for subject in self.subjects}
            for future in as_completed(futures):
                name = futures[future]
                self._progress(f"{name}: prepared")
                with self._reporting(name):
                    self.started[name] = future.result()
                    self.started[name].worker.move(self.plan.cores[0])

    def _rounds(self) -> dict[str, list[Run]]:
        """All in turn, so that a machine that drifts slows all of them alike."""
        slow = [k for k, each in self.started.items() if each.weighed.seconds > SLOW_SECONDS]
        runs = {k: [each.weighed] if k in slow else [] for k, each in self.started.items()}
        begin = time.monotonic()
        for count in range(self.plan.most):
            if count >= self.plan.least and time.monotonic() - begin > self.plan.seconds:
                break
            for name in [name for name in self.started if name not in slow]:
                self._progress(f"{name}: round {count + 1}")
                with self._reporting(name):
                    runs[name].append(self.started[name].worker.ask())
        return runs

    @contextlib.contextmanager
    def _reporting(self, name: str) -> Iterator[None]:
        """A subject that fails within is reported, stopped, and left out from there on."""
        try:
            yield
        except Failed as failure:
            print(f"\n{name}: {failure}", file=sys.stderr, flush=True)
            self.rows[name]["failed"] = str(failure)
            if name in self.started:
                self.started.pop(name).worker.stop()

    def _progress(self, text: str) -> None:
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()


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
    """Cosine, ratio of norms and relative error of a hypergradient; `None` where not finite."""
    grad, exact = (np.asarray(each.grad, np.float64) for each in (answer, reference))
    norm, exact_norm = np.linalg.norm(grad), np.linalg.norm(exact)
    figures = {
        "cosine": grad @ exact / (norm * exact_norm),
        "norm_ratio": norm / exact_norm,
        "relative_error": np.linalg.norm(grad - exact) / exact_norm,
    }
    return {name: float(x) if np.isfinite(x) else None for name, x in figures.items()}
