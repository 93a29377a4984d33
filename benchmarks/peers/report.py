"""What the rows say: ratios within a case, and the tables of the page."""

from typing import Any

from benchmarks.pages import Results, mib, table
from benchmarks.peers.subject import SUBJECTS

Rows = dict[str, dict[str, Any]]
TORCH = {subject.name for subject in SUBJECTS if subject.uses_torch}


def claims(rows: Rows) -> dict[str, Any]:
    """The comparisons that the package's claims are about, on one case.

    For the fastest and the smallest exact peer of either kind: its name, and how many times more
    time and memory than each of our methods it takes.
    """
    measured = {name: row for name, row in rows.items() if "failed" not in row}
    ours = {name: row for name, row in measured.items() if row["package"] == "drmad_jax"}
    others = {k: r for k, r in measured.items() if r["kind"] == "exact" and k not in ours}
    found = {}
    for kind, peers in (("PyTorch", others.keys() & TORCH), ("JAX", others.keys() - TORCH)):
        for best, figure in (("fastest", "median_s"), ("smallest", "memory_bytes")):
            if peers:
                peer = min(peers, key=lambda name, figure=figure: others[name][figure])
                over = {name: _over(others[peer], row) for name, row in ours.items()}
                found[f"{best} {kind} peer"] = {"name": peer, "over ours": over}
    return found


def _over(peer: dict[str, Any], row: dict[str, Any]) -> dict[str, float]:
    return {
        "time": round(peer["median_s"] / row["median_s"], 3),
        "processor time": round(peer["processor_s"] / row["processor_s"], 3),
        "memory": round(peer["memory_bytes"] / max(row["memory_bytes"], 1), 2),
    }


def peers_table(results: Results) -> str:
    """Seconds and MiB of every subject in every case."""
    cases = results["cases"]
    names = dict.fromkeys(name for found in cases.values() for name in found["rows"])
    head = ["subject", "package", "kind"]
    for case in cases:
        head += [f"{case}: seconds", "MiB"]
    lines = []
    for name in names:
        rows = [found["rows"].get(name, {}) for found in cases.values()]
        first = next(row for row in rows if row)
        figures = [text for row in rows for text in _cells(row)]
        lines.append((name, first["package"], first["kind"], *figures))
    note = (
        f"Threads: {results['threads']}. MiB: what the call adds to the memory of its process. "
        "`failed`: the record says why."
    )
    return f"{table(head, lines)}\n{note}\n"


def _cells(row: Results) -> tuple[str, str]:
    if "median_s" not in row:
        return ("failed", "") if "failed" in row else ("–", "–")
    return f"{row['median_s']:.3g}", mib(row["memory_bytes"])


def paper_table(results: Results) -> str:
    """What each baseline takes over each form of DrMAD, at each momentum."""
    rows = [
        (momentum, baseline, row)
        for momentum, found in results["momenta"].items()
        for baseline, row in found["factors"].items()
    ]
    forms = list(dict.fromkeys(form for *_, row in rows for form in row))
    lines = [
        (m, b, *(_pair(row[form]) if form in row else "–" for form in forms)) for m, b, row in rows
    ]
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
