"""Programs: their table."""

from benchmarks.pages import Benchmark, Results, mib, table

LOWERED, COMPILED, PRODUCTS = "copies as lowered", "copies as compiled", "products"


def _table(results: Results) -> str:
    """Seconds, copies and MiB of every method, a table for each problem."""
    head = (
        "method", "tracing and lowering, s", "compiling, s", LOWERED, COMPILED, PRODUCTS,
        "temporary MiB",
    )  # fmt: skip
    pieces = []
    for cell, found in results["cells"].items():
        lines = [
            (
                name, f"{row['lower_s']:.2f}", f"{row['compile_s']:.2f}",
                *(f"{row[key]:g}" for key in (LOWERED, COMPILED, PRODUCTS)),
                mib(row["temporary_bytes"]),
            )
            for name, row in found.items()
        ]  # fmt: skip
        pieces.append(f"**{cell}**\n\n{table(head, lines)}")
    return "\n".join(pieces)


BENCHMARK = Benchmark("programs", table=_table)
