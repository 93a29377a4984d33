import math
import shutil

import pytest
from tiny import TINY, VARIANTS, without_seconds

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.runs.all_variants import load_all, run_all
from drmad_jax.experiments.runs.loop import run


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(configs.to_toml(configs.parse(TINY)) + VARIANTS)
    return path


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root, list(run_all(load_all(config_file), root, progress=False))


def test_a_run_that_stops_does_not_stop_the_others(finished):
    root, outcomes = finished
    assert [outcome.config.variant for outcome in outcomes] == ["", "diverging", "untuned"]
    names = ["base", "diverging", "untuned"]
    assert [outcome.folder for outcome in outcomes] == [root / name for name in names]
    base, diverging, untuned = outcomes
    assert base.stopped is None and untuned.stopped is None
    assert diverging.stopped.startswith("the outer loss is nan at outer step 0")
    assert "\n" not in diverging.stopped
    assert [len(without_seconds(root / name)) for name in names] == [4, 1, 1]
    assert math.isclose(
        base.summary["outer_loss"]["first"], untuned.summary["outer_loss"]["first"], rel_tol=1e-5
    )


def test_resuming_leaves_what_has_ended(finished, config_file, capsys):
    root, outcomes = finished
    again = list(run_all(load_all(config_file), root, resume=True))
    assert all(outcome.skipped for outcome in again)
    assert [a.summary for a in again] == [b.summary for b in outcomes]
    assert capsys.readouterr().err == ""


def test_nothing_is_run_if_a_folder_cannot_be_used(config_file, tmp_path):
    variants = load_all(config_file)
    (tmp_path / "untuned").mkdir()
    (tmp_path / "untuned" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="untuned is not empty"):
        next(run_all(variants, tmp_path))
    assert not (tmp_path / "base").exists()


def test_folder_of_a_single_run_is_refused(finished, config_file):
    root, _ = finished
    with pytest.raises(RunFolderError, match="is the folder of a single run; choose another"):
        next(run_all(load_all(config_file), root / "base"))


@pytest.mark.slow
def test_command_runs_all_and_says_what_stopped(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(config_file), "--all", "--smoke"]) == 0
    printed = capsys.readouterr()
    assert "[2/3] tiny-smoke/diverging" in printed.err
    assert "outer loss  nan -> nan" in printed.out
    assert "1 of 3 stopped before their end:\n    tiny-smoke/diverging: the outer" in printed.out
    folder = tmp_path / "runs" / "tiny-smoke"
    assert (folder / "base" / "figures" / "curves.png").is_file()
    assert main(["run", str(config_file), "--all", "--smoke", "--resume"]) == 0
    assert f"{folder.relative_to(tmp_path) / 'untuned'} (had ended)" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["unlink", "truncate", "not yet", "forgotten"])
def test_command_draws_the_figures_that_were_lost(finished, config_file, tmp_path, capsys, damage):
    """Such as to a kill while they were drawn."""
    root = shutil.copytree(finished[0], tmp_path / "runs")
    words = ["run", str(config_file), "--all", "--resume", "--out", str(root)]
    assert main(words) == 0
    figures = root / "base" / "figures"
    before = {path.name: path.read_bytes() for path in figures.iterdir()}
    picture, drawn = figures / "curves.png", figures / ".drawn"
    if damage == "unlink":
        picture.unlink()
    elif damage == "truncate":
        picture.write_bytes(before["curves.png"][:-50])
    elif damage == "not yet":
        shutil.rmtree(figures)
    else:
        drawn.write_text("")
    capsys.readouterr()
    assert main(words) == 0
    told = capsys.readouterr().out
    assert f"figure      {picture}" in told and told.count("(had ended)") == 2
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == before


def test_command_runs_one_variant_in_its_own_folder(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(config_file), "--variant", "diverging"]) == 1
    assert (tmp_path / "runs" / "tiny" / "diverging" / "summary.json").is_file()
    assert "training itself diverged" in capsys.readouterr().err
    assert main(["run", str(config_file), "--variant", "divergent"]) == 2
    assert "it has base, diverging, untuned" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", str(config_file), "--variant", "diverging", "--all"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_complete_run_is_not_compiled_again(finished, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("compiled")

    monkeypatch.setattr("drmad_jax.experiments.runs.loop._Loop", refuse)
    _, (base, *_) = finished
    assert run(base.config, base.folder, resume=True, progress=False) == base.summary
