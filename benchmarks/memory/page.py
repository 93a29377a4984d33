"""Memory: its table, its figure, its claim."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks import lineup
from benchmarks.looks import COLUMN_WIDTH, GREY, LOOKS, legend_below
from benchmarks.memory import laws
from benchmarks.pages import Benchmark, Claim, Results, Verdict, mib, table


def _table(results: Results) -> str:
    """Compiled MiB by number of steps, the real peak, and where 16 GiB end."""
    by_steps = results["by number of steps"]
    steps = sorted({p["num_steps"] for points in by_steps.values() for p in points})
    head = (
        "method", *(f"T = {T:,}" for T in steps), "real peak, at T", "bytes/step at 1,000",
        "16 GiB at T", "bytes/weight",
    )  # fmt: skip
    lines, fitted = [], laws.fitted(by_steps)
    for label, points in by_steps.items():
        at = {p["num_steps"]: p.get("temporary_bytes") for p in points}
        law = fitted.get(label, {})
        slope, most = law.get("bytes for each further step at T = 1000"), law.get("steps in 16 GiB")
        each = results["growth with weights"].get(label)
        peaks = [p for p in points if p.get("peak_bytes") is not None]
        peak = f"{mib(peaks[-1]['peak_bytes'])}, {peaks[-1]['num_steps']:,}" if peaks else "–"
        lines.append((
            label, *(mib(at[T]) for T in steps), peak,
            "0" if slope is None else f"{slope:,.3g}",
            "never" if most is None or most > 1e12 else f"{most:,.0f}",
            "–" if each is None else f"{each:,.0f}",
        ))  # fmt: skip
    note = (
        "MiB: temporary memory of the compiled program; the weights, the data and the result come "
        "on top. Bytes/weight: at T = 30, between the two largest networks."
    )
    return f"{table(head, lines)}\n{note}\n"


def _figure(results: Results) -> Figure:
    """Bytes against steps, with the fitted laws up to 16 GiB, and against weights."""
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    # All steps back on the line need what a tenth of them does.
    fitted = laws.fitted(results["by number of steps"])
    shown = {label: look for label, look in LOOKS.items() if label != lineup.LINE_ALL}
    for label, look in shown.items():
        points = results["by number of steps"].get(label, [])
        _line(left, points, "num_steps", label, look)
        _law_line(left, points, fitted.get(label, {}), label, look)
        points = results["by number of weights"].get(label, [])
        _line(right, points, "weights", None, look)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.axhline(laws.LIMIT, color=GREY, linewidth=0.8, zorder=0)
        axes.grid(linewidth=0.3)
    left.text(130, 1.25 * laws.LIMIT, "16 GiB", fontsize=7, color="#666666")
    left.set(xlabel="inner steps T", xlim=(80, 1e9), ylim=(5e4, 2e12))
    left.xaxis.set_major_locator(LogLocator(numticks=8))
    left.xaxis.set_minor_locator(NullLocator())
    left.set_yticks(
        [2**20 * k for k in (1, 32, 1024, 32 * 1024)], ["1 MiB", "32 MiB", "1 GiB", "32 GiB"]
    )
    left.yaxis.set_minor_locator(NullLocator())
    left.set_ylabel("temporary memory (hollow: real peak)")
    right.set_xlabel("weights (T = 30)")
    legend_below(figure)
    return figure


def _line(
    axes: Axes, points: list[Results], key: str, label: str | None, look: dict[str, Any]
) -> None:
    compiled = [(p[key], p["temporary_bytes"]) for p in points if p.get("temporary_bytes")]
    peaks = [(p[key], p["peak_bytes"]) for p in points if p.get("peak_bytes")]
    if compiled:
        axes.plot(*zip(*compiled, strict=True), label=label, **look)
    if peaks:
        marker = look["marker"] or "_"
        axes.plot(
            *zip(*peaks, strict=True), linestyle="", marker=marker, color=look["color"],
            markersize=6, fillstyle="none",
        )  # fmt: skip


def _law_line(
    axes: Axes, points: list[Results], law: Results, label: str, look: dict[str, Any]
) -> None:
    """The fitted law from the last point to where it meets the limit."""
    most = law.get("steps in 16 GiB")
    if not most:
        return
    last = [p for p in points if p.get("temporary_bytes")][-1]
    steps = np.geomspace(last["num_steps"], most, 50)
    grow, slope = laws.growth(label), law["slope"]
    more = np.array([grow(T) - grow(last["num_steps"]) for T in steps])
    axes.plot(steps, last["temporary_bytes"] + slope * more, color=look["color"], linewidth=0.6)


def _flat(results: Results) -> Verdict:
    """Compiled bytes at the most steps over those at 1,000, of what should not grow."""
    by_steps = results["by number of steps"]
    sizes = lambda label: {p["num_steps"]: p["temporary_bytes"] for p in by_steps[label]}
    at = {label: sizes(label) for label in lineup.LONG if label != lineup.DEFAULT}
    most = max(max(found) for found in at.values())
    worst = max(found[most] / found[1000] for found in at.values())
    return Verdict(f"from T = 1,000 to {most:,} by {worst - 1:.1%} at most", worst <= 1.05)


def _fourth_root(results: Results) -> Verdict:
    """Compiled bytes of the default at the most steps over those at 1,000."""
    points = results["by number of steps"][lineup.DEFAULT]
    sizes = {p["num_steps"]: p["temporary_bytes"] for p in points}
    most = max(sizes)
    ratio, law = sizes[most] / sizes[1000], (most / 1000) ** 0.25
    figure = f"from T = 1,000 to {most:,} {ratio:.2f} times ({law:.2f}), {mib(sizes[most])} MiB"
    return Verdict(figure, ratio <= law)


def _headline(results: Results) -> str:
    labels = {
        "`drmad()`": lineup.DEFAULT,
        "on the line": lineup.LINE_ALL,
        "`reversible()`": lineup.REVERSIBLE,
        "`checkpointed()`": lineup.CHECKPOINTED,
        "`stored()`": lineup.STORED,
        "`jax.grad` through the loop": lineup.UNROLLED,
    }
    last = {name: results["by number of steps"][label][-1] for name, label in labels.items()}
    return ", ".join(f"{name} {mib(point['temporary_bytes'])}" for name, point in last.items())


BENCHMARK = Benchmark(
    "memory",
    table=_table,
    figure=_figure,
    claims=(
        Claim("The memory of DrMAD on the line does not grow with T", _flat),
        Claim("That of `drmad()` grows as the fourth root of T at most", _fourth_root),
    ),
    headline=("temporary memory at T = 10,000, same network, batch 50, MiB", _headline),
)
