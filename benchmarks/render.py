"""The list of all benchmarks, and the pages that their committed records fill.

    python -m benchmarks render

Nothing is measured here. A record that is missing is named on the page and on standard error.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    curvature_product,
    first_result,
    in_pieces,
    looks,
    on_devices,
    programs,
    records,
    reversible_memory,
    scale,
    streams,
)
from benchmarks.accuracy import page as study
from benchmarks.breakdown import page as breakdown
from benchmarks.cost import page as cost
from benchmarks.literature import page as literature
from benchmarks.memory import page as memory
from benchmarks.pages import Benchmark, claims_table, fill, records_table, table
from benchmarks.peers import page as peers
from benchmarks.population import page as population

# In the order of the page and of a run of all.
BENCHMARKS = (
    cost.BENCHMARK,
    breakdown.BENCHMARK,
    programs.BENCHMARK,
    scale.BENCHMARK,
    streams.BENCHMARK,
    on_devices.BENCHMARK,
    in_pieces.BENCHMARK,
    first_result.BENCHMARK,
    memory.BENCHMARK,
    population.BENCHMARK,
    peers.BENCHMARK,
    peers.PAPER_CLAIM,
    curvature_product.BENCHMARK,
    reversible_memory.BENCHMARK,
    study.BENCHMARK,
    literature.BENCHMARK,
    Benchmark("gallery", needs="fills docs/experiments.md from records of literature"),
    Benchmark("study", needs="fills docs/study.md from records of accuracy"),
)
BY_NAME = {benchmark.name: benchmark for benchmark in BENCHMARKS}
HEADLINES = ("cost", "memory", "peers", "reversible_memory", "first_result")

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "benchmarks" / "README.md", ROOT / "README.md"
STUDY, EXPERIMENTS = ROOT / "docs" / "study.md", ROOT / "docs" / "experiments.md"
SCALE = ROOT / "docs" / "scale.md"
Kinds = dict[str, Callable[[str], str]]


def section(benchmark: Benchmark, backend: str) -> str:
    """One record's figure and table, or which command would make it."""
    name, record = benchmark.name, records.load(benchmark.name, backend)
    if record is None or benchmark.table is None:
        text = f"No record `{name}-{backend}`: run `{benchmark.command}`."
        print(f"render: {text}", file=sys.stderr)
        return f"**{text}**\n"
    shown = benchmark.table(record["results"])
    suffix = "" if backend == records.MAIN_BACKEND else f"-{backend}"
    path = PAGE.parent / "figures" / f"{name}{suffix}.png"
    draw = benchmark.figure
    if draw is not None and looks.save(lambda: draw(record["results"]), path):
        shown = f"![{name}]({path.relative_to(PAGE.parent)})\n\n{shown}"
    return shown


def accelerators(_: str) -> str:
    """All that was recorded on other backends, one after another."""
    pieces = []
    for backend in records.accelerators():
        pieces += [f"### {backend}\n", claims_table(BENCHMARKS, backend, only_recorded=True)]
        pieces += [
            f"#### {benchmark.name}\n\n{section(benchmark, backend)}"
            for benchmark in BENCHMARKS
            if benchmark.table and records.load(benchmark.name, backend)
        ]
        pieces.append(records_table(BENCHMARKS, backend))
    return "\n".join(pieces) or "No records of an accelerator yet.\n"


def headlines(_: str) -> str:
    """README.md's table: what was measured, and the command that measures it again."""
    lines = []
    for name in HEADLINES:
        record, said = records.load(name), BY_NAME[name].headline
        if record is not None and said is not None:
            lines.append((said[0], said[1](record["results"]), f"`{BY_NAME[name].command}`"))
    return table(("what", "figure", "command"), [*lines, study.headline()])


def page_kinds() -> Kinds:
    """The marked parts of benchmarks/README.md."""
    main = records.MAIN_BACKEND
    shown = [benchmark for benchmark in BENCHMARKS if benchmark.table is not None]
    return {
        "claims": lambda _: claims_table(BENCHMARKS, main),
        "records": lambda _: records_table(BENCHMARKS, main),
        "accelerators": accelerators,
        **{each.name: lambda _, each=each: section(each, main) for each in shown},
    }


def scale_kinds() -> Kinds:
    """The marked parts of docs/scale.md."""
    return {
        kind: lambda _, draw=draw, name=name: draw(records.results(name))
        for name, tables in (
            ("scale", scale.TABLES),
            ("on_devices", on_devices.TABLES),
            ("in_pieces", in_pieces.TABLES),
        )
        for kind, draw in tables.items()
    }


PAGES: dict[Path, Callable[[], Kinds]] = {
    PAGE: page_kinds,
    README: lambda: {"measured": headlines},
    STUDY: lambda: study.TABLES,
    EXPERIMENTS: lambda: literature.KINDS,
    SCALE: scale_kinds,
}


def render(page: Path) -> None:
    """Fills one page."""
    page.write_text(fill(page.read_text(), PAGES[page]()))
    print(page)


def render_study() -> None:
    """Fills docs/study.md and draws its figures."""
    for name, draw in study.FIGURES.items():
        looks.save(draw, STUDY.parent / "figures" / f"{name}.png", bbox_inches="tight")
    render(STUDY)


def main() -> None:
    for page in (PAGE, README, EXPERIMENTS, SCALE):
        render(page)
    render_study()


if __name__ == "__main__":
    main()
