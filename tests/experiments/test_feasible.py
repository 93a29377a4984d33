import jax
import pytest
from tiny import TINY

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.errors import ConfigError, ExperimentError
from drmad_jax.experiments.runs import feasible
from drmad_jax.experiments.runs.compare import compare
from drmad_jax.experiments.runs.loop import run

GIB = 2**30
MANY = 2_000_000_000
CLOUDS = {"kind": "clouds", "num_train": MANY, "num_valid": 9, "num_test": 9}

TOO_MUCH = {
    "data": (
        {"task": {"kind": "clouds"}, "model": {"kind": "pyramid"}, "data": CLOUDS},
        "its examples alone need",
    ),
    "weights": ({"model": {"hidden": [MANY, MANY]}}, "data, hyperparameters and 2 training states"),
    "hyperparameters": (
        {"model": {"hidden": [MANY]}, "task": {"kind": "l2", "granularity": "parameter"}},
        "data, hyperparameters and 2 training states need",
    ),
    "directions": (
        {"method": {"name": "forward_gradient", "num_directions": 10**7}},
        "data, hyperparameters and 20,000,000 training states need",
    ),
}


@pytest.mark.parametrize(("changes", "what"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_cannot_fit_is_refused_before_anything_is_made(tmp_path, changes, what):
    inner = TINY["inner"] | {"batch_size": 3}
    message = rf"{what} .* GiB of memory, and there are .* in all; take less data, .*methods\)$"
    with pytest.raises(ConfigError, match=message):
        run(configs.parse(TINY | {"inner": inner} | changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_comparison_that_cannot_fit_is_refused(tiny, tmp_path):
    tiny["model"] = {"hidden": [MANY, MANY]}
    with pytest.raises(ConfigError, match="GiB of memory"):
        compare(configs.parse(tiny), tmp_path / "here", progress=False)


def test_what_the_compiler_says_is_needed_is_compared_with_what_there_is(monkeypatch):
    compiled = (
        jax.jit(lambda x: (x[:, None] * x).sum(axis=1).sort()).lower(jax.numpy.ones(9)).compile()
    )
    feasible.check_program(compiled)
    monkeypatch.setattr(feasible, "_memory", lambda: 1)
    with pytest.raises(ConfigError, match="data and training states need 0.0 GiB"):
        feasible.check_program(compiled)
    monkeypatch.setattr(feasible, "_memory", lambda: None)
    feasible.check_program(compiled)


def test_memory_is_that_of_the_machine():
    assert GIB / 4 < feasible._memory() < 2**50


def test_a_device_that_is_out_of_memory_is_told():
    with pytest.raises(ExperimentError, match="the device is out of memory .*; take less data"):
        with feasible.told_of_config():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nat length")
    with pytest.raises(jax.errors.JaxRuntimeError):
        with feasible.told_of_config():
            raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_arguments_that_fit_no_function_are_exit_code_2(tmp_path, capsys):
    path = tmp_path / "tiny.toml"
    path.write_text(configs.to_toml(configs.parse(TINY)))
    for section in ("inner", "outer"):
        override = f'{section}.optimizer={{name="adam",learning_rate=0.1,mu_dtype="object"}}'
        assert main(["run", str(path), "--out", str(tmp_path / "run"), "--set", override]) == 2
        assert "error: this configuration cannot be run: " in capsys.readouterr().err
