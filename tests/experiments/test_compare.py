import json

import pytest
from PIL import Image

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.errors import ConfigError, RunFolderError
from drmad_jax.experiments.runs.compare import DEFAULT_METHODS, REFERENCE, compare, standard_methods


@pytest.fixture
def config(tiny):
    return configs.parse(tiny)


@pytest.fixture
def config_file(config, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(configs.to_toml(config))
    return path


@pytest.mark.slow
def test_compare_writes_tables_and_figures(config_file, tmp_path, capsys):
    folder = tmp_path / "here"
    words = ["compare", str(config_file), "--set", "inner.num_steps=12", "--out", str(folder)]
    assert main([*words, "--seeds", "2", "--methods", "drmad"]) == 0
    printed = capsys.readouterr().out
    table = (folder / "compare.md").read_text()
    assert printed.startswith(table)
    assert table.count("\n| ") == 3 and f"| {REFERENCE} (exact) |" in table
    assert "2 seeds are few" in table
    record = json.loads((folder / "compare.json").read_text())
    assert [r["name"] for r in record["reports"]] == ["drmad", REFERENCE]
    assert record["step_size"] == 0.1
    assert [len(r["cotangent_norms"]) for r in record["reports"]] == [32, 32]
    assert configs.load(folder / "config.toml").inner.num_steps == 12

    paths = [folder / "figures" / f"{name}.png" for name in ("cosines", "cotangents")]
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
        path.unlink()
    assert main(["plot", str(folder)]) == 0
    assert all(path.exists() for path in paths)


def test_wrong_words_are_told_apart(config, tmp_path):
    with pytest.raises(ConfigError, match="--methods: unknown name 'dramd'; did you mean drmad?"):
        compare(config, tmp_path, names=["dramd"])
    with pytest.raises(ConfigError, match="--seeds: expected at least 2, got 1"):
        compare(config, tmp_path, num_seeds=1)
    assert not list(tmp_path.glob("compare*"))


def test_variant_and_smoke_test_can_be_asked_for(config_file, capsys):
    assert main(["compare", str(config_file), "--variant", "exact"]) == 2
    assert "the config has no such variant; it has base" in capsys.readouterr().err
    assert main(["compare", str(config_file), "--smoke"]) == 2
    assert "the config has no table [smoke]" in capsys.readouterr().err


def test_method_that_does_not_take_the_optimizer_is_a_config_error(tiny, tmp_path):
    tiny["method"] = {"name": "reversible"}
    with pytest.raises(ConfigError, match="config: reversible: `optimizer` cannot be undone"):
        compare(configs.parse(tiny), tmp_path, names=["config"], num_seeds=2, progress=False)


def test_default_methods_are_among_those_that_can_be_named(config):
    methods = standard_methods(config)
    assert set(DEFAULT_METHODS) <= set(methods)
    assert methods["config"] == methods["drmad"]
    assert methods["truncated"].steps.count == config.inner.num_steps // 10


def test_folder_of_a_run_is_refused(config, tmp_path):
    (tmp_path / "config.toml").write_text(configs.to_toml(config))
    with pytest.raises(RunFolderError, match="has other files than those of a comparison"):
        compare(config, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
