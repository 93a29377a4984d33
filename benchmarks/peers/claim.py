"""The paper's claim: its baselines, its forms of DrMAD, and the factors between them."""

import json
import math
import sys
from typing import Any

from benchmarks.peers.measure import Plan, measure_case, options, plan
from benchmarks.peers.report import Rows, paper_table
from benchmarks.peers.subject import Kind, Subject, make_case
from benchmarks.records import write_record

MOMENTA = (0.1, 0.95)
# Step size in the paper's convention, w ← w + α v with v ← γ v − (1−γ) g.
ALPHA = 0.05
CLAIM = {"time": 45, "memory": 100}
PAPER_STEPS = 2000

EXACT, REVERSIBLE, REFERENCE = "original, exact reversal", "reversible()", "checkpointed()"
BASELINES = (EXACT, REVERSIBLE, REFERENCE)
ORIGINAL = ("original, DrMAD, T/10 steps", "original, DrMAD, T steps")
COMPILED = ("published_drmad, T/10 steps", "published_drmad, T steps", "drmad()")
TRAINING = {"NumPy": "original, plain training", "drmad_jax": "plain training"}


def subjects() -> list[Subject]:
    """Baselines, forms of DrMAD, and training alone."""
    kinds: dict[Kind, tuple[str, ...]] = {
        "exact": BASELINES,
        "approximate": ORIGINAL + COMPILED,
        "training": tuple(TRAINING.values()),
    }

    def subject(name: str, kind: Kind) -> Subject:
        is_original = name.startswith("original")
        package, module = ("NumPy", "original") if is_original else ("drmad_jax", "ours")
        return Subject(name, package, kind, module)

    return [subject(name, kind) for kind, names in kinds.items() for name in names]


def factors(rows: Rows) -> dict[str, dict[str, Any]]:
    """How many times more each baseline takes than each form of DrMAD.

    Of the time of the whole hypergradient, of the way back alone (training taken off), of the
    memory that the call needs; and whether both run in the same style, eager or compiled.
    """
    run = {name: row for name, row in rows.items() if "failed" not in row}
    forms = [name for name in ORIGINAL + COMPILED if name in run]
    way_back = lambda row: row["median_s"] - rows[TRAINING[row["package"]]]["median_s"]

    def factor(exact: dict[str, Any], cheap: dict[str, Any]) -> dict[str, Any]:
        over = lambda key: round(exact[key] / cheap[key], 2)
        back = way_back(cheap)
        return {
            "same style": exact["package"] == cheap["package"],
            "time": over("median_s"),
            "processor time": over("processor_s"),
            "way back": round(way_back(exact) / back, 2) if back > 0 else None,
            "memory": over("memory_bytes"),
        }

    return {
        baseline: {form: factor(run[baseline], run[form]) for form in forms}
        for baseline in BASELINES
        if baseline in run
    }


def buffers(rows: Rows, weights: int) -> dict[str, Any]:
    """What the reversals keep for the way back, beside DrMAD's two vectors of weights."""
    kept = {"original DrMAD": 2 * 8 * weights, "published_drmad": 2 * 4 * weights}
    key, names = "buffer_bytes", (EXACT, REVERSIBLE)
    reversals = {name: rows[name][key] for name in names if key in rows[name]}
    widths = {"float64": kept["original DrMAD"], "float32": kept["published_drmad"]}
    over = lambda count: {width: round(count / size, 2) for width, size in widths.items()}
    return {
        "bytes": kept | reversals,
        "over DrMAD": {name: over(count) for name, count in reversals.items()},
    }


def at_paper_length(rows: Rows, num_steps: int, weights: int) -> dict[str, Any]:
    """The original reversal against the original DrMAD at the paper's T, from a run of `num_steps`.

    The reversal's integers grow with every step, and its time with them: a line in t, fitted to
    the steps of the run. All else is proportional to T.
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
    pairs = {
        f"{baseline} over {form}": factor
        for baseline, forms in found.items()
        for form, factor in forms.items()
    }
    reach = lambda key: [name for name, each in pairs.items() if each[key] >= CLAIM[key]]
    return {
        "claimed": CLAIM,
        "reach the time": reach("time"),
        "reach the memory": reach("memory"),
        "fair": {name: each for name, each in pairs.items() if each["same style"]},
    }


def measure(num_steps: int, momentum: float, plan: Plan) -> dict[str, Any]:
    """All subjects at one momentum."""
    gamma = math.ceil(momentum * 2**16) / 2**16
    case = make_case(50, num_steps, step_size=ALPHA * (1 - gamma), momentum=gamma)
    name = f"momentum {momentum}, T = {num_steps}"
    rows = measure_case(name, subjects(), case, plan, reference=REFERENCE)
    found = factors(rows)
    results = {
        "weights": case.num_weights,
        "log2(1/momentum)": round(math.log2(1 / gamma), 5),
        "kept for the way back": buffers(rows, case.num_weights),
        "factors": found,
        "verdict": verdict(found),
    }
    if not any("failed" in rows[name] for name in (EXACT, *ORIGINAL)):
        estimate = at_paper_length(rows, num_steps, case.num_weights)
        results[f"estimated at T = {PAPER_STEPS}"] = estimate
    shown = paper_table({"momenta": {str(momentum): results}})
    print(f"\n{shown}\n{json.dumps(results, indent=1)}", flush=True)
    return {"rows": rows, **results}


def main() -> None:
    parser = options("paper_claim", seconds=30)
    parser.add_argument("--steps", type=int, default=500, help="T (%(default)s)")
    asked = parser.parse_args()
    with plan(asked) as planned:
        momenta = {gamma: measure(asked.steps, gamma, planned) for gamma in MOMENTA}
    results = {"threads": asked.threads, "num_steps": asked.steps, "momenta": momenta}
    print(write_record(asked.name, results))
