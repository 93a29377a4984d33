"""Fair timings: functions compiled ahead, run in turn, and divided round by round."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from benchmarks.records import usable_cores


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function with its arguments; calling it runs it.

    Attributes:
        compiled: The compiled function.
        arguments: What it is called with.
        lowered: What the compiler was given.
        lower_s: Seconds of tracing and lowering.
        compile_s: Seconds that the compiler took.
    """

    compiled: Any
    arguments: tuple
    lowered: Any
    lower_s: float
    compile_s: float

    def __call__(self) -> Any:
        """Runs the program."""
        return self.compiled(*self.arguments)

    @property
    def temporary_bytes(self) -> int:
        """Bytes of temporary memory that the program asks for."""
        return self.compiled.memory_analysis().temp_size_in_bytes


def compile_calls(
    calls: dict[str, tuple[Callable, tuple]], *, at_once: int | None = None
) -> dict[str, Program]:
    """Compiles pure functions, each with its own arguments.

    Args:
        calls: Name to a function, not jitted, and what it takes.
        at_once: How many at a time: as many as there are cores, or one where that is timed.

    Returns:
        Name to a program.
    """

    def lower(name: str) -> tuple[Any, float]:
        function, given = calls[name]
        start = time.perf_counter()
        return jax.jit(function).lower(*given), round(time.perf_counter() - start, 2)

    lowered = {name: lower(name) for name in calls}

    def compiled(name: str) -> Program:
        start = time.perf_counter()
        program = lowered[name][0].compile()
        seconds = round(time.perf_counter() - start, 2)
        return Program(program, calls[name][1], *lowered[name], seconds)

    with ThreadPoolExecutor(at_once or usable_cores()) as pool:
        return dict(zip(lowered, pool.map(compiled, lowered), strict=True))


def compile_all(functions: dict[str, Callable], *arguments: Any) -> dict[str, Program]:
    """Compiles functions of the same arguments."""
    return compile_calls({name: (function, arguments) for name, function in functions.items()})


def measure(
    functions: dict[str, Callable[[], Any]], *, repeats: int = 9, budget_s: float | None = None
) -> dict[str, dict]:
    """Times compiled calls in turn, so that a drifting machine slows all of them alike.

    Args:
        functions: Name to a call without arguments that returns arrays; jitted by the caller.
        repeats: Counted rounds, after one that compiles and warms up.
        budget_s: Seconds after which no further round begins; at least one is counted.

    Returns:
        Name to seconds: first call (compilation included where the caller left it to that),
        median, minimum, maximum, and those of each round.
    """
    start = time.perf_counter()
    first = {name: _seconds(function) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for count in range(repeats):
        if count and budget_s is not None and time.perf_counter() - start > budget_s:
            break
        for name, function in functions.items():
            times[name].append(_seconds(function))
    return {
        name: {
            "first_call_s": round(first[name], 4),
            "median_s": statistics.median(values),
            "min_s": min(values),
            "max_s": max(values),
            "n": len(values),
            "rounds_s": [round(value, 6) for value in values],
        }
        for name, values in times.items()
    }


def ratios(times: dict[str, dict], baseline: str) -> dict[str, dict[str, float]]:
    """The ratio to `baseline` of each round: what drifts through all of a round drops out.

    Args:
        times: What `measure` returned.
        baseline: Name of the function to divide by.

    Returns:
        Name to median, minimum, maximum and number of the rounds' ratios.
    """
    found = {}
    for name, row in times.items():
        values = [a / b for a, b in zip(row["rounds_s"], times[baseline]["rounds_s"], strict=True)]
        found[name] = {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
            "n": len(values),
        }
    return found


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start
