"""Tables of short texts, for `page.html`, and written as Markdown and LaTeX."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "→": r"$\to$", "±": r"$\pm$", "−": "$-$",
    "–": "--", "\n": " ",
})  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~])")


class Cell(NamedTuple):
    """One entry of a table.

    Attributes:
        text: What is written.
        score: Less is better; `None` for what does not compete.
    """

    text: str
    score: float | None = None


NOTHING = Cell("–")


class Table(NamedTuple):
    """A table.

    Attributes:
        title: What it shows.
        header: The columns.
        rows: Rows of cells, one for each column. Of the scores in a column the least is marked.
        num_texts: How many columns, from the left, hold words, and not numbers.
        notes: What must be known to read it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    num_texts: int = 1
    notes: Sequence[str] = ()

    def to_markdown(self) -> str:
        """A table in GitHub's Markdown."""
        rule = ["---"] * self.num_texts + ["---:"] * (len(self.header) - self.num_texts)
        escape = lambda text: _MARKDOWN.sub(r"\\\1", text).replace("\n", " ")
        header, *rows = self._written(escape, "**{}**")
        return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))

    def to_latex(self) -> str:
        """A LaTeX tabular with the rules of the package booktabs."""
        columns = "l" * self.num_texts + "r" * (len(self.header) - self.num_texts)
        written = self._written(lambda text: text.translate(_LATEX), "\\textbf{{{}}}")
        header, *rows = (f"{' & '.join(row)} \\\\" for row in written)
        lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", header, "\\midrule", *rows]
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"

    def marked(self) -> list[list[tuple[str, bool]]]:
        """Texts, and whether they are the best of their column; where all are equal none is."""
        best = []
        for column in zip(*self.rows, strict=True):
            scores = {cell.score for cell in column if cell.score is not None}
            best.append(min(scores) if len(scores) > 1 else None)
        return [
            [(c.text, c.score is not None and c.score == b) for c, b in zip(row, best, strict=True)]
            for row in self.rows
        ]

    def _written(self, escape: Callable[[str], str], bold: str) -> list[list[str]]:
        """Header and rows, escaped, what is best in bold."""
        marked = [[(escape(text), best) for text, best in row] for row in self.marked()]
        rows = [[bold.format(text) if best else text for text, best in row] for row in marked]
        return [[escape(text) for text in self.header], *rows]


def number(value: float) -> str:
    """A number with four digits, zeros at the end among them."""
    return f"{value:#.4g}".rstrip(".")
