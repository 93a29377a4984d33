"""How long the digits job lets its user wait: for the first outer step, and for its end.

    python -m benchmarks.first_result

From the start of the command to the first line of metrics, in processes of their own: with nothing
kept from before, and again with the compiled programs that the first one left.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pages import Benchmark, Claim, Results, Verdict, table
from benchmarks.records import write_record

CONFIG = Path(__file__).parents[1] / "configs" / "digits_l2.toml"
REPEATS = 3
COLD, WARM = "nothing kept", "compiled programs kept"
FIRST, END = "first result, s", "end, s"


def job(folder: Path, cache: Path) -> dict[str, float]:
    """Seconds from the start of one run to its first result and to its end."""
    program = "import sys; from drmad_jax.experiments.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "run", str(CONFIG), "--out", str(folder)]
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first, lines = None, folder / "metrics.jsonl"
    while process.poll() is None:
        if first is None and lines.exists() and lines.read_text().endswith("\n"):
            first = time.perf_counter() - start
        time.sleep(0.02)
    if first is None or process.returncode != 0:
        raise RuntimeError(f"the digits job failed with exit status {process.returncode}")
    return {FIRST: round(first, 2), END: round(time.perf_counter() - start, 2)}


def main() -> None:
    rounds: dict[str, list[dict[str, float]]] = {COLD: [], WARM: []}
    for number in range(REPEATS):
        with tempfile.TemporaryDirectory() as root:
            for name, found in rounds.items():
                found.append(job(Path(root) / name, Path(root) / "cache"))
                print(number + 1, name, found[-1], flush=True)
    print(write_record("first_result", rounds))


def _table(results: Results) -> str:
    """The digits job, by what was kept from before."""

    def middle(values: list[float]) -> str:
        return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"

    lines = [
        (name, *(middle([row[key] for row in rows]) for key in (FIRST, END)))
        for name, rows in results.items()
    ]
    return table(("", FIRST, END), lines)


def _soon(results: Results) -> Verdict:
    seconds = [row[FIRST] for row in results[COLD]]
    figure = f"{statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s"
    return Verdict(figure, max(seconds) < 15)


def _headline(results: Results) -> str:
    cold, warm = (statistics.median(row[FIRST] for row in results[name]) for name in (COLD, WARM))
    return f"{cold:.0f} s, later {warm:.0f} s"


BENCHMARK = Benchmark(
    "first_result",
    table=_table,
    claims=(Claim("From the command to the first result of the digits job in 15 s", _soon),),
    headline=("from the command above to the first result on digits", _headline),
)

if __name__ == "__main__":
    main()
