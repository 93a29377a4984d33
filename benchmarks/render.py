"""Puts the committed records into benchmarks/README.md and README.md, and draws their figures.

    python -m benchmarks render

Nothing is measured here. A record that is missing is named on the page and on standard error.
"""

import re
import sys
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg

from benchmarks import measured, record_files, tables
from benchmarks.plots import FIGURES
from drmad_jax.experiments.plots import STYLE

PAGE = Path(__file__).with_name("README.md")
README = PAGE.parents[1] / "README.md"
FOLDER = Path(__file__).with_name("figures")
DPI = 200
_ACCELERATORS = "accelerators"


def section(name: str, backend: str, records: dict[str, dict]) -> str:
    """One record's figure and table, or which command would make it."""
    if name not in records:
        text = f"No record `{name}-{backend}`: run `{record_files.COMMANDS[name]}`."
        print(f"render: {text}", file=sys.stderr)
        return f"**{text}**\n"
    results = records[name]["results"]
    picture = draw(name, backend, results)
    shown = "" if picture is None else f"![{name}]({picture.relative_to(PAGE.parent)})\n\n"
    return shown + tables.TABLES[name](results)


def draw(name: str, backend: str, results: dict) -> Path | None:
    """Draws a record's figure, if it has one."""
    if name not in FIGURES:
        return None
    with matplotlib.rc_context(STYLE):
        figure = FIGURES[name](results)
    if figure is None:
        return None
    FOLDER.mkdir(exist_ok=True)
    suffix = "" if backend == record_files.MAIN_BACKEND else f"-{backend}"
    path = FOLDER / f"{name}{suffix}.png"
    FigureCanvasAgg(figure).print_figure(path, dpi=DPI)
    print(path)
    return path


def accelerators() -> str:
    """All that was recorded on other backends, one after another."""
    pieces = []
    for backend in record_files.backends()[1:]:
        records = record_files.load_all(backend)
        known = [name for name in tables.TABLES if name in records]
        pieces += [f"### {backend}\n", tables.claims(records, only_recorded=True)]
        pieces += [f"#### {name}\n\n{section(name, backend, records)}" for name in known]
        pieces.append(tables.records(records))
    return "\n".join(pieces) or "No records of an accelerator yet.\n"


def fill(text: str) -> str:
    """The page with everything between markers made anew."""
    main = record_files.load_all(record_files.MAIN_BACKEND)

    def made(match: re.Match) -> str:
        name = match["name"]
        if name in ("claims", "records"):
            body = getattr(tables, name)(main)
        elif name == _ACCELERATORS:
            body = accelerators()
        else:
            body = section(name, record_files.MAIN_BACKEND, main)
        return f"<!-- {name} -->\n{body}<!-- end -->"

    return re.sub(r"<!-- (?P<name>\w+) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)


def fill_readme(text: str) -> str:
    """The package's README with its measured figures made anew."""
    body = f"<!-- measured -->\n{measured.readme()}<!-- end -->"
    return re.sub(r"<!-- measured -->\n.*?<!-- end -->", lambda _: body, text, flags=re.DOTALL)


def main() -> None:
    PAGE.write_text(fill(PAGE.read_text()))
    README.write_text(fill_readme(README.read_text()))
    print(PAGE, README, sep="\n")


if __name__ == "__main__":
    main()
