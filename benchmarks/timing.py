"""Fair timings: functions compiled ahead, run in turn, and divided round by round."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from benchmarks.records import usable_cores


class Program(NamedTuple):
    """A compiled function with its arguments; calling it runs it."""

    compiled: Any
    arguments: tuple
    lowered: Any  # what the compiler was given
    lower_s: float  # tracing and lowering
    compile_s: float  # the compiler alone

    def __call__(self) -> Any:
        """Runs the program."""
        return self.compiled(*self.arguments)

    @property
    def temporary_bytes(self) -> int:
        """Bytes of temporary memory that the program asks for."""
        return self.compiled.memory_analysis().temp_size_in_bytes


def options(
    benchmark: str, cells: Iterable[str], methods: Iterable[str], *, rounds: int
) -> argparse.Namespace:
    """What was asked for of a benchmark by cells and methods: `cells` names those that match."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}")
    add = parser.add_argument
    add("cells", nargs="*", metavar="PART", help="parts of cells' names, such as mlp; else all")
    add("--methods", nargs="+", choices=[*methods], metavar="NAME", help="else a cell's own")
    add("--rounds", type=int, default=rounds, help="most rounds of a cell (%(default)s)")
    add("--name", default=benchmark, help="name of the record (%(default)s)")
    asked, known = parser.parse_args(), list(cells)
    parts = asked.cells
    asked.cells = [cell for cell in known if not parts or any(part in cell for part in parts)]
    if not asked.cells:
        parser.error(f"no such cell; there are {'; '.join(known)}")
    return asked


def compile_calls(calls: dict[str, tuple[Callable, tuple]]) -> dict[str, Program]:
    """Compiles functions, each with its own arguments, as many at a time as there are cores."""

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

    with ThreadPoolExecutor(usable_cores()) as pool:
        return dict(zip(lowered, pool.map(compiled, lowered), strict=True))


def compile_all(functions: dict[str, Callable], *arguments: Any) -> dict[str, Program]:
    """Compiles functions of the same arguments."""
    return compile_calls({name: (function, arguments) for name, function in functions.items()})


def measure(
    functions: dict[str, Callable[[], Any]], *, repeats: int = 9, budget_s: float | None = None
) -> dict[str, dict]:
    """Times compiled calls in turn, so that a drifting machine slows all of them alike.

    `repeats` rounds are counted, after one that warms up (and compiles, where the caller left it
    to that); none but the first begins once `budget_s` seconds are over.
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
    """What `measure` found over `baseline`, round by round: what drifts through one drops out."""
    base = times[baseline]["rounds_s"]
    found = {}
    for name, row in times.items():
        values = [a / b for a, b in zip(row["rounds_s"], base, strict=True)]
        kinds = {"median": statistics.median, "min": min, "max": max}
        found[name] = {k: round(of(values), 3) for k, of in kinds.items()} | {"n": len(values)}
    return found


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start
