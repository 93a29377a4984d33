from pathlib import Path

import pytest

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import DatasetError
from drmad_jax.experiments.runs.draw import draw
from drmad_jax.experiments.runs.loop import run
from drmad_jax.experiments.tasks import Task, make_task

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
VARIANTS = [
    pytest.param(path, variant, id=f"{path.stem}-{variant}")
    for path in SHIPPED
    for variant in configs.variant_names(path)
]


@pytest.mark.parametrize(("path", "variant"), VARIANTS)
def test_shipped_configs_are_valid(path, variant):
    text = path.read_text()
    assert text.startswith("#")
    config = configs.load(path, variant=variant)
    assert config.name == path.stem
    if "[smoke]" in text:
        smoke = configs.load(path, variant=variant, smoke=True)
        assert smoke.name == f"{path.stem}-smoke"
        assert (smoke.outer.num_steps == 0) == (config.outer.num_steps == 0)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_tasks_of_shipped_configs_are_whole(path):
    """A method that the protocol gained later comes with the base class."""
    assert Task in type(make_task(configs.load(path))).__mro__


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if "[smoke]" in path.read_text()], ids=lambda path: path.stem
)
def test_smoke_runs_tune_judge_and_draw(path, tmp_path):
    config = configs.load(path, smoke=True)
    try:
        summary = run(config, tmp_path / "run", progress=False)
    except DatasetError as error:
        pytest.skip(f"no data for {path.stem}: {error}")
    assert summary["status"] == "complete"
    assert summary["num_outer_steps"] == config.outer.num_steps
    assert draw(tmp_path / "run")
