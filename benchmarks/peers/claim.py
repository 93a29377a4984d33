"""The paper's claim: its baselines, its forms of DrMAD, and the factors between them."""

import argparse
import math
import time
from typing import Any

from benchmarks.harness import write_record
from benchmarks.peers.case import make_case
from benchmarks.peers.driver import add_options, measure_with_bar, plan
from benchmarks.peers.measure import Plan
from benchmarks.peers.report import to_markdown
from benchmarks.peers.subject import Kind, Subject

MOMENTA = (0.1, 0.95)
# Step size in the paper's convention, w ← w + α v with v ← γ v − (1−γ) g.
ALPHA = 0.05
CLAIM = {"time": 45, "memory": 100}
REFERENCE = "checkpointed()"

BASELINES = ("original, exact reversal", "reversible()", "checkpointed()")
ORIGINAL = ("original, DrMAD, T/10 steps", "original, DrMAD, T steps")
COMPILED = ("published_drmad, T/10 steps", "published_drmad, T steps", "drmad()")
TRAINING = {"NumPy": "original, plain training", "drmad_jax": "plain training"}


def subjects() -> list[Subject]:
    """Baselines, forms of DrMAD, and training alone."""

    def make(name: str, kind: Kind) -> Subject:
        package, module = ("NumPy", "original") if "original" in name else ("drmad_jax", "ours")
        return Subject(name, package, kind, f"benchmarks.peers.{module}")

    return (
        [make(name, "exact") for name in BASELINES]
        + [make(name, "approximate") for name in ORIGINAL + COMPILED]
        + [make(name, "training") for name in TRAINING.values()]
    )


def factors(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How many times more each baseline takes than each form of DrMAD.

    Args:
        rows: Name to row of one momentum.

    Returns:
        Baseline, then form, to factors: of the time of the whole hypergradient, of the way back
        alone (training taken off), of the memory that the call needs; and whether both run in the
        same style, eager or compiled.
    """
    found = {}
    for baseline in BASELINES:
        forms = [name for name in ORIGINAL + COMPILED if "failed" not in rows[name]]
        if "failed" not in rows[baseline]:
            found[baseline] = {form: _factor(rows, baseline, form) for form in forms}
    return found


def _factor(rows: dict[str, dict[str, Any]], baseline: str, form: str) -> dict[str, Any]:
    exact, cheap = rows[baseline], rows[form]
    back = {name: _way_back(rows, name) for name in (baseline, form)}
    return {
        "same style": exact["package"] == cheap["package"],
        "time": round(exact["median_s"] / cheap["median_s"], 2),
        "processor time": round(exact["processor_s"] / cheap["processor_s"], 2),
        "way back": round(back[baseline] / back[form], 2) if back[form] > 0 else None,
        "memory": round(exact["memory_bytes"] / cheap["memory_bytes"], 2),
    }


def _way_back(rows: dict[str, dict[str, Any]], name: str) -> float:
    row = rows[name]
    return row["median_s"] - rows[TRAINING[row["package"]]]["median_s"]


def buffers(rows: dict[str, dict[str, Any]], weights: int) -> dict[str, Any]:
    """What the reversals keep for the way back, beside DrMAD's two vectors of weights."""
    exact = rows["original, exact reversal"], rows["reversible()"]
    kept = {"original DrMAD": 2 * 8 * weights, "published_drmad": 2 * 4 * weights}
    names = ("original, exact reversal", "reversible()")
    for name, row in zip(names, exact, strict=True):
        if "buffer_bytes" in row:
            kept[name] = row["buffer_bytes"]
    reversals = {name: kept[name] for name in names if name in kept}
    return {
        "bytes": kept,
        "over DrMAD": {
            name: {
                "float64": round(bytes_ / kept["original DrMAD"], 2),
                "float32": round(bytes_ / kept["published_drmad"], 2),
            }
            for name, bytes_ in reversals.items()
        },
    }


def verdict(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Which pairs reach the claimed factors, and which pairs are fair."""
    pairs = [
        (f"{baseline} over {form}", factor)
        for baseline, forms in found.items()
        for form, factor in forms.items()
    ]
    return {
        "claimed": CLAIM,
        "reach the time": [name for name, each in pairs if each["time"] >= CLAIM["time"]],
        "reach the memory": [name for name, each in pairs if each["memory"] >= CLAIM["memory"]],
        "fair": {name: each for name, each in pairs if each["same style"]},
    }


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_claim")
    parser.add_argument("--steps", type=int, default=2000, help="T (%(default)s)")
    parser.add_argument("--name", default="paper_claim", help="name of the record (%(default)s)")
    add_options(parser, seconds=30, least=3)
    return parser.parse_args()


def measure(num_steps: int, momentum: float, plan: Plan) -> dict[str, Any]:
    """All subjects at one momentum."""
    gamma = math.ceil(momentum * 2**16) / 2**16
    case = make_case(50, num_steps, step_size=ALPHA * (1 - gamma), momentum=gamma)
    name = f"momentum {momentum}, T = {num_steps}"
    rows = measure_with_bar(name, subjects(), case, plan, REFERENCE)
    print("\n" + to_markdown(name, rows), flush=True)
    weights = sum(leaf.size for layer in case.params for leaf in layer.values())
    found = factors(rows)
    return {
        "rows": rows,
        "weights": weights,
        "log2(1/momentum)": round(math.log2(1 / gamma), 5),
        "kept for the way back": buffers(rows, weights),
        "factors": found,
        "verdict": verdict(found),
    }


def main() -> None:
    asked, start = options(), time.monotonic()
    with plan(asked) as planned:
        cases = {gamma: measure(asked.steps, gamma, planned) for gamma in MOMENTA}
    for gamma, case in cases.items():
        print(f"momentum {gamma}:", case["verdict"], case["kept for the way back"], sep="\n")
    minutes = round((time.monotonic() - start) / 60, 1)
    results = {"threads": asked.threads, "minutes": minutes, "momenta": cases}
    print(write_record(asked.name, results))
