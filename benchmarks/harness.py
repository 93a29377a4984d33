"""Fair timings of compiled functions, and the dated JSON records that they end in."""

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax

import drmad_jax

RECORDS = Path(__file__).parent / "records"


def measure(functions: dict[str, Callable[[], Any]], *, repeats: int = 9) -> dict[str, dict]:
    """Times compiled calls in turn, so that a drifting machine slows all of them alike.

    Args:
        functions: Name to a call without arguments that returns arrays; jitted by the caller.
        repeats: Counted rounds, after one that compiles and warms up.

    Returns:
        Name to seconds: first call (compilation included), median, minimum, maximum.
    """
    first, times = {}, {name: [] for name in functions}
    for name, function in functions.items():
        first[name] = _seconds(function)
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(_seconds(function))
    return {
        name: {
            "first_call_s": round(first[name], 4),
            "median_s": statistics.median(values),
            "min_s": min(values),
            "max_s": max(values),
            "n": repeats,
        }
        for name, values in times.items()
    }


def ratios(times: dict[str, dict], baseline: str) -> dict[str, float]:
    """Medians over the median of `baseline`, of the same run."""
    base = times[baseline]["median_s"]
    return {name: round(row["median_s"] / base, 3) for name, row in times.items()}


def temporary_bytes(compiled: Any) -> int:
    """Bytes of temporary memory that a compiled function asks for."""
    return compiled.memory_analysis().temp_size_in_bytes


def write_record(name: str, results: dict[str, Any]) -> Path:
    """Writes `records/NAME-BACKEND.json` with date, hardware and versions."""
    record = {
        "name": name,
        "date": datetime.date.today().isoformat(),
        "hardware": {
            "device": jax.devices()[0].device_kind,
            "backend": jax.default_backend(),
            "processor": _processor(),
            "cores": os.cpu_count(),
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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
