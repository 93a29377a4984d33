"""The process of one subject: it prepares once, then runs whenever it is asked."""

import os
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks import resident
from benchmarks.peers.subject import Answer, Prepared, Subject

# What an idle worker may keep of the memory that its calls have freed.
_KEPT_BYTES = 2**28


class Readiness(NamedTuple):
    """What preparing took.

    Attributes:
        seconds: Compilation, where there is any; imports apart.
        resident_bytes: What the process holds before its first call: interpreter, packages, data
            and compiled programs.
        temporary_bytes: What the compiled program says that it needs.
    """

    seconds: float
    resident_bytes: int
    temporary_bytes: int | None


class Run(NamedTuple):
    """One call.

    Attributes:
        answer: What it returned.
        seconds: By the clock.
        processor_seconds: Of all threads; less than by the clock where others took the processor.
        growth_bytes: Peak of the resident memory during the call above what it was before.
    """

    answer: Answer
    seconds: float
    processor_seconds: float
    growth_bytes: int


def environment(threads: int, cache: str) -> dict[str, str]:
    """Variables that must be set before any framework is loaded.

    Args:
        threads: Threads of each worker.
        cache: A folder for compiled code, so that no earlier run's is used.
    """
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


def serve(connection: Connection, subject: Subject, case: Any, cores: list[int]) -> None:
    """Runs a subject at each "first", "weigh" or "call" from the other end, until "stop".

    "weigh" gives freed memory back before, which makes the call slower: it is for its memory.
    A "call" is timed on memory that the process has already: one that has given back what it held
    makes a call before, which is not timed. What goes wrong is sent back as a text.

    Args:
        connection: To the driver.
        subject: What to run.
        case: On what.
        cores: The processor's cores that this process may use: thread pools take their size.
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
        connection.send(f"{type(error).__name__}: {_first_line(error)}")


def _prepare(subject: Subject, case: Any, threads: int) -> tuple[Prepared, Readiness]:
    subject.load()
    if subject.uses_torch:
        import torch

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
    start = time.perf_counter()
    prepared = subject.prepare(case)
    seconds = time.perf_counter() - start
    resident.release()
    return prepared, Readiness(seconds, resident.resident_bytes(), prepared.temporary_bytes)


def _run(prepared: Prepared) -> Run:
    def timed() -> tuple[Answer, float, float]:
        start, processor = time.perf_counter(), time.process_time()
        answer = prepared.call()
        return answer, time.perf_counter() - start, time.process_time() - processor

    found, growth = resident.growth(timed)
    return Run(*found, growth)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else ""
