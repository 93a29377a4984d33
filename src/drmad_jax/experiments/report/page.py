"""The HTML page of a report. Everything that comes from files is escaped here."""

import base64
import html
import string
import struct
from collections.abc import Mapping, Sequence
from importlib import resources

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.figures.style import DPI, png
from drmad_jax.experiments.report import figures, judged_tables, run_tables
from drmad_jax.experiments.report.runs import Run
from drmad_jax.experiments.report.tables import Table
from drmad_jax.experiments.runs import run_folder

_PNG = b"\x89PNG\r\n\x1a\n"
_FACTS = (
    ("task.kind", "task {}"), ("data.dataset", "data {}"), ("model.kind", "model {}"),
    ("inner.num_steps", "{} inner steps"), ("inner.batch_size", "batches of {}"),
    ("inner.optimizer.name", "inner optimizer {}"), ("outer.num_steps", "{} outer steps"),
    ("outer.optimizer.name", "outer optimizer {}"), ("seed", "seed {}"),
)  # fmt: skip


def page(experiments: Mapping[str, Sequence[Run]]) -> str:
    """Writes the page.

    Args:
        experiments: Runs by the name of their experiment.

    Returns:
        HTML that needs no other file and no network.
    """
    parts = [_contents(experiments)]
    parts += [
        _experiment(f"e{i}", name, runs) for i, (name, runs) in enumerate(experiments.items())
    ]
    environments = run_tables.environments(experiments)
    if environments is not None:
        parts.append(f"<section>\n<h2>Environment</h2>\n{_table(environments)}</section>\n")
    title = "Report: " + ", ".join(experiments)
    template = string.Template(_resource("page.html"))
    return template.substitute(
        title=html.escape(title), style=_resource("style.css"), body="".join(parts)
    )


def _contents(experiments: Mapping[str, Sequence[Run]]) -> str:
    items = "".join(
        f'<li><a href="#e{i}">{html.escape(name)}</a> ({len(runs)} runs)</li>\n'
        for i, (name, runs) in enumerate(experiments.items())
    )
    return f"<nav><ul>\n{items}</ul></nav>\n" if len(experiments) > 1 else ""


def _experiment(anchor: str, name: str, runs: Sequence[Run]) -> str:
    """The section of one experiment."""
    tables = [
        judged_tables.results(runs),
        judged_tables.against_first(runs),
        judged_tables.other_metrics(runs),
        run_tables.courses(runs),
    ]
    together = {
        "The course of all variants.": figures.courses(runs),
        "Fresh seeds: before tuning (open) and after (filled), mean and 95% interval. A variant "
        "that stopped is shown where it stopped.": figures.judged(runs),
    }
    return (
        f'<section id="{anchor}">\n<h2>{html.escape(name)}</h2>\n{_facts(runs[0])}'
        + "".join(_table(table) for table in tables if table is not None)
        + "<h3>All variants</h3>\n"
        + "".join(_image(png(f), text) for text, f in together.items() if f is not None)
        + "<h3>Each variant</h3>\n"
        + "".join(_own_figures(run) for run in runs)
        + _configurations(runs)
        + "</section>\n"
    )


def _facts(run: Run) -> str:
    values = configs.flatten(run.config)
    words = [text.format(values[key]) for key, text in _FACTS if key in values]
    return f'<p class="facts">{html.escape(" · ".join(words))}</p>\n'


def _table(table: Table) -> str:
    notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in table.notes)
    return (
        f'<div class="scroll">\n{table.to_html()}</div>\n'
        + (f'<ul class="notes">\n{notes}</ul>\n' if notes else "")
        + _folded("Markdown", table.to_markdown())
        + _folded("LaTeX", table.to_latex())
    )


def _own_figures(run: Run) -> str:
    shown = [(path, path.read_bytes()) for path in run.figures]
    images = "".join(_image(d, path.stem.replace("_", " ")) for path, d in shown if _is_png(d))
    if not images:
        return ""
    heading = f"<h4>{html.escape(run.label)}</h4>\n"
    return f'<div class="variant">\n{heading}<div class="figures">\n{images}</div>\n</div>\n'


def _image(data: bytes, caption: str) -> str:
    (pixels,) = struct.unpack(">I", data[16:20])
    width = round(96 * pixels / DPI)
    encoded, text = base64.b64encode(data).decode(), html.escape(caption)
    return (
        f'<figure><img src="data:image/png;base64,{encoded}" width="{width}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>\n"
    )


def _is_png(data: bytes) -> bool:
    return data.startswith(_PNG) and len(data) > 24


def _configurations(runs: Sequence[Run]) -> str:
    """The first configuration as a whole, and what the others change in it."""
    first, *others = runs
    items = []
    for run in others:
        changes = [
            f"<code>{html.escape(line)}</code>"
            for line in configs.differences(first.config, run.config)
            if not line.startswith("variant:")
        ]
        items.append(f"<li>{html.escape(run.label)}: {', '.join(changes) or 'nothing'}</li>\n")
    differences = (
        f"<p>What the others change in {html.escape(first.label)}:</p>\n"
        f"<ul>\n{''.join(items)}</ul>\n"
    )
    whole = _folded(f"{run_folder.CONFIG} of {first.label}", configs.to_toml(first.config))
    heading = "<h3>Configuration</h3>\n"
    changes = differences if others else ""
    return f'<div class="configuration">\n{heading}{changes}{whole}</div>\n'


def _folded(summary: str, text: str) -> str:
    return (
        f"<details><summary>{html.escape(summary)}</summary>"
        f'<pre class="copy">{html.escape(text)}</pre></details>\n'
    )


def _resource(name: str) -> str:
    return (
        resources.files("drmad_jax.experiments.report").joinpath(name).read_text(encoding="utf-8")
    )
