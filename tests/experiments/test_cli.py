import inspect
import os
import signal
import sys

import jax
import pytest
from tiny import TINY

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.config.factories import Method
from drmad_jax.experiments.ending import run_to_exit_code


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(configs.to_toml(configs.parse(TINY)))
    return path


def test_run_and_plot(config_file, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["run", str(config_file), "--out", str(folder), "--set", "outer.num_steps=2"]) == 0
    printed = capsys.readouterr().out
    assert f"run folder  {folder}" in printed
    assert "curves.png" in printed
    assert "outer loss" in printed and "->" in printed
    picture = folder / "figures" / "curves.png"
    picture.unlink()
    assert main(["plot", str(folder)]) == 0
    assert picture.exists()
    assert main(["run", str(config_file), "--out", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_default_folder_is_named_after_the_run(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["run", str(config_file), "--set", "outer.num_steps=1"]
    assert main(words) == 0
    assert (tmp_path / "runs" / "tiny" / "summary.json").is_file()


def test_compiled_programs_are_kept_where_the_user_wants_them(config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = "jax_compilation_cache_dir"
    chosen = jax.config.values[name]
    wrong = ["run", str(config_file), "--set", "inner.num_steps=-1"]
    main(wrong)
    assert jax.config.values[name] == chosen
    try:
        jax.config.update(name, None)
        main(wrong)
        assert jax.config.values[name] == str(tmp_path / "cache" / "drmad_jax")
    finally:
        jax.config.update(name, chosen)


def test_smoke_runs_compile_quickly(tmp_path):
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        main(["run", str(tmp_path / "nowhere.toml"), "--smoke"])
        assert jax.config.values["jax_disable_most_optimizations"]
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def test_config_error_is_exit_code_2(config_file, tmp_path, capsys):
    assert main(["run", str(config_file), "--set", "inner.nun_steps=3"]) == 2
    error = capsys.readouterr().err
    assert error == "error: inner.nun_steps: unknown key; did you mean inner.num_steps?\n"
    assert main(["run", str(tmp_path / "absent.toml")]) == 2


def test_stopped_run_is_exit_code_1(config_file, tmp_path, capsys):
    words = ["run", str(config_file), "--out", str(tmp_path / "run")]
    assert main([*words, "--set", "task.initial_log_l2=200"]) == 1
    assert "training itself diverged" in capsys.readouterr().err


def test_interrupted_run_says_how_to_go_on(config_file, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("drmad_jax.experiments.runs.loop.run", interrupt)
    assert main(["run", str(config_file)]) == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_end_a_run_as_an_interruption_does(config_file, monkeypatch, capsys, name):
    number = getattr(signal, name)
    # What is started in the background has Ctrl-C ignored.
    signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    loop = "drmad_jax.experiments.runs.loop.run"
    monkeypatch.setattr(loop, lambda *arguments, **options: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    assert main(["run", str(config_file)]) == 128 + number
    hint = "interrupted; --resume goes on from the last finished outer step\n"
    assert capsys.readouterr().err.endswith(hint)
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored(monkeypatch):
    """As `nohup` wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hang_up = lambda: os.kill(os.getpid(), signal.SIGHUP)
        assert run_to_exit_code(hang_up, can_resume=False) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_missing_data_set_is_exit_code_1(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    words = ["run", str(config_file), "--out", str(tmp_path / "run"), "--set", "data.dataset=mnist"]
    assert main(words) == 1
    assert "drmad-jax prepare mnist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_missing_extra_says_what_to_install(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["run", str(config_file), "--out", str(tmp_path / "run")]) == 1
    assert 'pip install "drmad_jax[experiments]"' in capsys.readouterr().err


def test_plot_of_another_folder(tmp_path, capsys):
    assert main(["plot", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_prepare(capsys):
    assert main(["prepare", "digits"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["prepare", "imagenet"]) == 1


def test_methods_say_what_they_are_and_cost(capsys):
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    for name, function in Method.choices().items():
        docstring = inspect.getdoc(function)
        assert f"\n{name}\n    {docstring.splitlines()[0]}\n    Cost:\n        " in f"\n{printed}"
    assert printed.count("    Cost:\n") == printed.count("    Bias:\n") == len(Method.choices())
    assert "Args:" not in printed and "Raises:" not in printed and ">>>" not in printed


@pytest.mark.parametrize("words", [[], ["nonsense"], ["run"]])
def test_wrong_words_are_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
