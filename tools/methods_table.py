"""The catalogue as a markdown table, printed or written into texts.

python -m tools.methods_table [--full]               # print it
python -m tools.methods_table README.md docs/methods.md   # write it between its marks
"""

import argparse
from pathlib import Path

from drmad_jax.protocol import Estimator, Method
from tools.catalogue import ENTRIES, Entry
from tools.probes import (
    KINDS,
    OPTIMIZERS,
    distorted_kinds,
    seen_kinds,
    taken_optimizers,
    takes_model_state,
)

_MARKS = {"<!-- methods -->": False, "<!-- methods in full -->": True}
_END = "<!-- end -->"
# More steps than any method in the table goes back through one by one.
LONG = 1_000_000


def table(*, full: bool = False) -> str:
    """The table in markdown.

    Args:
        full: A column for each kind of hyperparameter and for model state.

    Returns:
        Lines, the last one with its newline.
    """
    rows = [_row(entry, full) for entry in ENTRIES]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fill(text: str) -> str:
    """Replaces what stands between the marks of a text by the table.

    Args:
        text: A text with `<!-- methods -->` (the table of the README) or `<!-- methods in full -->`
            on one line, and `<!-- end -->` on a later one.

    Returns:
        The text with the table as it is now.

    Raises:
        ValueError: If the marks are missing.
    """
    found = [mark for mark in _MARKS if f"{mark}\n" in text]
    for mark in found:
        before, _, rest = text.partition(f"{mark}\n")
        _, end, after = rest.partition(_END)
        if not end:
            raise ValueError(f"no {_END} after {mark}")
        text = f"{before}{mark}\n{table(full=_MARKS[mark])}{end}{after}"
    if not found:
        raise ValueError(f"none of {', '.join(_MARKS)} stands on a line of its own")
    return text


def _row(entry: Entry, full: bool) -> dict[str, str]:
    """The cells of one line, by the head of their column."""
    sees, wrong = seen_kinds(entry.example), distorted_kinds(entry.example)
    optimizers = taken_optimizers(entry.example)
    row = {
        "method": f"`{entry.call}`",
        "exact?": entry.exactness,
        "memory": entry.memory,
        "cost of the way back": entry.cost,
    }
    if full:
        in_part = _of_last_steps(entry.example)
        seen = lambda kind: (
            "wrong"
            if kind in wrong
            else in_part
            if kind in sees and in_part
            else _yes(kind in sees)
        )
        row |= {kind: seen(kind) for kind in KINDS}
    else:
        row["hyperparameters"] = _in_short(sees, wrong)
    row["optimizers"] = "any" if set(optimizers) == set(OPTIMIZERS) else ", ".join(optimizers)
    if full:
        row["model state"] = _yes(takes_model_state(entry.example))
    return row | {"when": entry.when}


def _of_last_steps(method: Method | Estimator) -> str:
    """What is seen of a hyperparameter by methods that leave early steps out."""
    steps = getattr(method, "steps", None)
    return "" if steps is None or steps.reaches_start(LONG) else "of the last steps"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _in_short(sees: tuple[str, ...], wrong: tuple[str, ...]) -> str:
    """Which hyperparameters, in a few words."""
    right, unseen = [k for k in sees if k not in wrong], [k for k in KINDS if k not in sees]
    if len(right) <= len(KINDS) // 2:
        return ", ".join(right)
    notes = ["all"]
    if unseen:
        notes.append(f"not {', '.join(unseen)}")
    if wrong:
        notes.append(f"wrong for {', '.join(wrong)}")
    return "; ".join(notes)


def main() -> None:
    """Prints the table, or writes it into the files that are named."""
    parser = argparse.ArgumentParser(description="The table of methods.")
    parser.add_argument("files", type=Path, nargs="*", help="texts with marks for it")
    parser.add_argument("--full", action="store_true", help="print every column")
    options = parser.parse_args()
    for path in options.files:
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
    if not options.files:
        print(table(full=options.full), end="")


if __name__ == "__main__":
    main()
