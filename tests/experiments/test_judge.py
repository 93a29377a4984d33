import json
import shutil

import jax
import numpy as np
import pytest
from tiny import TINY, without_seconds

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import RunStopped
from drmad_jax.experiments.runs.draw import draw
from drmad_jax.experiments.runs.intervals import interval, paired
from drmad_jax.experiments.runs.judge import fresh_key, make_trial, summarise
from drmad_jax.experiments.runs.loop import run
from drmad_jax.experiments.runs.outer_step import outer_key
from drmad_jax.experiments.tasks import make_task

NUM_SEEDS = 3
JUDGED = TINY | {"judge": {"num_seeds": NUM_SEEDS}}
UNTUNED = JUDGED | {"outer": TINY["outer"] | {"num_steps": 0}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "judged"
    run(configs.parse(JUDGED), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def untuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "untuned"
    run(configs.parse(UNTUNED), folder, progress=False)
    return folder


def judged(folder):
    return json.loads((folder / "summary.json").read_text())["judge"]["metrics"]


def test_both_ends_are_judged_on_the_same_fresh_seeds(finished):
    config = configs.parse(JUDGED)
    task = make_task(config)
    trial, data = jax.jit(make_trial(config, task)), task.load_data()
    with np.load(finished / "hparams.npz") as arrays:
        final = dict(arrays)
    found = judged(finished)
    assert list(found) == ["outer_loss", "test_error", "test_loss"]
    for when, hparams in (("before", task.init_hparams()), ("after", final)):
        for number in range(NUM_SEEDS):
            metrics = trial(hparams, fresh_key(config, number), data)
            for name in found:
                assert found[name][when]["values"][number] == metrics[name].item()
    before, after = (np.array(found["outer_loss"][when]["values"]) for when in ("before", "after"))
    assert (before != after).all() and len(set(before)) == NUM_SEEDS
    assert found["outer_loss"]["difference"]["values"] == (after - before).tolist()
    assert len(without_seconds(finished)) == TINY["outer"]["num_steps"] + 1


def test_fresh_seeds_are_none_of_those_that_tuning_draws_from():
    config = configs.parse(TINY)
    drawn = {bytes(jax.random.key_data(outer_key(config, step))) for step in range(100)}
    fresh = {bytes(jax.random.key_data(fresh_key(config, number))) for number in range(100)}
    assert len(drawn) == len(fresh) == 100 and not drawn & fresh


def test_variants_are_judged_on_the_same_seeds(finished, untuned, tmp_path):
    """One penalty for all weights is the same loss as equal ones for each unit."""
    np.testing.assert_array_equal(
        judged(untuned)["outer_loss"]["before"]["values"],
        judged(finished)["outer_loss"]["before"]["values"],
    )
    shared = configs.parse(UNTUNED | {"task": {"kind": "l2", "granularity": "global"}})
    run(shared, tmp_path / "run", progress=False)
    np.testing.assert_allclose(
        judged(tmp_path / "run")["outer_loss"]["before"]["values"],
        judged(finished)["outer_loss"]["before"]["values"],
        rtol=1e-5,
    )


def test_no_tuning_only_judges(untuned):
    summary = json.loads((untuned / "summary.json").read_text())
    assert summary["status"] == "complete" and summary["num_outer_steps"] == 0
    assert summary["num_hparams"] == 64 + 6
    (line,) = without_seconds(untuned)
    assert line["step"] == 0 and line["finite"] is True and "hypergradient_norm" not in line
    for found in judged(untuned).values():
        assert found["before"] == found["after"]
        assert found["difference"]["interval"] == [0, 0]
    assert draw(untuned) == []


def test_killed_while_judging_and_resumed_is_uninterrupted(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "summary.json").unlink()
    lines = (copy / "judge.jsonl").read_bytes()
    (copy / "judge.jsonl").write_bytes(lines[: len(lines) // 2])
    run(configs.parse(JUDGED), copy, resume=True, progress=False)
    assert judged(copy) == judged(finished)
    first = (finished / "judge.jsonl").read_bytes().splitlines()[0]
    assert (copy / "judge.jsonl").read_bytes().splitlines()[0] == first
    assert without_seconds(copy) == without_seconds(finished)


def test_judgements_of_hyperparameters_that_change_again_are_dropped(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoints" / str(TINY["outer"]["num_steps"]))
    line = '{"seed": 0, "before": {"outer_loss": 9}, "after": {"outer_loss": 9}, "seconds": 1}\n'
    (copy / "judge.jsonl").write_text(line)
    run(configs.parse(JUDGED), copy, resume=True, progress=False)
    assert judged(copy) == judged(finished)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this optimizer has no finite derivative")
def test_stopped_run_is_judged_where_it_stopped(tiny, tmp_path):
    tiny |= {
        "judge": {"num_seeds": 2},
        "task": {"kind": "l2", "initial_log_l2": -200.0},
        "method": {"name": "stored"},
    }
    tiny["inner"]["optimizer"] = {"name": "adam", "learning_rate": 0.01}
    with pytest.raises(RunStopped):
        run(configs.parse(tiny), tmp_path / "run", progress=False)
    assert judged(tmp_path / "run")["outer_loss"]["difference"]["values"] == [0, 0]


def test_plain_adam_is_judged_without_a_warning():
    """Only a derivative of its update would be infinite, and judging takes none."""
    inner = UNTUNED["inner"] | {"optimizer": {"name": "adam", "learning_rate": 0.01}}
    config = configs.parse(UNTUNED | {"inner": inner})
    task = make_task(config)
    arguments = task.init_hparams(), fresh_key(config, 0), task.load_data()
    assert "outer_loss" in jax.eval_shape(make_trial(config, task), *arguments)


def test_interval_is_students():
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found["mean"] == 2.5
    np.testing.assert_allclose(found["standard_error"], np.sqrt(5 / 3 / 4))
    half = 3.182446 * found["standard_error"]
    np.testing.assert_allclose(found["interval"], [2.5 - half, 2.5 + half], rtol=1e-6)


def test_what_cannot_be_known_is_none():
    assert interval([2.0]) == {
        "values": [2.0],
        "mean": 2.0,
        "standard_error": None,
        "interval": None,
    }
    assert interval([1.0, None])["mean"] is None
    assert paired([1.0, 2.0], [None, 3.0])["values"] == [None, 1.0]


def test_diverged_seed_leaves_no_mean():
    lines = [
        {"before": {"loss": 1.0}, "after": {"loss": after}, "seconds": 1.0} for after in (0.5, None)
    ]
    found = summarise(lines)["metrics"]["loss"]
    assert found["before"]["mean"] == 1.0
    assert found["after"]["mean"] is None and found["after"]["values"] == [0.5, None]
    assert found["difference"]["interval"] is None
