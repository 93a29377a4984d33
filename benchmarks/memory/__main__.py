"""What each method needs in memory, against the number of steps and of weights.

    python -m benchmarks.memory

Compiled: temporary bytes of the program, as XLA reports them. Peak: in a fresh process for each
point, the growth of the resident set over what it held when the program was ready and the data in
place (on a GPU: of the device's memory in use). A program that asks for more than 4 GiB is
compiled and not run; one that runs for minutes is stopped. From the compiled bytes: the law of the
catalogue fitted to them, and the number of steps at which 16 GiB are used up.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import lineup
from benchmarks.memory import laws
from benchmarks.records import usable_cores, write_record

STEPS = (100, 1000, 10_000)
# Widths of the two hidden layers for about 10^4, 10^5, 10^6 and 10^7 weights.
WIDTHS = (13, 112, 690, 2790)
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "by number of steps": [
        {"layers": [784, 50, 50, 50, 10], "batch_size": 50, "num_steps": T} for T in STEPS
    ],
    "by number of weights": [
        {"layers": [784, width, width, 10], "batch_size": 10, "num_steps": 30} for width in WIDTHS
    ],
}
# The forms that are too slow to run at all sizes: compiled only, beyond this many steps or weights.
LONGEST = {"forward": (100, 10**5)}
TIME_LIMIT_S = 150
ROOT = Path(__file__).parents[2]


def points() -> list[dict[str, Any]]:
    """Every method at every size of both sweeps."""
    labels = [lineup.PLAIN, *lineup.COST, *lineup.FURTHER]
    return [
        {"sweep": sweep, "label": label, **size}
        for sweep, sizes in SWEEPS.items()
        for size in sizes
        for label in labels
    ]


def run_point(point: dict[str, Any]) -> dict[str, Any]:
    """One point in a process of its own."""
    most_steps, most_weights = LONGEST.get(point["label"], (10**9, 10**9))
    weights = sum(a * b for a, b in zip(point["layers"], point["layers"][1:], strict=False))
    given = point | {"run": point["num_steps"] <= most_steps and weights <= most_weights}
    command = [sys.executable, "-m", "benchmarks.memory.point", json.dumps(given)]
    # Several processes share a GPU.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    options: dict[str, Any] = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE}
    try:
        output = subprocess.run(command, timeout=TIME_LIMIT_S, **options).stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
    # The process prints what it has compiled before it runs it.
    lines = output.splitlines()
    return point | (json.loads(lines[-1]) if lines else {"failed": True})


def tables(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The points by sweep and method."""
    found: dict[str, Any] = {sweep: {} for sweep in SWEEPS}
    for row in rows:
        kept = {name: row[name] for name in row if name not in ("sweep", "label", "layers")}
        found[row["sweep"]].setdefault(row["label"], []).append(kept)
    found["growth with weights"] = {
        label: _slope([p for p in points if p.get("temporary_bytes")][-2:])
        for label, points in found["by number of weights"].items()
    }
    return found


def _slope(largest: list[dict[str, Any]]) -> float | None:
    """Bytes for each further weight, between the two largest sizes."""
    if len(largest) < 2:
        return None
    difference = lambda key: largest[1][key] - largest[0][key]
    return round(difference("temporary_bytes") / difference("weights"), 2)


def main() -> None:
    work = points()
    with ThreadPoolExecutor(min(4, usable_cores())) as pool:
        rows = list(tqdm(pool.map(run_point, work), total=len(work)))
    results = tables(rows)
    for label, law in laws.fitted(results["by number of steps"]).items():
        print(f"{label:32s} {law}")
    failed = [f"{row['label']} {row['num_steps']}" for row in rows if row.get("failed")]
    print(write_record("memory", {**results, "failed": failed}))


if __name__ == "__main__":
    main()
