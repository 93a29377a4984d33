"""What the package claims of its cost, each with the figure in the records that decides it."""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import lineup
from benchmarks.first_result import COLD
from benchmarks.population import BY_DEVICE, CLAIMED, OWN, SHARED

Results = dict[str, Any]


class Verdict(NamedTuple):
    """What a record says of a claim.

    Attributes:
        figure: What was measured, in words.
        holds: Whether that is what was claimed.
    """

    figure: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim and how to judge it.

    Attributes:
        text: The claim.
        record: Name of the record that decides it.
        judge: From the record's results to a verdict.
    """

    text: str
    record: str
    judge: Callable[[Results], Verdict]


def _cost(limit: float, optimizer: str, label: str) -> Callable[[Results], Verdict]:
    """The MLP at batch 500."""

    def judge(results: Results) -> Verdict:
        (cell,) = [
            cell
            for cell in results["cells"].values()
            if (cell["subject"], cell["optimizer"], cell["batch_size"]) == ("mlp", optimizer, 500)
        ]
        ratio = cell["over plain training"][label]
        return Verdict(_spread(ratio), ratio["median"] <= limit)

    return judge


def _first_result(results: Results) -> Verdict:
    rows = results[COLD]
    seconds = [row["first result, s"] for row in rows]
    return Verdict(
        f"{statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s", max(seconds) < 15
    )


def _flat(results: Results) -> Verdict:
    """Compiled bytes at the most steps over those at 1,000, of what should not grow."""
    grown = {}
    for label in (lineup.DEFAULT, lineup.LINE_SEGMENTS, lineup.LINE_ALL, lineup.LINE_TENTH):
        points = results["by number of steps"][label]
        at = {p["num_steps"]: p["temporary_bytes"] for p in points}
        grown[label] = at[max(at)] / at[1000]
        most = max(at)
    worst = max(grown, key=grown.__getitem__)
    points = results["by number of steps"][lineup.DEFAULT]
    mib = points[-1]["temporary_bytes"] / 2**20
    figure = f"from T = 1,000 to {most:,} by {grown[worst] - 1:.1%} at most; drmad() {mib:.0f} MiB"
    return Verdict(figure, grown[worst] <= 1.05)


def _population(*forms: str) -> Callable[[Results], Verdict]:
    def judge(results: Results) -> Verdict:
        over = results["over the loop"]
        found = {form: over[f"{form}, {CLAIMED}"] for form in forms if f"{form}, {CLAIMED}" in over}
        figure = "; ".join(f"{form} {_spread(ratio)}" for form, ratio in found.items())
        return Verdict(figure, bool(found) and all(r["median"] <= 0.5 for r in found.values()))

    return judge


def _torch(results: Results) -> Verdict:
    """In every case of 1,000 steps, one method that is both faster and smaller by enough."""
    figures, holds = [], []
    for case, found in _thousand(results):
        peer = found["claims"]["fastest PyTorch peer"]
        reach = lambda ratio: min(ratio["time"] / 10, ratio["memory"] / 250)
        rows = found["rows"]
        ours = {k: r for k, r in peer["over ours"].items() if rows[k]["kind"] != "training"}
        best = max(ours, key=lambda name: reach(ours[name]))
        time, memory = ours[best]["time"], ours[best]["memory"]
        figure = f"{best} {time:.3g} times faster, {memory:.3g} times smaller than {peer['name']}"
        figures.append(f"{case}: {figure}")
        holds.append(reach(ours[best]) >= 1)
    return Verdict("; ".join(figures), bool(holds) and all(holds))


def _jax(results: Results) -> Verdict:
    figures, holds = [], []
    for case, found in _thousand(results):
        peer, rows = found["claims"]["fastest JAX peer"], found["rows"]
        exact = {
            name: ratio["time"]
            for name, ratio in peer["over ours"].items()
            if rows[name]["kind"] == "exact"
        }
        best = max(exact, key=exact.__getitem__)
        figures.append(f"{case}: {best} {exact[best]:.2f} times as fast as {peer['name']}")
        holds.append(exact[best] >= 1)
    return Verdict("; ".join(figures), bool(holds) and all(holds))


def _thousand(results: Results) -> list[tuple[str, Results]]:
    return [(case, found) for case, found in results["cases"].items() if "T = 1000" in case]


def _paper(results: Results) -> Verdict:
    """All pairs of a reversal and a form of DrMAD in the same style, at all momenta."""
    pairs = [
        pair
        for found in results["momenta"].values()
        for name, pair in found["verdict"]["fair"].items()
        if "revers" in name.split(" over ")[0]
    ]
    span = lambda key: f"{min(p[key] for p in pairs):.2g} to {max(p[key] for p in pairs):.2g}"
    figure = f"time {span('time')}, memory {span('memory')} times, over pairs in the same style"
    reach = all(pair["time"] >= 45 and pair["memory"] >= 100 for pair in pairs)
    return Verdict(figure, bool(pairs) and reach)


def _product(results: Results) -> Verdict:
    found = {
        batch: row["over a gradient"]
        for batch, row in results.items()
        if isinstance(row, dict) and "over a gradient" in row
    }
    names = {"Gauss-Newton": "library, gauss_newton", "Hessian": "forward over reverse (library"}
    figures, ratios = [], []
    for batch, row in found.items():
        for short, start in names.items():
            (ratio,) = (value for name, value in row.items() if name.startswith(start))
            figures.append(f"{batch}: {short} {ratio:.2f}")
            ratios.append(ratio)
    return Verdict("; ".join(figures), max(ratios) <= 2)


def _bits(results: Results) -> Verdict:
    rows = results["bits per weight and step"]
    over = {g: row["measured"] / row["log2(1/momentum)"] for g, row in rows.items()}
    figure = "; ".join(f"γ = {g}: {rows[g]['measured']:.5f}, {over[g] - 1:+.2%}" for g in rows)
    return Verdict(figure, max(over.values()) <= 1.01)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"


_POPULATION = f"A population of {CLAIMED} costs at most half of {CLAIMED} single runs on 2 cores"
_BACK = "{} back, {}: at most {} times plain training (MLP, batch 500, {})"
CLAIMS = (
    *(
        Claim(
            _BACK.format(steps, curvature, limit, name),
            "cost",
            _cost(limit, optimizer, label),
        )
        for optimizer, name in (("momentum", "momentum"), ("adam", "Adam"))
        for steps, limit, curvature, label in (
            ("All T steps", 2.2, "Gauss-Newton", lineup.LINE_ALL),
            ("All T steps", 2.2, "Hessian", lineup.LINE_HESSIAN),
            ("T/10 steps", 1.2, "Gauss-Newton", lineup.LINE_TENTH),
        )
    ),
    Claim(
        "`drmad()`: at most 2.2 times plain training (MLP, T = 1,000, batch 500)",
        "cost",
        _cost(2.2, "momentum", lineup.DEFAULT),
    ),
    Claim(
        "From the command to the first result of the digits job in 15 s",
        "first_result",
        _first_result,
    ),
    Claim("The memory of DrMAD does not grow with T", "memory", _flat),
    Claim(f"{_POPULATION}, by `jax.vmap`", "population", _population(SHARED, OWN)),
    Claim("The same by a JAX device for each core", "population", _population(BY_DEVICE)),
    Claim(
        "At T = 1,000 ten times faster and 250 times smaller than the fastest PyTorch peer",
        "peers",
        _torch,
    ),
    Claim("At T = 1,000 no JAX peer of the same exactness is faster", "peers", _jax),
    Claim("The same in nine rounds, the two nearest alone", "peers_exact", _jax),
    Claim(
        "DrMAD is 45 times faster and 100 times smaller than exact reversal (the paper)",
        "paper_claim",
        _paper,
    ),
    Claim("A curvature product costs at most two gradients", "curvature_product", _product),
    Claim(
        "`reversible` keeps log₂(1/γ) bits per weight and step, within 1%",
        "reversible_memory",
        _bits,
    ),
)
