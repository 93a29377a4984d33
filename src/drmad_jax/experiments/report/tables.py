"""Tables of short texts, for `page.html`, and written as Markdown and LaTeX."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "→": r"$\to$", "±": r"$\pm$", "−": "$-$",
    "–": "--", "\n": " ",
}  # fmt: skip
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
        right = len(self.header) - self.num_texts
        lines = [
            _markdown_row(map(_escape_markdown, self.header)),
            _markdown_row(["---"] * self.num_texts + ["---:"] * right),
        ]
        for row in self.marked():
            texts = [(_escape_markdown(text), best) for text, best in row]
            lines.append(_markdown_row(f"**{text}**" if best else text for text, best in texts))
        return "\n".join(lines) + "\n"

    def to_latex(self) -> str:
        """A LaTeX tabular with the rules of the package booktabs."""
        columns = "l" * self.num_texts + "r" * (len(self.header) - self.num_texts)
        lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
        lines += [_latex_row(map(_escape_latex, self.header)), "\\midrule"]
        for row in self.marked():
            texts = [(_escape_latex(text), best) for text, best in row]
            lines.append(_latex_row(f"\\textbf{{{t}}}" if best else t for t, best in texts))
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


def number(value: float) -> str:
    """A number with four digits, zeros at the end among them."""
    return f"{value:#.4g}".rstrip(".")


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text).replace("\n", " ")


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _markdown_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _latex_row(texts: Iterable[str]) -> str:
    return f"{' & '.join(texts)} \\\\"
