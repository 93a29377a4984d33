"""Other packages, and the paper's claim: figure and claims."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from benchmarks import lineup
from benchmarks.looks import COLORS, COLUMN_WIDTH, plain_ticks
from benchmarks.pages import Benchmark, Claim, Results, Verdict
from benchmarks.peers.report import paper_table, peers_table


def _figure(results: Results) -> Figure | None:
    """Seconds and MiB of every subject in the longest case, ours in colour."""
    case = list(results["cases"])[-1]
    rows = {n: r for n, r in results["cases"][case]["rows"].items() if "median_s" in r}
    if not rows:
        return None
    names = sorted(rows, key=lambda name: -rows[name]["median_s"])
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 0.8 + 0.17 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, name in enumerate(names):
        row = rows[name]
        color = COLORS[0] if row["package"] == "drmad_jax" else COLORS[1]
        filled = "full" if row["kind"] == "exact" else "none"
        look = {"marker": "o", "color": color, "markersize": 4, "fillstyle": filled}
        left.plot(row["median_s"], place, **look)
        right.plot(max(row["memory_bytes"], 1) / 2**20, place, **look)
    left.set_yticks(range(len(names)), names)
    left.set(xscale="log", xlabel="seconds")
    right.set(xscale="log", xlabel="memory of the call (MiB)")
    for axes in (left, right):
        low, high = axes.get_xlim()
        decades = [x for x in _DECADES if low <= x <= high]
        finer = [x for x in _FINER if low <= x <= high]
        plain_ticks(axes.xaxis, decades if len(decades) > 2 else finer)
        axes.grid(linewidth=0.3)
    figure.suptitle(f"{case}; blue: drmad_jax; filled: exact", fontsize=8)
    return figure


_DECADES = [10.0**n for n in range(-4, 6)]
_FINER = [factor * decade for decade in _DECADES for factor in (1, 2, 3, 5)]


def _thousand(results: Results, peer: str) -> Iterator[tuple[str, Results, Results]]:
    """Cases of 1,000 steps, each with the fastest exact peer and the kinds of the subjects."""
    for case, found in results["cases"].items():
        if "T = 1000" in case:
            kinds = {name: row["kind"] for name, row in found["rows"].items()}
            yield case, found["claims"][f"fastest {peer} peer"], kinds


def _torch(results: Results) -> Verdict:
    """In every case of 1,000 steps, one method that is both faster and smaller by enough."""
    reach = lambda ratio: min(ratio["time"] / 10, ratio["memory"] / 250)
    figures, holds = [], []
    for case, peer, kinds in _thousand(results, "PyTorch"):
        ours = {k: r for k, r in peer["over ours"].items() if kinds[k] != "training"}
        best = max(ours, key=lambda name: reach(ours[name]))
        time, memory = ours[best]["time"], ours[best]["memory"]
        figure = f"{best} {time:.3g} times faster, {memory:.3g} times smaller than {peer['name']}"
        figures.append(f"{case}: {figure}")
        holds.append(reach(ours[best]) >= 1)
    return Verdict("; ".join(figures), bool(holds) and all(holds))


def _jax(results: Results) -> Verdict:
    figures, holds = [], []
    for case, peer, kinds in _thousand(results, "JAX"):
        exact = {k: r["time"] for k, r in peer["over ours"].items() if kinds[k] == "exact"}
        best = max(exact, key=exact.__getitem__)
        figures.append(f"{case}: {best} {exact[best]:.2f} times as fast as {peer['name']}")
        holds.append(exact[best] >= 1)
    return Verdict("; ".join(figures), bool(holds) and all(holds))


def _headline(results: Results) -> str:
    words = []
    for both in zip(_thousand(results, "PyTorch"), _thousand(results, "JAX"), strict=True):
        for kind, (case, peer, _) in zip(("PyTorch", "JAX"), both, strict=True):
            over = peer["over ours"].get(lineup.DEFAULT)
            if over is not None:
                words.append(
                    f"{case.partition(',')[0]}: {over['time']:.2g} times faster, "
                    f"{over['memory']:.2g} times smaller than {peer['name']} ({kind})"
                )
    return "; ".join(words)


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


_EXACT = "peers_exact"
BENCHMARK = Benchmark(
    "peers",
    needs="installs PyTorch into an environment of its own",
    table=peers_table,
    figure=_figure,
    claims=(
        Claim(
            "At T = 1,000 ten times faster and 250 times smaller than the fastest PyTorch peer",
            _torch,
        ),
        Claim("At T = 1,000 no JAX peer of the same exactness is faster", _jax),
        Claim("The same in nine rounds, the two nearest alone", _jax, record=_EXACT),
    ),
    headline=("`drmad()` beside the fastest exact package at T = 1,000, by batch", _headline),
    commands={
        _EXACT: "python -m benchmarks.peers --cases 500x1000 --subjects 'stored()' "
        f"'jax.checkpoint on steps' --name {_EXACT} --seconds 150 --least 9"
    },
)
PAPER_CLAIM = Benchmark(
    "paper_claim",
    needs="in the environment of the peers",
    table=paper_table,
    claims=(
        Claim(
            "DrMAD is 45 times faster and 100 times smaller than exact reversal (the paper)", _paper
        ),
    ),
)
