"""Runs the experiments of `configs/`, every variant, and keeps what they came to.

    python -m benchmarks.literature [NAME ...]

The runs go to `runs/NAME`, and those that have ended are not run again. Each experiment gets a
record, which holds what a report needs of its runs, and its figures in docs/figures/experiments;
`python -m benchmarks.gallery` makes docs/experiments.md of them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.literature.page import PREFIX
from benchmarks.records import write_record
from drmad_jax.experiments.config.section import dump
from drmad_jax.experiments.figures.style import png
from drmad_jax.experiments.report import figures, runs
from drmad_jax.experiments.report.runs import Run
from drmad_jax.experiments.runs.all_variants import load_all, run_all
from drmad_jax.experiments.runs.draw import draw

ROOT = Path(__file__).parents[2]
CONFIGS, PAGE = ROOT / "configs", ROOT / "docs" / "experiments.md"
FIGURES = PAGE.parent / "figures" / "experiments"
# Those of the gallery, in its order.
NAMES = (
    "digits_l2", "mnist_l2", "mnist_l2_published", "mnist_l2_small", "mnist_l2_adam",
    "schedules", "init_scales", "hyper_cleaning", "learned_data", "omniglot_sharing",
    "densenet_l2", "clouds", "augmentation",
)  # fmt: skip


def run(name: str) -> list[Run]:
    """Runs what is left of an experiment, and draws every run."""
    root = ROOT / "runs" / name
    for outcome in run_all(load_all(CONFIGS / f"{name}.toml"), root, resume=True):
        if not outcome.skipped:
            draw(outcome.folder)
    return runs.find([root])[name]


def results(found: list[Run]) -> dict[str, Any]:
    """What a report needs to know of each run."""
    return {
        run.label: {
            "config": dump(run.config),
            "metrics": [_rounded(line) for line in run.metrics],
            "summary": _rounded(run.summary),
        }
        for run in found
    }


def keep_figures(name: str, found: list[Run]) -> None:
    """Keeps those figures of the runs, and of all together, that the page shows."""
    made = {
        f"{name}-{run.label}-{path.name}": path.read_bytes()
        for run in found
        for path in run.figures
    }
    made[f"{name}-all-courses.png"] = png(figures.courses(found))
    judged = figures.judged(found)
    if judged is not None:
        made[f"{name}-all-judged.png"] = png(judged)
    FIGURES.mkdir(parents=True, exist_ok=True)
    page = PAGE.read_text()
    for file, picture in made.items():
        (FIGURES / file).unlink(missing_ok=True)
        if f"/{file})" in page:
            (FIGURES / file).write_bytes(picture)


def _rounded(value: Any) -> Any:
    """The same with six digits: more would only be read by a machine."""
    return json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.6g}"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.literature")
    parser.add_argument("names", nargs="*", choices=NAMES, metavar="NAME")
    for number, name in enumerate(chosen := parser.parse_args().names or NAMES, 1):
        print(f"[{number}/{len(chosen)}] {name}", flush=True)
        found = run(name)
        keep_figures(name, found)
        print(write_record(PREFIX + name, results(found)), flush=True)


if __name__ == "__main__":
    main()
