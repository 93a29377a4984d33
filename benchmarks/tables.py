"""The tables of benchmarks/README.md, each from one record's results."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import lineup, peer_tables, record_files
from benchmarks.claims import CLAIMS
from benchmarks.markdown import mib, table
from benchmarks.population import CLAIMED, OWN, SINGLE

Results = dict[str, Any]


def claims(records: dict[str, dict], *, only_recorded: bool = False) -> str:
    """Every claim, what was measured, and whether it holds."""
    lines = []
    for claim in CLAIMS:
        record = records.get(claim.record)
        if record is None and only_recorded:
            continue
        if record is None:
            command = record_files.COMMANDS[claim.record]
            lines.append((claim.text, f"**no record**: `{command}`", "?"))
            continue
        try:
            figure, holds = claim.judge(record["results"])
        except (KeyError, ValueError) as error:
            lines.append((claim.text, f"**the record does not say**: {error!r}", "?"))
            continue
        lines.append((claim.text, figure, "yes" if holds else "**no**"))
    return table(("claim", "measured", "holds"), lines)


def cost(results: Results) -> str:
    """The cell with most methods in full, and a line for each of the others."""
    full = max(results["cells"].values(), key=lambda cell: len(cell["over plain training"]))
    head = ("method", "over plain training", "min – max", "compiling, s", "temporary MiB")
    lines = [
        (
            label,
            f"{ratio['median']:.2f}",
            f"{ratio['min']:.2f} – {ratio['max']:.2f}",
            f"{full['compile_s'][label]:.1f}",
            f"{full['temporary_bytes'][label] / 2**20:.1f}",
        )
        for label, ratio in full["over plain training"].items()
    ]
    plain = full["seconds"][lineup.PLAIN]
    note = (
        f"{_cell(full)}; plain training {plain['median_s']:.3g} s, rounds: {plain['n']}. "
        "Programs are compiled as many at a time as there are cores."
    )
    others = [cell for cell in results["cells"].values() if cell is not full]
    return f"{table(head, lines)}\n{note}\n\n{_others(others)}"


def _others(cells: list[Results]) -> str:
    head = ("model", "optimizer", "batch", "T", "plain, ms/step", *lineup.SWEPT)
    lines = []
    for cell in cells:
        ratios = cell["over plain training"]
        plain = 1e3 * cell["seconds"][lineup.PLAIN]["median_s"] / cell["num_steps"]
        figures = (
            f"{ratios[label]['median']:.2f}" if label in ratios else "–" for label in lineup.SWEPT
        )
        lines.append((
            cell["subject"], cell["optimizer"], str(cell["batch_size"]), f"{cell['num_steps']:,}",
            f"{plain:.3g}", *figures,
        ))  # fmt: skip
    return table(head, lines)


def breakdown(results: Results) -> str:
    """Microseconds of whole steps, and the way back of the default."""
    head = (
        "model", "training step, µs", "reverse step, Gauss-Newton", "Hessian",
        "way back of `drmad()`, ms", "its curvature products",
    )  # fmt: skip
    lines = []
    for label, cell in results["cells"].items():
        found = cell["microseconds"]
        whole = lambda name, found=found: f"{found[name]['whole']:,.0f}"
        back = found["way back of drmad(), all of it"]
        lines.append((
            label, whole("training step"), whole("reverse step, gauss_newton"),
            whole("reverse step, hessian"), f"{back['whole'] / 1e3:,.0f}",
            f"{back['curvature product'] / back['whole']:.0%}",
        ))  # fmt: skip
    return table(head, lines)


def memory(results: Results) -> str:
    """Compiled MiB by number of steps, the real peak, and where 16 GiB end."""
    by_steps, laws = results["by number of steps"], results["out of 16 GiB"]
    steps = sorted({p["num_steps"] for points in by_steps.values() for p in points})
    head = (
        "method", *(f"T = {T:,}" for T in steps), "real peak, at T", "bytes/step at 1,000",
        "16 GiB at T", "bytes/weight",
    )  # fmt: skip
    lines = []
    for label, points in by_steps.items():
        at = {p["num_steps"]: p for p in points}
        of = lambda T, at=at: mib(at[T].get("temporary_bytes"))
        law = laws.get(label, {})
        slope, most = law.get("bytes for each further step at T = 1000"), law.get("steps in 16 GiB")
        each = results["growth with weights"].get(label)
        lines.append((
            label, *map(of, steps), _peak(points),
            "0" if slope is None else f"{slope:,.3g}",
            "never" if most is None else f"{most:,.0f}",
            "–" if each is None else f"{each:,.0f}",
        ))  # fmt: skip
    note = (
        "MiB: temporary memory of the compiled program; the weights, the data and the result come "
        "on top. Bytes/weight: at T = 30, between the two largest networks."
    )
    return f"{table(head, lines)}\n{note}\n"


def _peak(points: list[Results]) -> str:
    run = [p for p in points if p.get("peak_bytes") is not None]
    return f"{mib(run[-1]['peak_bytes'])}, {run[-1]['num_steps']:,}" if run else "–"


def population(results: Results) -> str:
    """Cost of a member over a single run, by form and size, and the parts of a step."""
    over = results["over one single run"]
    sizes = sorted({int(label.rsplit(", ", 1)[1]) for label in over if ", " in label})
    forms = list(dict.fromkeys(label.rsplit(", ", 1)[0] for label in over if ", " in label))
    lines = []
    for form in forms:
        at = {n: over[f"{form}, {n}"]["median"] / n for n in sizes if f"{form}, {n}" in over}
        lines.append((form, *(f"{at[n]:.2f}" if n in at else "–" for n in sizes)))
    parts = results["microseconds for a member"]
    columns = list(next(iter(parts.values())))
    shares = [(name, *(f"{row[form]:,.1f}" for form in columns)) for name, row in parts.items()]
    single = results["seconds"]["single"]
    note = (
        f"Time of a member over a single run ({1e3 * single['median_s']:.0f} ms), by number of "
        f"members. Below, µs of each part for a member, alone and among {CLAIMED}: `jax.vmap` "
        f"changes a gradient by {_change(parts['gradient'])}, a curvature product by "
        f"{_change(parts['product, hessian'])}."
    )
    return f"{table(('form', *map(str, sizes)), lines)}\n{note}\n\n" + table(
        ("part", *columns), shares
    )


def _change(part: Results) -> str:
    return f"{part[OWN] / part[SINGLE] - 1:+.0%}"


def first_result(results: Results) -> str:
    """The digits job, by what was kept from before."""
    head = ("", "first result, s", "end, s")
    lines = [
        (name, *(_middle([row[key] for row in rows]) for key in ("first result, s", "end, s")))
        for name, rows in results.items()
    ]
    return table(head, lines)


def records(found: dict[str, dict]) -> str:
    """Each record: date, command, how long it took, rounds, and where."""
    head = ("record", "date", "command", "took, s", "n", "hardware", "versions")
    lines = []
    for name, record in found.items():
        busy = " (**busy**)" if record_files.is_busy(record) else ""
        took = record.get("took_s")
        lines.append((
            name, record["date"], f"`{record_files.command(name, record)}`",
            "–" if took is None else f"{took:,}", record_files.rounds(record),
            record_files.machine(record) + busy, record_files.versions(record),
        ))  # fmt: skip
    return table(head, lines)


def _cell(cell: Results) -> str:
    return (
        f"{cell['subject']} ({cell['weights']:,} weights, {cell['hyperparameters']:,} "
        f"hyperparameters), {cell['optimizer']}, batch {cell['batch_size']}, "
        f"T = {cell['num_steps']:,}"
    )


TABLES: dict[str, Callable[[Results], str]] = {
    "cost": cost,
    "breakdown": breakdown,
    "memory": memory,
    "population": population,
    "peers": peer_tables.peers,
    "paper_claim": peer_tables.paper_claim,
    "first_result": first_result,
}


def _middle(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"
