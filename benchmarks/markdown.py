"""Tables in markdown."""

from collections.abc import Iterable


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in markdown."""
    head = tuple(head)
    rows = [head, ("---",) * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def mib(count: int | None) -> str:
    """Bytes as MiB."""
    return "–" if count is None else f"{count / 2**20:,.3g}"
