"""Every subject on every case, and the record.

python -m benchmarks.peers [--cases 50x1000 500x1000] [--subjects torch drmad]
"""

import argparse
import importlib.metadata
from typing import Any

from benchmarks.peers import environment
from benchmarks.peers.measure import EXACT_TOLERANCE, Plan, measure_case, options, plan
from benchmarks.peers.report import claims, peers_table
from benchmarks.peers.subject import HEAVY, LEFT_OUT, REFERENCE, SUBJECTS, Subject, make_case
from benchmarks.records import write_record

PACKAGES = ("torch", "torchopt", "higher", "jaxopt", "optimistix", "equinox", "lineax")
CASES = ("50x100", "50x1000", "500x1000")
# Batch size times steps from which a case takes long.
LARGE = 200_000


def chosen(parts: list[str] | None, *, large: bool) -> list[Subject]:
    """The subjects that were asked for, and the reference."""
    if parts is None:
        all_but = [subject for subject in SUBJECTS if subject.kind != "implicit"]
        return [subject for subject in all_but if not (large and subject.name in HEAVY)]
    text = lambda subject: f"{subject.name} {subject.package} {subject.kind}".lower()
    asked = lambda subject: any(part.lower() in text(subject) for part in parts)
    return [subject for subject in SUBJECTS if subject.name == REFERENCE or asked(subject)]


def run(asked: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    found = {}
    for size in asked.cases:
        batch_size, num_steps = map(int, size.split("x"))
        subjects = chosen(asked.subjects, large=batch_size * num_steps >= LARGE)
        case = make_case(batch_size, num_steps, num_outer=asked.outer)
        rows = measure_case(str(case), subjects, case, plan, reference=REFERENCE)
        this = {str(case): {"rows": rows, "claims": claims(rows)}}
        print(f"\n{peers_table({'threads': asked.threads, 'cases': this})}", flush=True)
        found |= this
    return found


def main() -> None:
    environment.enter("benchmarks.peers")
    parser = options("peers", seconds=60)
    add = parser.add_argument
    add("--cases", nargs="+", default=CASES, help="batch size x steps (%(default)s)")
    add("--subjects", nargs="+", help="parts of names, packages or kinds; else all but implicit")
    add("--outer", type=int, default=5000, help="examples of the outer batch (%(default)s)")
    asked = parser.parse_args()
    with plan(asked) as planned:
        found = run(asked, planned)
    results = {
        "threads": asked.threads,
        "outer examples": asked.outer,
        "exact within": EXACT_TOLERANCE,
        "versions of the peers": {name: importlib.metadata.version(name) for name in PACKAGES},
        "notes": {subject.name: subject.note for subject in SUBJECTS if subject.note},
        "left out": LEFT_OUT,
        "cases": found,
    }
    print(write_record(asked.name, results))


if __name__ == "__main__":
    main()
