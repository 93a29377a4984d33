"""Tables in markdown."""

import re
from collections.abc import Callable, Iterable, Mapping


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


def fill(page: str, kinds: Mapping[str, Callable[[str], str]]) -> str:
    """A page with everything between markers made anew.

    Args:
        page: Text with `<!-- KIND: NAME -->`, what is to be replaced, and `<!-- end -->`.
        kinds: KIND to a function of NAME.

    Returns:
        The page.
    """

    def made(match: re.Match) -> str:
        kind, name = match["kind"], match["name"]
        return f"<!-- {kind}: {name} -->\n{kinds[kind](name)}<!-- end -->"

    pattern = r"<!-- (?P<kind>\w+): (?P<name>\w+) -->\n.*?<!-- end -->"
    return re.sub(pattern, made, page, flags=re.DOTALL)
