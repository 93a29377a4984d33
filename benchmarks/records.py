"""The records: how one is written, what makes it complete, and what pages say of it."""

import datetime
import itertools
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import optax

import drmad_jax

RECORDS = Path(__file__).parent / "records"
MAIN_BACKEND = "cpu"
FIELDS = ("name", "date", "command", "commit", "took_s", "hardware", "versions", "results")
HARDWARE = ("device", "backend", "processor", "cores", "usable_cores", "load_average")
# Taken before records said how. No name may be added; who takes a record again strikes its name.
INCOMPLETE = (
    "agreement_paths_mlp_adam", "agreement_paths_mlp_chaotic", "agreement_tuned_mlp_chaotic",
)  # fmt: skip


def write_record(name: str, results: dict[str, Any]) -> Path:
    """Writes `records/NAME-BACKEND.json`, with all that `missing` asks for.

    The load average is that of the last 15 minutes: one well above the cores in use says that
    something else was running. The commit is the one that the process began with, of the package
    that was measured, which may be another checkout than this one.
    """
    backend = jax.default_backend()
    record = {
        "name": name,
        "date": datetime.date.today().isoformat(),
        "command": _command(),
        **_COMMIT,
        "took_s": round(time.perf_counter() - _START),
        "hardware": {
            "device": jax.devices()[0].device_kind,
            "backend": backend,
            "processor": _processor(),
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "load_average": round(os.getloadavg()[2], 2),
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
    path = RECORDS / f"{name}-{backend}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def missing(record: dict[str, Any]) -> list[str]:
    """What a record lacks of what every record must say; nothing where it is complete."""
    hardware = record.get("hardware", {})
    lacks = [field for field in FIELDS if record.get(field) is None]
    lacks += [field for field in HARDWARE if hardware.get(field) is None]
    if not re.fullmatch("[0-9a-f]{40}", record.get("commit") or ""):
        lacks.append("the full hash of a commit")
    # `commit_from`: the commit that brought the record, where that of its measurement is not known.
    if "dirty" not in record and "commit_from" not in record:
        lacks.append("dirty")
    return lacks


def load(name: str, backend: str = MAIN_BACKEND) -> dict[str, Any] | None:
    """A record, or `None` where there is none."""
    path = RECORDS / f"{name}-{backend}.json"
    return json.loads(path.read_text()) if path.exists() else None


def results(name: str) -> dict[str, Any]:
    """The results of a record of this package's main backend, which must be there."""
    record = load(name)
    if record is None:
        raise SystemExit(f"no record of {name}")
    return record["results"]


def accelerators() -> list[str]:
    """Further backends that any record was taken on."""
    found = {path.stem.rsplit("-", 1)[1] for path in RECORDS.glob("*-*.json")}
    return sorted(found - {MAIN_BACKEND})


def took_s(script: str) -> float | None:
    """Seconds that a script took in all the processes that wrote its records, if they say so."""
    longest: dict[str, float] = {}
    for path in RECORDS.glob("*.json"):
        record = json.loads(path.read_text())
        command = record.get("command", "")
        if command.split(" ")[:3] == script.split(" ") and "took_s" in record:
            # One process may write several records, the last of them at its end.
            longest[command] = max(longest.get(command, 0.0), record["took_s"])
    return sum(longest.values()) if longest else None


def machine(record: dict[str, Any]) -> str:
    """Hardware in words."""
    hardware = record["hardware"]
    cores = hardware["usable_cores"]
    of = "" if cores == hardware["cores"] else f" of {hardware['cores']}"
    text = f"{hardware['processor']}, {cores}{of} cores"
    return text if hardware["backend"] == "cpu" else f"{hardware['device']}; {text}"


def is_busy(record: dict[str, Any]) -> bool:
    """Whether something else was running: more load than the cores that were used."""
    return record["hardware"]["load_average"] > 1.5 * record["hardware"]["usable_cores"]


def commit(record: dict[str, Any]) -> str:
    """Short, "+" where the tree differed; in brackets where only that of the record is known."""
    short = record["commit"][:7] + "+" * record.get("dirty", False)
    return f"({short})" if "commit_from" in record else short


def rounds(record: dict[str, Any]) -> str:
    """How many rounds its figures are medians of."""
    counts = sorted(set(_counts(record["results"])))
    return "–".join(map(str, counts[:: max(1, len(counts) - 1)])) or "–"


def usable_cores() -> int:
    """Cores that this process may use, which are fewer than the machine's where it is pinned."""
    pinned = getattr(os, "sched_getaffinity", None)
    return len(pinned(0)) if pinned else os.cpu_count() or 1


def _counts(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        if "median_s" in value and "n" in value:
            yield value["n"]
        yield from itertools.chain.from_iterable(map(_counts, value.values()))


def _command() -> str:
    """How this process was started, from the name of its main module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else "?"
    return " ".join(["python -m", name, *map(shlex.quote, sys.argv[1:])])


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", known.read_text() if known.exists() else "")
    return found[1] if found else platform.processor()


def _commit() -> dict[str, Any]:
    """HEAD of the package's checkout, and whether more than pages and records differs from it."""
    root = Path(drmad_jax.__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        changes = git("status", "--porcelain", ".", ":!*.md", ":!*.png", ":!benchmarks/records")
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": True}


_START, _COMMIT = time.perf_counter(), _commit()
