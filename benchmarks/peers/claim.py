"""The paper's claim: its baselines, its forms of DrMAD, and the factors between them."""

import argparse
import json
import math
import sys
from typing import Any

from benchmarks.peers.case import make_case
from benchmarks.peers.measure import Plan, add_options, measure_case, plan
from benchmarks.peers.report import to_markdown
from benchmarks.peers.subject import Kind, Subject
from benchmarks.records import write_record

MOMENTA = (0.1, 0.95)
# Step size in the paper's convention, w ← w + α v with v ← γ v − (1−γ) g.
ALPHA = 0.05
CLAIM = {"time": 45, "memory": 100}
PAPER_STEPS = 2000
REFERENCE = "checkpointed()"

EXACT = "original, exact reversal"
BASELINES = (EXACT, "reversible()", "checkpointed()")
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
    exact = rows[EXACT], rows["reversible()"]
    kept = {"original DrMAD": 2 * 8 * weights, "published_drmad": 2 * 4 * weights}
    names = (EXACT, "reversible()")
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


def at_paper_length(
    rows: dict[str, dict[str, Any]], num_steps: int, weights: int
) -> dict[str, Any]:
    """The original reversal against the original DrMAD at the paper's T, from a shorter run.

    The reversal's integers grow with every step, and its time with them: a line in t, fitted to
    the steps of the run. All else is proportional to T.

    Args:
        rows: Name to row of one momentum.
        num_steps: T of the run.
        weights: Number of weights.

    Returns:
        Processor seconds, bytes kept for the way back, and the factors between them.
    """
    exact, scale = rows[EXACT], PAPER_STEPS / num_steps
    step = exact["step"]
    growing = step["seconds for each step before"] * PAPER_STEPS**2 / 2
    bits = exact["bits per weight and step"] * PAPER_STEPS
    kept = weights * (2 * 8 + 8 + sys.getsizeof(1 << round(bits)))
    forms = {form: rows[form]["processor_s"] * scale for form in ORIGINAL}
    seconds = {EXACT: step["seconds at 0"] * PAPER_STEPS + growing, **forms}
    return {
        "processor seconds": seconds,
        "time": {form: round(seconds[EXACT] / forms[form], 2) for form in ORIGINAL},
        "bytes kept": {EXACT: kept, "original DrMAD": 2 * 8 * weights},
        "memory kept": round(kept / (2 * 8 * weights), 2),
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
    parser.add_argument("--steps", type=int, default=500, help="T (%(default)s)")
    parser.add_argument("--name", default="paper_claim", help="name of the record (%(default)s)")
    add_options(parser, seconds=30)
    return parser.parse_args()


def measure(num_steps: int, momentum: float, plan: Plan) -> dict[str, Any]:
    """All subjects at one momentum."""
    gamma = math.ceil(momentum * 2**16) / 2**16
    case = make_case(50, num_steps, step_size=ALPHA * (1 - gamma), momentum=gamma)
    name = f"momentum {momentum}, T = {num_steps}"
    rows = measure_case(name, subjects(), case, plan, reference=REFERENCE)
    print("\n" + to_markdown(name, rows), flush=True)
    weights = case.num_weights
    found = factors(rows)
    case_results = {
        "rows": rows,
        "weights": weights,
        "log2(1/momentum)": round(math.log2(1 / gamma), 5),
        "kept for the way back": buffers(rows, weights),
        "factors": found,
        "verdict": verdict(found),
    }
    if not any("failed" in rows[name] for name in (EXACT, *ORIGINAL)):
        estimate = at_paper_length(rows, num_steps, weights)
        case_results[f"estimated at T = {PAPER_STEPS}"] = estimate
    return case_results


def main() -> None:
    asked = options()
    with plan(asked) as planned:
        cases = {gamma: measure(asked.steps, gamma, planned) for gamma in MOMENTA}
    for gamma, case in cases.items():
        shown = {key: each for key, each in case.items() if key != "rows"}
        print(f"momentum {gamma}:", json.dumps(shown, indent=1), sep="\n")
    results = {"threads": asked.threads, "num_steps": asked.steps, "momenta": cases}
    print(write_record(asked.name, results))
