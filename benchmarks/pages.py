"""What pages are made of: tables, claims and their verdicts, and marked parts that are filled."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]


class Verdict(NamedTuple):
    """What a record says of a claim.

    Attributes:
        figure: What was measured, in words.
        holds: Whether that is what was claimed.
    """

    figure: str
    holds: bool


class Claim(NamedTuple):
    """A claim of the package and how to judge it.

    Attributes:
        text: The claim.
        judge: From a record's results to a verdict.
        record: Name of the record that decides it, where it is not the benchmark's.
    """

    text: str
    judge: Callable[[Results], Verdict]
    record: str = ""


class Benchmark(NamedTuple):
    """A benchmark and what it adds to the pages.

    Attributes:
        name: Of its module, and of its record.
        needs: What it needs besides the package.
        table: From its record's results to a part of benchmarks/README.md, named as it is.
        figure: From the same to a figure above the table.
        claims: What is claimed of it.
        headline: What README.md says of it: what was measured, and from results to the figure.
        commands: Further records, and the commands that write them.
    """

    name: str
    needs: str = ""
    table: Callable[[Results], str] | None = None
    figure: "Callable[[Results], Figure | None] | None" = None
    claims: tuple[Claim, ...] = ()
    headline: tuple[str, Callable[[Results], str]] | None = None
    commands: Mapping[str, str] = {}

    @property
    def command(self) -> str:
        """The command that runs it."""
        return f"python -m benchmarks.{self.name}"

    def all_commands(self) -> dict[str, str]:
        """Record to command, of all that it writes for benchmarks/README.md."""
        return {self.name: self.command, **self.commands}


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
    """A page with everything between markers made anew.

    Args:
        page: Text with `<!-- KIND -->` or `<!-- KIND: NAME -->`, what is to be replaced, and
            `<!-- end -->`.
        kinds: KIND to a function of NAME, which is empty where there is none. Other kinds are kept.

    Returns:
        The page.
    """

    def made(match: re.Match) -> str:
        kind, name = match["kind"], match["name"] or ""
        if kind not in kinds:
            return match[0]
        return f"<!-- {match['marker']} -->\n{kinds[kind](name)}<!-- end -->"

    marker = r"(?P<marker>(?P<kind>\w+)(: (?P<name>\w+))?)"
    return re.sub(rf"<!-- {marker} -->\n.*?<!-- end -->", made, page, flags=re.DOTALL)


def claims_table(
    benchmarks: Iterable[Benchmark], backend: str, *, only_recorded: bool = False
) -> str:
    """Every claim, what was measured, and whether it holds."""
    lines = []
    for benchmark in benchmarks:
        for claim in benchmark.claims:
            name = claim.record or benchmark.name
            record = records.load(name, backend)
            if record is not None:
                lines.append((claim.text, *_verdict(claim, record["results"])))
            elif not only_recorded:
                command = benchmark.all_commands()[name]
                lines.append((claim.text, f"**no record**: `{command}`", "?"))
    return table(("claim", "measured", "holds"), lines)


def _verdict(claim: Claim, results: Results) -> tuple[str, str]:
    try:
        figure, holds = claim.judge(results)
    except (KeyError, ValueError) as error:
        return f"**the record does not say**: {error!r}", "?"
    return figure, "yes" if holds else "**no**"


def records_table(benchmarks: Iterable[Benchmark], backend: str) -> str:
    """Each record: date, command, commit, how long it took, rounds, and where."""
    head = ("record", "date", "command", "commit", "took, s", "n", "hardware", "versions")
    lines = []
    for name in (name for benchmark in benchmarks for name in benchmark.all_commands()):
        record = records.load(name, backend)
        if record is not None:
            busy = " (**busy**)" if records.is_busy(record) else ""
            versions = ", ".join(f"{k} {version}" for k, version in record["versions"].items())
            lines.append((
                name, record["date"], f"`{record['command']}`", _commit(record),
                f"{record['took_s']:,}", records.rounds(record), records.machine(record) + busy,
                versions,
            ))  # fmt: skip
    return table(head, lines)


def _commit(record: dict[str, Any]) -> str:
    """Short; of a record that names only the commit it came with, in brackets."""
    short = record["commit"][:7] + ("+" if record.get("dirty") else "")
    return f"({short})" if "commit_from" in record else short
