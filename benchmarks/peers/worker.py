"""The process of one subject, which prepares once and runs when asked, and its driver's end."""

import multiprocessing
import os
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks import resident
from benchmarks.peers.subject import Answer, Case, Prepared, Subject

# What an idle worker may keep of the memory that its calls have freed.
_KEPT_BYTES = 2**28
_POLL_SECONDS = 0.05
# Left to the machine: whoever runs when less is left is stopped.
_RESERVE = 2**30


class Readiness(NamedTuple):
    """What preparing took."""

    seconds: float  # compilation, where there is any; imports apart
    # Before the first call: interpreter, packages, data and compiled programs.
    resident_bytes: int
    temporary_bytes: int | None  # what the compiled program says that it needs


class Run(NamedTuple):
    """One call."""

    answer: Answer
    seconds: float  # by the clock
    processor_seconds: float  # of all threads; less where others took the processor
    growth_bytes: int  # peak of the resident memory above what it was before


def environment(threads: int, cache: str) -> dict[str, str]:
    """Variables to be set before any framework is loaded; `cache` keeps compiled code apart."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        # Idle workers must not spin while another one is measured.
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def serve(connection: Connection, subject: Subject, case: Case, cores: list[int]) -> None:
    """Runs a subject at each "first", "weigh" or "call" from the other end, until "stop".

    "weigh" gives freed memory back before, which makes the call slower: it is for its memory.
    A "call" is timed on memory that the process has already: one that has given back what it held
    makes a call before, which is not timed. What goes wrong is sent back as a text.
    """
    os.sched_setaffinity(0, cores)
    try:
        prepared, readiness = _prepare(subject, case, len(cores))
        connection.send(readiness)
        cold = False
        while (request := connection.recv()) != "stop":
            if request == "weigh":
                resident.release()
            elif request == "call" and cold:
                prepared.call()
            connection.send(_run(prepared))
            # Idle workers together must not hold more than the machine has.
            cold = resident.resident_bytes() - readiness.resident_bytes > _KEPT_BYTES
            if cold:
                resident.release()
    except (EOFError, BrokenPipeError):
        # The driver has gone, and nobody waits for an answer.
        return
    except Exception as error:
        traceback.print_exc()
        lines = [line for line in str(error).splitlines() if line.strip()]
        connection.send(f"{type(error).__name__}: {lines[0][:300] if lines else ''}")


def _prepare(subject: Subject, case: Case, threads: int) -> tuple[Prepared, Readiness]:
    form = subject.load()
    if subject.uses_torch:
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
    start = time.perf_counter()
    prepared = form(case)
    seconds = time.perf_counter() - start
    resident.release()
    return prepared, Readiness(seconds, resident.resident_bytes(), prepared.temporary_bytes)


def _run(prepared: Prepared) -> Run:
    def timed() -> tuple[Answer, float, float]:
        start, processor = time.perf_counter(), time.process_time()
        answer = prepared.call()
        return answer, time.perf_counter() - start, time.process_time() - processor

    (answer, seconds, processor_seconds), growth = resident.growth(timed)
    return Run(answer, seconds, processor_seconds, growth)


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

    def ask(self, request: str = "call") -> Run:
        """Runs it once, as `worker.serve` says; raises `Failed` where it fails or is stopped."""
        self.connection.send(request)
        return self.answer()

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

    def answer(self) -> Any:
        """Waits for what it sends: its `Readiness`, then a `Run` for each request."""
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
