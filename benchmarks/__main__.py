"""Runs benchmarks one after another and renders the pages.

    python -m benchmarks [NAME ...]

Each runs in a process of its own. One that fails does not stop the others; the exit status says so
at the end. `render` alone renders.
"""

import argparse
import subprocess
import sys
import time

from benchmarks import records, render
from benchmarks.pages import Benchmark


def describe(benchmark: Benchmark) -> str:
    """What a benchmark needs, and what it took when its records were made."""
    seconds = records.took_s(benchmark.command)
    took = "" if seconds is None else f"took {seconds / 60:.1f} min when last recorded"
    said = "; ".join(part for part in (took, benchmark.needs) if part)
    return f"{benchmark.name} ({said})" if said else benchmark.name


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", choices=(*render.BY_NAME, "render"), metavar="NAME")
    names = parser.parse_args().names
    chosen = [b for b in render.BENCHMARKS if b.name in names or not names]
    ended = {}
    for number, benchmark in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {describe(benchmark)}", flush=True)
        start = time.monotonic()
        status = subprocess.run([sys.executable, "-m", f"benchmarks.{benchmark.name}"]).returncode
        ended[benchmark.name] = status, (time.monotonic() - start) / 60
    render.main()
    for name, (status, minutes) in ended.items():
        how = "done" if status == 0 else f"FAILED with exit status {status}"
        print(f"{name:20s} {minutes:6.1f} min  {how}")
    return int(any(status for status, _ in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
