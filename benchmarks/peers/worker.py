"""The process of one subject: it prepares once, then runs whenever it is asked."""

import os
import time
import traceback
from multiprocessing.connection import Connection
from typing import NamedTuple

from benchmarks import resident
from benchmarks.peers.case import Case
from benchmarks.peers.subject import Answer, Prepared, Subject

# What an idle worker may keep of the memory that its calls have freed.
_KEPT_BYTES = 2**28


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
