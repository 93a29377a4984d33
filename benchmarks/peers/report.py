"""What the rows say: ratios within a case, and a table in markdown."""

from typing import Any

from benchmarks.pages import mib, table
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


def to_markdown(case: str, rows: Rows) -> str:
    """A table of one case under its name."""
    head = (
        "subject", "package", "kind", "seconds", "min – max", "n", "first call, s",
        "memory, MiB", "cosine", "relative error",
    )  # fmt: skip
    return f"### {case}\n\n{table(head, (_cells(name, row) for name, row in rows.items()))}"


def _cells(name: str, row: dict[str, Any]) -> list[str]:
    start = [name, row["package"], row["kind"]]
    if "failed" in row:
        return [*start, row["failed"].replace("|", "/"), *[""] * 6]
    shown = zip((".4f", ".1e"), ("cosine", "relative_error"), strict=True)
    return [
        *start, f"{row['median_s']:.3f}", f"{row['min_s']:.3f} – {row['max_s']:.3f}",
        str(row["n"]), f"{row['first_call_s']:.1f}", mib(row["memory_bytes"]),
        *(format(row[key], form) if row.get(key) is not None else "–" for form, key in shown),
    ]  # fmt: skip


def claims_to_text(found: dict[str, Any]) -> str:
    """The claims of one case, a line each."""
    lines = []
    for title, peer in found.items():
        lines.append(f"- {title}: {peer['name']}. It takes, over ours:")
        for name, ratio in peer["over ours"].items():
            lines.append(
                f"    - {name}: {ratio['time']:.3g} x time, {ratio['memory']:.3g} x memory"
            )
    return "\n".join(lines) + "\n"
