import datetime
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny import TINY, without_seconds

from drmad_jax.experiments import config as configs
from drmad_jax.experiments import files
from drmad_jax.experiments.errors import ConfigError, RunFolderError, RunStopped
from drmad_jax.experiments.runs.draw import draw
from drmad_jax.experiments.runs.loop import run

NUM_STEPS = 40


@pytest.fixture(scope="module")
def config():
    outer = TINY["outer"] | {"num_steps": NUM_STEPS}
    return configs.parse(TINY | {"outer": outer, "task": {"kind": "l2", "initial_log_l2": -2.0}})


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(config, folder, progress=False)
    return folder


def assert_same_outcome(folder, other):
    assert without_seconds(folder) == without_seconds(other)
    with np.load(folder / "hparams.npz") as a, np.load(other / "hparams.npz") as b:
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_metrics_of_every_step_and_of_the_end(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(NUM_STEPS + 1))
    names = ["step", "outer_loss", "test_error", "test_loss"]
    assert all(list(line)[:4] == names and line["seconds"] >= 0 for line in lines)
    reverse = {"hypergradient_norm", "cotangent_norm"}
    assert all(reverse <= set(line) for line in lines[:-1])
    assert not reverse & set(lines[-1])
    assert lines[-1]["outer_loss"] < 0.95 * lines[0]["outer_loss"]


DRAWING = [
    {"name": "evolution_strategies", "num_pairs": 2, "sigma": 0.1},
    {"name": "forward_gradient", "num_directions": 2},
]


@pytest.mark.slow
def test_every_so_many_steps_the_hypergradient_is_certified(tiny, tmp_path):
    tiny["outer"] = tiny["outer"] | {"certify_every": 2}
    run(configs.parse(tiny), tmp_path / "run", progress=False)
    first, second, third, last = without_seconds(tmp_path / "run")
    for line in (first, third):
        assert line["certified_ratio"] == pytest.approx(1, abs=1e-3)
        assert line["certified_cosine"] > 0.5
    assert not any("certified_ratio" in line for line in (second, last))
    assert (tmp_path / "run" / "figures" / "curves.png") in draw(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        {
            "name": "implicit",
            "solver": {"name": "conjugate_gradient", "max_iterations": 3},
            "curvature": "gauss_newton",
        },
        *DRAWING,
    ],
    ids=lambda method: method["name"],
)
def test_methods_that_do_not_go_back_step_by_step_have_no_cotangent_norm(tiny, tmp_path, method):
    summary = run(configs.parse(tiny | {"method": method}), tmp_path / "run", progress=False)
    assert summary["status"] == "complete" and summary["num_outer_steps"] == 3
    lines = without_seconds(tmp_path / "run")
    assert all(line["hypergradient_norm"] > 0 for line in lines[:-1])
    assert not any("cotangent_norm" in line for line in lines)
    assert (tmp_path / "run" / "figures" / "curves.png") in draw(tmp_path / "run")


def test_config_in_the_folder_is_the_resolved_one(finished, config):
    assert configs.load(finished / "config.toml") == config


def test_summary(finished):
    summary = json.loads((finished / "summary.json").read_text())
    losses = [line["outer_loss"] for line in without_seconds(finished)]
    assert summary["status"] == "complete"
    assert summary["num_outer_steps"] == NUM_STEPS
    course = summary["outer_loss"]
    assert (course["first"], course["last"], course["best"]) == (losses[0], losses[-1], min(losses))
    assert losses[course["best_step"]] == min(losses)
    assert {"python", "drmad_jax", "jax", "jaxlib", "optax", "flax", "numpy"} == set(
        summary["versions"]
    )
    assert summary["compile_seconds"] > 0
    assert summary["device"]["platform"] and summary["device"]["cores"] >= 1
    assert datetime.datetime.fromisoformat(summary["date"]).tzinfo is not None
    assert summary["num_hparams"] == 64 + 6
    assert "judge" not in summary


def test_hyperparameters_are_kept_under_their_names(finished):
    with np.load(finished / "hparams.npz") as hparams:
        assert {name: hparams[name].shape for name in hparams} == {
            "dense_0": (64,),
            "dense_1": (6,),
        }
        assert not np.allclose(hparams["dense_1"], -2.0)


def test_latest_checkpoint_and_one_more_are_kept(finished):
    names = {path.name for path in (finished / "checkpoints").iterdir()}
    assert names == {str(NUM_STEPS), str(NUM_STEPS - 1)}


def test_existing_folder_needs_resume(finished, config):
    with pytest.raises(RunFolderError, match="is not empty; pass --resume"):
        run(config, finished, progress=False)


def test_foreign_folder_is_left_alone(config, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not a run folder: it has no config.toml"):
        run(config, tmp_path, resume=True, progress=False)


def test_folder_in_use_or_of_a_comparison_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0)
    with files.locked(tmp_path), pytest.raises(RunFolderError, match="in use by another process"):
        run(config, tmp_path, resume=True, progress=False)
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(RunFolderError, match="is the folder of a comparison"):
        run(config, tmp_path, resume=True, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]


def test_resuming_with_another_config_names_the_keys(finished, tiny):
    tiny["inner"]["batch_size"] = 5
    with pytest.raises(
        RunFolderError, match="(?s)inner.batch_size: 10 -> 5.*outer.num_steps: 40 -> 3"
    ):
        run(configs.parse(tiny), finished, resume=True, progress=False)


def test_impossible_combination_leaves_no_folder(tiny, tmp_path):
    tiny["method"] = {"name": "drmad", "knots": [0, 7]}  # does not end at num_steps
    with pytest.raises(ConfigError, match="knots"):
        run(configs.parse(tiny), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_resuming_a_finished_run_changes_nothing(finished, config, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    run(config, copy, resume=True, progress=False)
    assert_same_outcome(copy, finished)


def test_half_written_line_and_checkpoint_are_dropped(finished, config, tmp_path):
    """As if killed while writing the last lines, and the last checkpoint."""
    copy = shutil.copytree(finished, tmp_path / "copy")
    last = copy / "checkpoints" / str(NUM_STEPS)
    last.rename(last.with_name(f".{NUM_STEPS}.tmp"))
    metrics = copy / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-37])
    for name in ("summary.json", "hparams.npz"):
        (copy / name).unlink()
    run(config, copy, resume=True, progress=False)
    assert_same_outcome(copy, finished)


@pytest.mark.slow
def test_killed_before_the_first_step(finished, config, tmp_path):
    """Only the configuration was written; resuming begins."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text((finished / "config.toml").read_text())
    (folder / "metrics.jsonl").write_text('{"step": 0, "outer')
    run(config, folder, resume=True, progress=False)
    assert_same_outcome(folder, finished)


def start_and_kill(config_file, folder, delay, lines, how=signal.SIGKILL):
    """Runs in another process, and ends it some time after it has written `lines` lines."""
    words = ["run", str(config_file), "--out", str(folder), "--resume"]
    code = f"import sys; from drmad_jax.experiments.cli import main; sys.exit(main({words!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    count = lambda: metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    # One more than the run before left: this one has begun.
    lines = max(lines, count() + 1)
    while count() < lines:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(how)
    _, told = process.communicate()
    return process.returncode, told


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_killed_twice_and_resumed_is_uninterrupted(finished, config, tmp_path, how):
    config_file = tmp_path / "config.toml"
    config_file.write_text(configs.to_toml(config))
    folder = tmp_path / "run"
    chance = random.Random(0)
    for lines in (1, NUM_STEPS // 2):
        code, told = start_and_kill(config_file, folder, chance.uniform(0, 0.05), lines, how)
        assert code == (-how if how == signal.SIGKILL else 128 + how)
        assert "--resume goes on" in told or how == signal.SIGKILL
    assert len((folder / "metrics.jsonl").read_text().splitlines()) < NUM_STEPS
    run(config, folder, resume=True, progress=False)
    assert_same_outcome(folder, finished)


@pytest.mark.slow
def test_a_step_too_far_is_taken_back(tiny, tmp_path):
    """As in the library: back to the best so far, and on in shorter steps; resumed as well."""
    tiny["outer"] = {"num_steps": 4, "optimizer": {"name": "sign_sgd", "learning_rate": 1e4}}
    config, whole, cut = configs.parse(tiny), tmp_path / "whole", tmp_path / "cut"
    summary = run(config, whole, progress=False)
    lines = without_seconds(whole)
    assert [line.get("taken") for line in lines] == [True, False, True, False, None]
    finite = [line["outer_loss"] is not None for line in lines]
    assert summary["status"] == "complete" and finite == [True, False, True, False, True]
    shutil.copytree(whole, cut)
    for name in ("summary.json", "hparams.npz", "checkpoints/4"):
        place = cut / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    run(config, cut, resume=True, progress=False)
    assert without_seconds(cut) == lines


@pytest.mark.slow
def test_a_run_that_ends_too_far_keeps_the_best(tiny, tmp_path):
    tiny["outer"] = {"num_steps": 1, "optimizer": {"name": "sign_sgd", "learning_rate": 1e4}}
    with pytest.raises(RunStopped, match="diverged .left are the best before it"):
        run(configs.parse(tiny), tmp_path, progress=False)
    with np.load(tmp_path / "hparams.npz") as hparams:
        assert (hparams["dense_0"] == np.float32(-4.4)).all()


@pytest.mark.slow
def test_diverged_training_stops_the_run(tiny, tmp_path):
    tiny["inner"]["optimizer"]["learning_rate"] = 1e30
    folder = tmp_path / "run"
    message = r"(?s)the outer loss is nan at outer step 0 .*drmad.*smaller inner\.optimizer"
    with pytest.raises(RunStopped, match=message):
        run(configs.parse(tiny), folder, progress=False)
    (line,) = without_seconds(folder)
    assert line["outer_loss"] is None and line["finite"] is False
    summary = json.loads((folder / "summary.json").read_text())
    assert "nothing was updated" in summary["status"]
    with np.load(folder / "hparams.npz") as hparams:
        assert (hparams["dense_0"] == np.float32(-4.4)).all()


@pytest.mark.filterwarnings("ignore:this optimizer has no finite derivative")
def test_hypergradient_that_is_not_finite_stops_the_run(tiny, tmp_path):
    """Adam at eps_root = 0, where pixels that are always blank have no gradient at all."""
    tiny["inner"]["optimizer"] = {"name": "adam", "learning_rate": 0.01}
    tiny["task"] = {"kind": "l2", "initial_log_l2": -200.0}
    tiny["method"] = {"name": "stored"}
    folder = tmp_path / "run"
    message = r"(?s)not finite at outer step 0 with method stored\(\).*eps_root"
    with pytest.raises(RunStopped, match=message):
        run(configs.parse(tiny), folder, progress=False)
    (line,) = without_seconds(folder)
    assert math.isfinite(line["outer_loss"]) and line["hypergradient_norm"] is None
