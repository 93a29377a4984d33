"""The driver's end: workers that are kept alive, asked one at a time, and stopped if too large."""

import multiprocessing
import os
import time
from typing import Any, NamedTuple

from benchmarks import resident
from benchmarks.peers.case import Case
from benchmarks.peers.subject import Subject
from benchmarks.peers.worker import Readiness, Run, serve

_POLL_SECONDS = 0.05
# Left to the machine: whoever runs when less is left is stopped.
_RESERVE = 2**30


class Limits(NamedTuple):
    """What a worker may take before it is stopped: bytes in all, seconds for one answer."""

    bytes: int
    seconds: float


class Failed(Exception):
    """A worker that gave an error or was stopped; its text says which."""


class Worker:
    """A subject in a process of its own."""

    def __init__(self, subject: Subject, case: Case, *, cores: list[int], limits: Limits):
        # A fresh interpreter: a fork would share thread pools and count the driver's memory.
        spawn = multiprocessing.get_context("spawn")
        self.subject, self.limits = subject, limits
        self.connection, other = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(other, subject, case, cores), daemon=True)
        self.process.start()
        other.close()

    def prepare(self) -> Readiness:
        """Waits until it is ready."""
        return self._answer()

    def ask(self, request: str = "call") -> Run:
        """Runs it once, as `worker.serve` says; raises `Failed` where it fails or is stopped."""
        self.connection.send(request)
        return self._answer()

    def move(self, cores: list[int]) -> None:
        """Binds all its threads to other cores, as many as it began with."""
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            os.sched_setaffinity(int(thread), cores)

    def stop(self) -> None:
        """Ends the process, kindly if it waits for a request."""
        try:
            self.connection.send("stop")
        except OSError:
            pass
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()

    def _answer(self) -> Any:
        deadline = time.monotonic() + self.limits.seconds
        while not self.connection.poll(_POLL_SECONDS):
            reason = self._excess(deadline)
            if reason:
                self.process.kill()
                raise Failed(f"stopped {reason}")
        try:
            found = self.connection.recv()
        except EOFError:
            self.process.join()
            raise Failed(f"died with exit code {self.process.exitcode}") from None
        if isinstance(found, str):
            raise Failed(found)
        return found

    def _excess(self, deadline: float) -> str:
        """What it takes too much of, if anything."""
        try:
            held = resident.resident_bytes(self.process.pid or "self")
        except (OSError, ValueError):
            # It has just died, which the pipe's end will say.
            held = 0
        if time.monotonic() > deadline:
            return f"after {self.limits.seconds:g} s"
        if held > self.limits.bytes:
            return f"above {self.limits.bytes / 2**30:g} GiB"
        too_little = resident.available_bytes() < _RESERVE
        return f"with less than {_RESERVE / 2**30:g} GiB left on the machine" if too_little else ""


def groups_of_cores(threads: int) -> list[list[int]]:
    """The cores that this process may use, in groups of `threads`, the last cores first.

    The first group is for what is timed; the driver keeps to the others, if there are any.
    """
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    if threads > len(allowed):
        raise ValueError(f"--threads: {threads} asked for, {len(allowed)} cores to be had")
    if len(allowed) > threads:
        os.sched_setaffinity(0, allowed[threads:])
    return [allowed[k : k + threads] for k in range(0, len(allowed) - threads + 1, threads)]
