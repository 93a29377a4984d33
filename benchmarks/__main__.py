"""Runs benchmarks one after another and renders the page.

    python -m benchmarks [NAME ...]

Each runs in a process of its own. One that fails does not stop the others; the exit status says so
at the end. `render` alone renders.
"""

import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks import record_files, render

# In this order, with what they need besides the package.
SCRIPTS = {
    "curvature_product": "",
    "reversible_memory": "",
    "breakdown": "",
    "cost": "",
    "memory": "",
    "population": "",
    "peers": "installs PyTorch into an environment of its own",
    "paper_claim": "in the environment of the peers",
    "first_result": "",
    "accuracy": "needs MNIST and Fashion-MNIST in TFDS_DATA_DIR",
    "literature": "needs MNIST, Fashion-MNIST and Omniglot",
    "gallery": "fills docs/experiments.md from records of literature",
    "study": "fills docs/study.md from records of accuracy",
}


class Outcome(NamedTuple):
    """How a script ended.

    Attributes:
        name: Its name.
        status: Its exit status.
        seconds: How long it took.
    """

    name: str
    status: int
    seconds: float


def run(name: str) -> Outcome:
    """Runs one script, its output going where ours goes."""
    start = time.monotonic()
    status = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode
    return Outcome(name, status, time.monotonic() - start)


def describe(name: str) -> str:
    """What a script needs, and what it took when its records were made."""
    seconds = record_files.took_s(f"python -m benchmarks.{name}")
    took = "" if seconds is None else f"took {seconds / 60:.1f} min when last recorded"
    said = "; ".join(part for part in (took, SCRIPTS[name]) if part)
    return f"{name} ({said})" if said else name


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in (*SCRIPTS, "render")]
    if unknown:
        choices = ", ".join((*SCRIPTS, "render"))
        print(f"unknown: {', '.join(unknown)}; choose from {choices}", file=sys.stderr)
        return 2
    chosen = [name for name in SCRIPTS if name in names or not names]
    outcomes = []
    for number, name in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {describe(name)}", flush=True)
        outcomes.append(run(name))
    render.main()
    for name, status, seconds in outcomes:
        ended = "done" if status == 0 else f"FAILED with exit status {status}"
        print(f"{name:20s} {seconds / 60:6.1f} min  {ended}")
    return int(any(outcome.status for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
