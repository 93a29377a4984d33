"""Fair timings of compiled functions, and the dated JSON records that they end in."""

import dataclasses
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import optax

import drmad_jax

RECORDS = Path(__file__).parent / "records"
_START = time.perf_counter()


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function with its arguments; calling it runs it.

    Attributes:
        compiled: The compiled function.
        arguments: What it is called with.
        compile_s: Seconds that the compiler took, tracing not included.
    """

    compiled: Any
    arguments: tuple
    compile_s: float

    def __call__(self) -> Any:
        """Runs the program."""
        return self.compiled(*self.arguments)

    @property
    def temporary_bytes(self) -> int:
        """Bytes of temporary memory that the program asks for."""
        return temporary_bytes(self.compiled)


def compile_all(functions: dict[str, Callable], *arguments: Any) -> dict[str, Program]:
    """Compiles functions of the same arguments, as many at a time as there are cores.

    Args:
        functions: Name to a pure function, not jitted.
        arguments: What each of them takes.

    Returns:
        Name to a program.
    """
    return compile_calls({name: (function, arguments) for name, function in functions.items()})


def compile_calls(calls: dict[str, tuple[Callable, tuple]]) -> dict[str, Program]:
    """Compiles functions, each with its own arguments, as many at a time as there are cores.

    Args:
        calls: Name to a pure function, not jitted, and what it takes.

    Returns:
        Name to a program.
    """
    lowered = {name: jax.jit(function).lower(*given) for name, (function, given) in calls.items()}

    def compiled(name: str) -> Program:
        start = time.perf_counter()
        program = lowered[name].compile()
        return Program(program, calls[name][1], round(time.perf_counter() - start, 2))

    with ThreadPoolExecutor(usable_cores()) as pool:
        return dict(zip(lowered, pool.map(compiled, lowered), strict=True))


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


def ratios(times: dict[str, dict], baseline: str) -> dict[str, float]:
    """Medians over the median of `baseline`, of the same run."""
    base = times[baseline]["median_s"]
    return {name: round(row["median_s"] / base, 3) for name, row in times.items()}


def ratio_spreads(times: dict[str, dict], baseline: str) -> dict[str, dict[str, float]]:
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


def usable_cores() -> int:
    """Cores that this process may use, which are fewer than the machine's where it is pinned."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def temporary_bytes(compiled: Any) -> int:
    """Bytes of temporary memory that a compiled function asks for."""
    return compiled.memory_analysis().temp_size_in_bytes


def write_record(name: str, results: dict[str, Any]) -> Path:
    """Writes `records/NAME-BACKEND.json` with date, command, hardware and versions.

    Hardware includes the load average of the last 15 minutes: one that is well above the cores in
    use says that something else was running.
    """
    record = {
        "name": name,
        "date": datetime.date.today().isoformat(),
        "command": _command(),
        "took_s": round(time.perf_counter() - _START),
        "hardware": {
            "device": jax.devices()[0].device_kind,
            "backend": jax.default_backend(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "load_average": _load_average(),
        },
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "optax": optax.__version__,
            "drmad_jax": drmad_jax.__version__,
        },
        "results": results,
    }
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{name}-{jax.default_backend()}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def _command() -> str:
    """How this process was started, from the name of its main module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else "?"
    return " ".join(["python -m", name, *map(shlex.quote, sys.argv[1:])])


def _load_average() -> float | None:
    return round(os.getloadavg()[2], 2) if hasattr(os, "getloadavg") else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
