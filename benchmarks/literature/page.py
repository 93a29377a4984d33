"""The parts of docs/experiments.md, each made from the record of an experiment."""

from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.pages import Benchmark
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.report import judged_tables, run_tables
from drmad_jax.experiments.report.runs import Run

PREFIX = "experiment_"


def _record(name: str) -> dict[str, Any]:
    record = records.load(PREFIX + name)
    if record is None:
        raise SystemExit(f"no record of {name}: run python -m benchmarks.literature {name}")
    return record


def recorded_runs(name: str) -> list[Run]:
    """The runs of an experiment as its record holds them."""
    return [
        Run(Path(label), configs.parse(kept["config"]), kept["metrics"], kept["summary"], label)
        for label, kept in _record(name)["results"].items()
    ]


def judged(name: str) -> str:
    """What tuning was worth on fresh seeds, by variant."""
    table = judged_tables.results(recorded_runs(name))
    return "Not judged.\n" if table is None else table.to_markdown()


def details(name: str) -> str:
    """Variants seed by seed against the first, other metrics, and what each run took."""
    runs = recorded_runs(name)
    made = (judged_tables.against_first, judged_tables.other_metrics, run_tables.courses)
    shown = "\n".join(
        f"**{table.title}**\n\n{table.to_markdown()}" + "".join(f"\n{n}\n" for n in table.notes)
        for table in (make(runs) for make in made)
        if table is not None
    )
    return f"<details><summary>More</summary>\n\n{shown}\n</details>\n"


def conditions(name: str) -> str:
    """When and on what an experiment ran, and how long."""
    record = _record(name)
    minutes = sum(_seconds(kept["summary"]) for kept in record["results"].values()) / 60
    busy = ", other work beside it" if records.is_busy(record) else ""
    seeds = recorded_runs(name)[0].config.judge.num_seeds
    return (
        f"`drmad-jax run --all configs/{name}.toml`: {minutes:.0f} minutes, "
        f"{len(record['results'])} variants, judged on {seeds} fresh seeds "
        f"({records.machine(record)}{busy}; {record['date']}).\n"
    )


def _seconds(summary: dict) -> float:
    judging = summary.get("judge", {}).get("seconds", 0)
    return summary["compile_seconds"] + summary["total_seconds_of_steps"] + judging


KINDS = {"results": judged, "details": details, "conditions": conditions}
BENCHMARK = Benchmark("literature", needs="needs MNIST, Fashion-MNIST and Omniglot")
