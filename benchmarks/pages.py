"""What pages are made of: tables, claims and their verdicts, and marked parts that are filled."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]


class Verdict(NamedTuple):
    """What a record says of a claim: what was measured, and whether that is what was claimed."""

    figure: str
    holds: bool


class Claim(NamedTuple):
    """A claim of the package and how to judge it by a record's results."""

    text: str
    judge: Callable[[Results], Verdict]
    record: str = ""  # where it is not the benchmark's own


class Benchmark(NamedTuple):
    """A benchmark and what it adds to the pages, each made from the results of its record."""

    name: str  # of its module, of its record, and of its part of benchmarks/README.md
    needs: str = ""  # besides the package
    table: Callable[[Results], str] | None = None
    figure: "Callable[[Results], Figure | None] | None" = None
    claims: tuple[Claim, ...] = ()
    # What README.md says of it: what was measured, and the figure.
    headline: tuple[str, Callable[[Results], str]] | None = None
    commands: Mapping[str, str] = {}  # further records, and the commands that write them

    @property
    def command(self) -> str:
        """The command that runs it."""
        return f"python -m benchmarks.{self.name}"


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in markdown."""
    head = tuple(head)
    rows = [head, ("---",) * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def mib(count: int | None) -> str:
    """Bytes as MiB."""
    if count is None:
        return "–"
    size = count / 2**20
    return f"{size:,.0f}" if size >= 100 else f"{size:.3g}"


def spread(ratio: dict[str, float]) -> str:
    """Median and range of a ratio."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"


def fill(page: str, kinds: Mapping[str, Callable[[str], str]]) -> str:
    """Makes anew what lies between `<!-- KIND -->` or `<!-- KIND: NAME -->` and `<!-- end -->`.

    `kinds` maps KIND to a function of NAME, which may be empty; parts of other kinds are kept.
    """

    def made(match: re.Match) -> str:
        marker, kind, name = match.group(1, 2, 3)
        return f"<!-- {marker} -->\n{kinds[kind](name or '')}<!-- end -->"

    chosen = "|".join(kinds)
    pattern = rf"<!-- (({chosen})(?:: (\w+))?) -->\n.*?<!-- end -->"
    return re.sub(pattern, made, page, flags=re.DOTALL)


def claims_table(
    benchmarks: Iterable[Benchmark], backend: str, *, only_recorded: bool = False
) -> str:
    """Every claim, what was measured, and whether it holds."""
    lines = []
    for benchmark in benchmarks:
        for claim in benchmark.claims:
            record = records.load(claim.record or benchmark.name, backend)
            if record is not None:
                lines.append((claim.text, *_judged(claim, record["results"])))
            elif not only_recorded:
                command = benchmark.commands.get(claim.record, benchmark.command)
                lines.append((claim.text, f"**no record**: `{command}`", "?"))
    return table(("claim", "measured", "holds"), lines)


def _judged(claim: Claim, results: Results) -> tuple[str, str]:
    try:
        figure, holds = claim.judge(results)
    except (KeyError, ValueError) as error:
        return f"**the record does not say**: {error!r}", "?"
    return figure, "yes" if holds else "**no**"


def records_table(benchmarks: Iterable[Benchmark], backend: str) -> str:
    """Each record: date, command, commit, how long it took, rounds, and where."""
    head = ("record", "date", "command", "commit", "took, s", "n", "hardware", "versions")
    lines = []
    for name in (name for each in benchmarks for name in (each.name, *each.commands)):
        record = records.load(name, backend)
        if record is not None:
            lines.append((
                name, record["date"], f"`{record['command']}`", records.commit(record),
                f"{record['took_s']:,}", records.rounds(record),
                records.machine(record) + " (**busy**)" * records.is_busy(record),
                ", ".join(map(" ".join, record["versions"].items())),
            ))  # fmt: skip
    return table(head, lines)
