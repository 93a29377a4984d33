"""The tables of benchmarks/README.md about others: packages, and the paper's claim."""

from typing import Any

from benchmarks.markdown import mib, table

Results = dict[str, Any]


def peers(results: Results) -> str:
    """Seconds and MiB of every subject in every case."""
    cases = results["cases"]
    names = list(dict.fromkeys(name for found in cases.values() for name in found["rows"]))
    head = ["subject", "package", "kind"]
    for case in cases:
        head += [f"{case}: seconds", "MiB"]
    lines = []
    for name in names:
        rows = [found["rows"].get(name, {}) for found in cases.values()]
        first = next(row for row in rows if row)
        figures = [text for row in rows for text in _peer(row)]
        lines.append((name, first["package"], first["kind"], *figures))
    threads = results.get("threads")
    note = "" if threads is None else f"Threads: {threads}. "
    note += "MiB: what the call adds to the memory of its process. `failed`: the record says why."
    return f"{table(head, lines)}\n{note}\n"


def _peer(row: Results) -> tuple[str, str]:
    if "median_s" not in row:
        return ("failed", "") if "failed" in row else ("–", "–")
    return f"{row['median_s']:.3g}", mib(row["memory_bytes"])


def paper_claim(results: Results) -> str:
    """What each baseline takes over each form of DrMAD, at each momentum."""
    factors = {momentum: found["factors"] for momentum, found in results["momenta"].items()}
    forms = list(
        dict.fromkeys(f for found in factors.values() for row in found.values() for f in row)
    )
    lines = []
    for momentum, found in factors.items():
        for baseline, row in found.items():
            pairs = (_pair(row[form]) if form in row else "–" for form in forms)
            lines.append((momentum, baseline, *pairs))
    note = "Time and memory of the baseline over those of each form; bold: both in the same style."
    return f"{table(('momentum', 'baseline', *forms), lines)}\n{note}{_kept(results)}\n"


def _pair(each: Results) -> str:
    text = f"{each['time']:.3g}, {each['memory']:.3g}"
    return f"**{text}**" if each["same style"] else text


def _kept(results: Results) -> str:
    """What the reversals remember, over DrMAD's two vectors of weights."""
    found = [
        f"{name} {ratio['float32']:.3g} times as much (momentum {momentum})"
        for momentum, each in results["momenta"].items()
        for name, ratio in each.get("kept for the way back", {}).get("over DrMAD", {}).items()
    ]
    beside = "Kept for the way back, beside the two vectors of weights that DrMAD keeps in float32"
    return f" {beside}: {'; '.join(found)}." if found else ""
