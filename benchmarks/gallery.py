"""Puts the records of `benchmarks.literature` into docs/experiments.md.

python -m benchmarks.gallery
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import markdown, record_files
from benchmarks.literature import NAMES, PAGE
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.report import judged_tables, run_tables
from drmad_jax.experiments.report.runs import Run
from drmad_jax.experiments.report.tables import Table

PREFIX = "experiment_"


def recorded_runs(name: str) -> list[Run]:
    """The runs of an experiment as its record holds them."""
    record = record_files.load(PREFIX + name, record_files.MAIN_BACKEND)
    if record is None:
        raise SystemExit(f"no record of {name}: run python -m benchmarks.literature {name}")
    return [
        Run(Path(label), configs.parse(kept["config"]), kept["metrics"], kept["summary"], label)
        for label, kept in record["results"].items()
    ]


def results(name: str) -> str:
    """What tuning was worth on fresh seeds, by variant."""
    table = judged_tables.results(recorded_runs(name))
    return "Not judged.\n" if table is None else table.to_markdown()


def details(name: str) -> str:
    """Variants seed by seed against the first, other metrics, and what each run took."""
    runs = recorded_runs(name)
    tables = [
        judged_tables.against_first(runs),
        judged_tables.other_metrics(runs),
        run_tables.courses(runs),
    ]
    return f"<details><summary>More</summary>\n\n{_shown(tables)}\n</details>\n"


def conditions(name: str) -> str:
    """When and on what an experiment ran, and how long."""
    record = record_files.load(PREFIX + name, record_files.MAIN_BACKEND)
    if record is None:
        raise SystemExit(f"no record of {name}")
    minutes = sum(_seconds(kept["summary"]) for kept in record["results"].values()) / 60
    busy = ", other work beside it" if record_files.is_busy(record) else ""
    seeds = recorded_runs(name)[0].config.judge.num_seeds
    return (
        f"`drmad-jax run --all configs/{name}.toml`: {minutes:.0f} minutes, "
        f"{len(record['results'])} variants, judged on {seeds} fresh seeds "
        f"({record_files.machine(record)}{busy}; {record['date']}).\n"
    )


KINDS = {"results": results, "details": details, "conditions": conditions}


def _shown(tables: Sequence[Table | None]) -> str:
    """Tables in Markdown, each under its title and above its notes."""
    return "\n".join(
        f"**{table.title}**\n\n{table.to_markdown()}" + "".join(f"\n{n}\n" for n in table.notes)
        for table in tables
        if table is not None
    )


def _seconds(summary: dict) -> float:
    judging = summary.get("judge", {}).get("seconds", 0)
    return summary["compile_seconds"] + summary["total_seconds_of_steps"] + judging


def main() -> None:
    text = PAGE.read_text()
    missing = [name for name in NAMES if f"<!-- results: {name} -->" not in text]
    if missing:
        print(f"not on the page: {', '.join(missing)}")
    PAGE.write_text(markdown.fill(text, KINDS))
    print(PAGE)


if __name__ == "__main__":
    main()
