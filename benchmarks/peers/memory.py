"""Resident memory of a process, and its peak, from Linux's /proc."""

import ctypes
import gc
from pathlib import Path


def resident_bytes(pid: int | str = "self") -> int:
    """Memory that a process holds now."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int | str = "self") -> int:
    """The most that it has held since it began, or since `reset_peak`."""
    return _status(pid, "VmHWM")


def available_bytes() -> int:
    """Memory that the machine has left."""
    return _kibibytes(Path("/proc/meminfo"), "MemAvailable") * 1024


def reset_peak() -> None:
    """Lets this process's peak begin again from what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def release() -> None:
    """Collects garbage and gives freed memory back to the system.

    Without it a call would be served from what an earlier one, or a compilation, has freed, and
    its memory would not show.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(pid: int | str, field: str) -> int:
    return _kibibytes(Path(f"/proc/{pid}/status"), field) * 1024


def _kibibytes(file: Path, field: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise ValueError(f"{file} has no {field}")
