from pathlib import Path

import pytest

from drmad_jax.experiments import config as configs

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    assert path.read_text().startswith("#")
    assert configs.load(path).name == path.stem
