"""Programs that are compiled together, and timed one by one."""

import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

import jax


class Program:
    """A function that is compiled before it is timed, and the seconds of its calls.

    Attributes:
        name: What it is called.
        compile_seconds: What tracing, lowering and compiling took, with others beside it.
    """

    def __init__(self, name: str, function: Callable[..., Any], repeats: int = 1):
        self.name, self.compile_seconds = name, 0.0
        self._function, self._repeats = jax.jit(function), repeats
        self._compiled: Any = None
        self._times: list[float] = []

    def lower(self, *args: Any, **options: Any) -> Any:
        """Traces it, for arguments like these.

        Raises:
            ValueError: As the function does, with the program's name.
        """
        start = time.perf_counter()
        try:
            lowered = self._function.lower(*args, **options)
        except ValueError as error:
            raise ValueError(f"compare: {self.name}: {error}") from error
        self.compile_seconds = time.perf_counter() - start
        return lowered

    def compile(self, lowered: Any) -> "Program":
        """Compiles it, in whatever thread."""
        start = time.perf_counter()
        self._compiled = lowered.compile()
        self.compile_seconds += time.perf_counter() - start
        return self

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Calls it, `repeats` times by the clock and before the first time once without."""
        if not self._times:
            jax.block_until_ready(self._compiled(*args, **options))
        out = None
        for _ in range(self._repeats):
            start = time.perf_counter()
            out = jax.block_until_ready(self._compiled(*args, **options))
            self._times.append(time.perf_counter() - start)
        return out

    def untimed(self, *args: Any, **options: Any) -> Any:
        """Calls it by no clock."""
        return self._compiled(*args, **options)

    @property
    def seconds(self) -> float:
        """Median of the timed calls."""
        return statistics.median(self._times)

    @property
    def temporary_bytes(self) -> int | None:
        """What it needs beside arguments and results, where the compiler tells."""
        analysis = self._compiled.memory_analysis()
        return None if analysis is None else analysis.temp_size_in_bytes


def compile_all(
    programs: Iterable[tuple[Program, tuple[Any, ...]]],
    options: dict[str, Any],
    told: Callable[[str], Any],
) -> float:
    """Compiles programs, as many at a time as there are cores, while the next are traced.

    Args:
        programs: Each with its positional arguments.
        options: The keyword arguments of all.
        told: Gets a line for each that is compiled.

    Returns:
        Seconds that it took.

    Raises:
        ValueError: As the functions do when traced.
    """
    futures: list[Future[Program]] = []
    start = time.perf_counter()

    def tell(done: Iterable[Future[Program]]) -> None:
        for future in done:
            program = future.result()
            told(f"{program.name}: compiled in {program.compile_seconds:.1f} s")

    with ThreadPoolExecutor(_usable_cores()) as pool:
        for program, args in programs:
            futures.append(pool.submit(program.compile, program.lower(*args, **options)))
            done = [future for future in futures if future.done()]
            futures = [future for future in futures if future not in done]
            tell(done)
        tell(as_completed(futures))
    return time.perf_counter() - start


def _usable_cores() -> int:
    # Not every platform tells of a process.
    affinity = getattr(os, "sched_getaffinity", None)
    return (os.cpu_count() or 1) if affinity is None else len(affinity(0))
