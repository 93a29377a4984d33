"""Resident memory of a process, and its peak, from Linux's /proc."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

KNOWN = Path("/proc/self/status").exists()


def resident_bytes(pid: int | str = "self") -> int:
    """Memory that a process holds now."""
    return _bytes(Path(f"/proc/{pid}/status"), "VmRSS")


def available_bytes() -> int:
    """Memory that the machine has left."""
    return _bytes(Path("/proc/meminfo"), "MemAvailable")


def growth(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and its peak of this process's memory above what it held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before = resident_bytes()
    result = call()
    return result, _bytes(Path("/proc/self/status"), "VmHWM") - before


def release() -> None:
    """Collects garbage and gives freed memory back to the system.

    Without it a call would be served from what an earlier one, or a compilation, has freed, and
    its memory would not show.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _bytes(file: Path, field: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"{file} has no {field}")
