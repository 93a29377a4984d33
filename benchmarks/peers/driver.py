"""What the commands share: options, workers' surroundings, and a progress bar over a case."""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from benchmarks.peers import worker
from benchmarks.peers.measure import Plan, measure_case
from benchmarks.peers.pool import Limits, groups_of_cores
from benchmarks.peers.subject import Subject


def add_options(parser: argparse.ArgumentParser, *, seconds: float, least: int) -> None:
    """Options of every command that measures subjects.

    Args:
        parser: Takes them.
        seconds: Default time for the timed rounds of a case.
        least: Default of the fewest rounds.
    """
    add = parser.add_argument
    add("--threads", type=int, default=1, help="threads and cores of each worker (%(default)s)")
    add("--seconds", type=float, default=seconds, help="for a case's timed rounds (%(default)s)")
    add("--least", type=int, default=least, help="fewest rounds (%(default)s)")
    add("--most", type=int, default=9, help="most rounds (%(default)s)")
    add("--memory-limit", type=float, default=8, help="GiB for a worker (%(default)s)")
    add("--time-limit", type=float, default=400, help="seconds for one answer (%(default)s)")


@contextlib.contextmanager
def plan(asked: argparse.Namespace) -> Iterator[Plan]:
    """The plan that the options ask for, with the environment that workers inherit."""
    limits = Limits(int(asked.memory_limit * 2**30), asked.time_limit)
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(worker.environment(asked.threads, cache))
        cores = groups_of_cores(asked.threads)
        yield Plan(cores, limits, asked.seconds, asked.least, asked.most)


def measure_with_bar(
    name: str, subjects: list[Subject], case: Any, plan: Plan, reference: str
) -> dict[str, dict[str, Any]]:
    """`measure_case` under a progress bar.

    Args:
        name: Of the case.
        subjects: Whom to measure.
        case: The problem.
        plan: Rounds and limits.
        reference: The subject that exact ones must agree with.

    Returns:
        A row for each subject.
    """
    with tqdm(total=len(subjects) * (1 + plan.most), desc=name, mininterval=2) as bar:

        def progress(text: str) -> None:
            bar.set_postfix_str(text, refresh=False)
            bar.update()

        return measure_case(subjects, case, plan, progress, reference=reference)
