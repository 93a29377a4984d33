"""A problem of one's own through the command line, and what is never run."""

import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_run import start_and_kill
from tiny import outcome, without_seconds

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.tasks import make_task

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_problem"
SHORT = ["--set", "inner.num_steps=20", "--set", "outer.num_steps=3", "--set", "judge.num_seeds=2"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The two files of the example, in a folder of their own, which is not the current one."""
    shutil.copytree(EXAMPLE, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """Each test as in a process of its own."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if name in ("diabetes", "beside") or name.startswith("_drmad_jax_task_"):
            del sys.modules[name]


def changed(home, old, new):
    """Changes the user's code."""
    path = home / "diabetes.py"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def run(home, *words):
    return main(["run", str(home / "diabetes.toml"), *SHORT, *words])


def test_example_has_at_most_thirty_lines():
    files = [EXAMPLE / "diabetes.py", EXAMPLE / "diabetes.toml"]
    assert sorted(path for path in EXAMPLE.iterdir() if path.is_file()) == files
    assert sum(len(path.read_text().splitlines()) for path in files) <= 30


def test_documents_print_the_example():
    page = (ROOT / "docs" / "own_problems.md").read_text()
    for path in ("diabetes.py", "diabetes.toml"):
        assert (EXAMPLE / path).read_text() in page


@pytest.mark.slow
def test_whole_way_of_a_problem_of_ones_own(home, tmp_path, capsys):
    assert run(home, "--all") == 0
    root = tmp_path / "runs" / "diabetes"
    first, other = root / "base", root / "stronger"
    for folder in (first, other):
        assert {path.name for path in folder.iterdir()} >= {"summary.json", "judge.jsonl"}
        assert all("test_mse" in line for line in without_seconds(folder))
    starts = [without_seconds(folder)[0]["outer_loss"] for folder in (first, other)]
    assert starts[0] != starts[1]
    with np.load(first / "hparams.npz") as archive:
        assert archive["hparams"].shape == (10,)
    assert 'sha256 = "' in (first / "config.toml").read_text()
    capsys.readouterr()
    assert run(home, "--all", "--resume") == 0
    assert capsys.readouterr().out.count("had ended") == 2
    words = ["compare", str(home / "diabetes.toml"), "--methods", "one_step", "--seeds", "2"]
    assert main([*words, "--set", "inner.num_steps=20"]) == 0
    # Whoever draws and reports needs the records alone.
    shutil.rmtree(home)
    shutil.rmtree(first / "figures")
    assert main(["plot", str(first)]) == 0
    assert {path.name for path in (first / "figures").glob("*.png")} == {
        "curves.png", "hyperparameters.png",
    }  # fmt: skip
    assert main(["plot", str(tmp_path / "runs" / "diabetes-compare")]) == 0
    assert main(["report", str(root)]) == 0
    page = (root / "report.html").read_text()
    assert "diabetes.py:make_task" in page and "test mse" in page and "stronger" in page


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(home, tmp_path):
    text = (home / "diabetes.toml").read_text().replace("num_seeds = 8", "num_seeds = 2")
    (home / "diabetes.toml").write_text(text.replace("num_steps = 30", "num_steps = 60"))
    words = ["run", str(home / "diabetes.toml"), "--out"]
    start_and_kill(home / "diabetes.toml", tmp_path / "killed", 0.0, 5)
    assert 5 <= len(without_seconds(tmp_path / "killed")) < 60
    assert main([*words, str(tmp_path / "killed"), "--resume"]) == 0
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_resuming_with_other_code_is_refused_by_name(home, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(home, "--out", str(folder)) == 0
    before = outcome(folder)
    changed(home, "jnp.zeros(10)", "jnp.ones(10)")
    assert run(home, "--out", str(folder), "--resume") == 2
    said = capsys.readouterr().err
    assert "the code of task.module has changed (task.sha256: " in said
    assert outcome(folder) == before


def test_every_run_draws_anew_and_holds_out_what_it_does_not_train_on(home):
    text = (home / "diabetes.py").read_text()
    text = text.replace("lambda key: jnp.zeros(10)", "lambda key: jax.random.normal(key, (10,))")
    (home / "diabetes.py").write_text(text.replace("import jax.", "import jax, jax.", 1))
    task = make_task(configs.load(home / "diabetes.toml", ["inner.batch_size=5"], runs_code=True))
    data = task.load_data()
    runs = [task.sample(jax.random.key(number), data) for number in (0, 0, 1)]
    for part in (lambda run: run.params, lambda run: run.outer_batch[0], lambda run: run.key):
        found = [np.asarray(jax.random.key_data(x) if part(runs[0]) is runs[0].key else x)
                 for x in map(part, runs)]  # fmt: skip
        assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    batches = [np.asarray(run.inner_batches(3)[1]) for run in runs]
    assert batches[0].shape == (5,)
    assert np.array_equal(batches[0], batches[1]) and not np.array_equal(batches[0], batches[2])
    held_out = {row.tobytes() for row in np.asarray(runs[0].outer_batch[0])}
    trained = {row.tobytes() for row in np.asarray(runs[0].inner_batches.data[0])}
    assert held_out | trained == {row.tobytes() for row in np.asarray(data["train"][0])}
    assert len(held_out) == len(trained) == 150


WRONG_CODE = {
    "shape": ("jnp.zeros(10)", "jnp.zeros(9)", r"diabetes\.py, line 13: TypeError: dot_general"),
    "name": ("jnp.exp(h)", "jnp.exp(hh)", r"diabetes\.py, line 14: NameError: name 'hh'"),
    "keyword": ("num_valid=", "num_vald=", r"diabetes\.py, line 15, in make_task: TypeError: Own"),
    "import": ("import jax.numpy as jnp", "import jaxx", r"line 3: ModuleNotFoundError: No module"),
    "exit": ("\n\ndef make", "\nraise SystemExit(0)\ndef make", r"line 10: SystemExit: 0"),
    "syntax": ("def make_task(", "def make_task((", r"diabetes\.py, line 11: SyntaxError: "),
    "vector": ("batch: jnp.mean(", "batch: abs(", r"cannot be run with diabetes\.py:make_task"),
    "return": ("return OwnTask(", "return dict(", r"make_task of diabetes\.py must return a .*own"),
    "metric": ("{\"test_mse\": loss(w, h, test)}", "{\"test_mse\": w}", r"must return scalars"),
    "taken": ("\"test_mse\"", "\"outer_loss\"", r"must not be called 'outer_loss'"),
    "nothing": ("(given, *, log_l2=0.0)", "(*, log_l2=0.0)", r"must take what is given as"),
    "needed": ("log_l2=0.0):", "log_l2=0.0, width):", r"task\.width: missing; make_task of diab"),
    "no_optimizer": ("given.optimizer", "None", r"Problem: `optimizer` must be"),
    "unused": ("given.optimizer", "__import__('optax').sgd(0.1)", r"inner\.optimizer: make_task"),
    "valid": ("num_valid=150", "num_valid=300", r"`num_valid` must leave training examples of 300"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "message"), WRONG_CODE.values(), ids=WRONG_CODE)
def test_what_is_wrong_with_the_users_code_is_told_by_file_and_line(
    home, tmp_path, capsys, old, new, message
):
    changed(home, old, new)
    assert run(home, "--out", str(tmp_path / "run")) == 2
    said = capsys.readouterr().err.partition("error: ")[2]
    assert re.search(message, said.splitlines()[0]), said
    assert "drmad_jax/experiments/" not in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_users_part_of_the_traceback_is_told(home, capsys):
    changed(home, "jnp.exp(h)", "jnp.exp(hh)")
    assert run(home) == 2
    frame = f'  File "{home / "diabetes.py"}", line 14, in <lambda>\n    penalised = lambda'
    assert frame in capsys.readouterr().err


@pytest.mark.slow
def test_an_error_in_a_function_that_compiled_code_calls_is_told_likewise(home, capsys):
    text = (home / "diabetes.py").read_text()
    text = text.replace("lambda key: jnp.zeros(10)", "drawn")
    text = text.replace("import jax.", "import jax, jax.", 1)
    text = text.replace(
        "\n\ndef make_task",
        "\ndef fail(key):\n    raise OSError('the disk is full')\n\n"
        "def drawn(key):\n"
        "    like = jax.ShapeDtypeStruct((10,), 'float32')\n"
        "    return jax.pure_callback(fail, like, jax.random.key_data(key))\n\n"
        "def make_task",
    )
    (home / "diabetes.py").write_text(text)
    assert run(home) == 2
    said = capsys.readouterr().err.partition("error: ")[2]
    assert re.match(r"task\.module: .*diabetes\.py, line 11, in fail: .*the disk is full", said)


WRONG_CONFIG = {
    "task.log_l3=1.0": r"task\.log_l3: make_task of diabetes\.py has no such argument; did you",
    "task.module=diabetes.py:made": r"diabetes\.py has no function 'made'; it has make_task",
    "task.module=diabets.py:make_task": r"task\.module: cannot read .*diabets\.py: No such file",
    "task.module=diabetes.py": r"task\.module: expected \"my_task\.py:make_task\"",
    "task.module=nowhere_at_all:make": r"there is no module 'nowhere_at_all' to import",
    "task.module=no.where:make": r"cannot find the module 'no\.where'",
    "task.log_l2=nan": r"task\.log_l2: expected plain values, of finite numbers",
    "task.sha256=0": r"task\.sha256: stands in the record of a run",
    "task.kind=l2": r"task\.module: unknown key",
    "model.hidden=[3]": r"model\.hidden: unknown key: a problem of your own",
    "data.file=x.npz": r"data: make_task of diabetes\.py does not ask for it",
    "data.dataset=digits": r"data\.num_train: missing",
    "inner.batch_size=151": r"inner\.batch_size: must not exceed the 150 training examples",
    "inner.num_steps=0": r"inner\.num_steps: expected a value above 0",
}


@pytest.mark.slow
@pytest.mark.parametrize(("override", "message"), WRONG_CONFIG.items())
def test_what_is_wrong_with_the_config_is_told_by_key(home, tmp_path, capsys, override, message):
    override = override.replace("sha256=0", "sha256='0'")
    assert run(home, "--out", str(tmp_path / "run"), "--set", override) == 2
    said = capsys.readouterr().err.partition("error: ")[2]
    assert re.search(message, said), said
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trap(home, tmp_path, capsys):
    """A run folder as it comes from somebody else, whose code leaves a file where it is run."""
    sprung = tmp_path / "sprung"
    folder = tmp_path / "foreign"
    assert run(home, "--out", str(folder)) == 0
    capsys.readouterr()
    code = f"from pathlib import Path\nPath({str(sprung)!r}).touch()\n"
    (folder / "diabetes.py").write_text(code)
    (folder / "diabetes").mkdir()
    (folder / "diabetes" / "__init__.py").write_text(code)
    shutil.rmtree(folder / "figures")
    return folder, sprung


@pytest.mark.slow
def test_code_in_a_run_folder_is_never_run(home, trap, capsys, monkeypatch):
    folder, sprung = trap
    config = folder / "config.toml"
    first = config.read_text()
    monkeypatch.chdir(folder)
    for module in ("diabetes.py", "diabetes", f"{folder}/diabetes.py"):
        text = re.sub(r'module = ".*"', f'module = "{module}:make_task"', first)
        for record in (text, re.sub(r'sha256 = ".*"\n', "", text)):
            config.write_text(record)
            assert main(["plot", str(folder)]) == 0
            assert main(["report", str(folder)]) == 0
            new = ["--out", str(folder.parent / "new")]
            again = ["--out", str(folder), "--resume"]
            for command, more in (("run", again), ("run", new), ("compare", new)):
                assert main([command, str(config), *more]) == 2
                said = capsys.readouterr().err
                assert "the record of a run" in said or "lies in a run folder" in said
            # By its owner, who gives the code: what ended is left alone, or is another run.
            is_same = record == first
            assert run(home, "--out", str(folder), "--resume") == (0 if is_same else 2)
            with pytest.raises(ConfigError, match="runs only for a config that is given"):
                make_task(configs.load(config))
    (folder / "metrics.jsonl").unlink()
    assert main(["plot", str(folder)]) == 2
    # The record alone is one as well.
    (folder.parent / "alone.toml").write_text(
        first.replace('"diabetes.py', f'"{folder}/diabetes.py')
    )
    assert main(["run", str(folder.parent / "alone.toml")]) == 2
    assert "task.sha256: stands in the record of a run" in capsys.readouterr().err
    assert not sprung.exists()


@pytest.mark.slow
def test_the_trap_springs_where_it_is_asked_to(trap):
    """Else the test above would show nothing."""
    folder, sprung = trap
    (folder.parent / "given.toml").write_text(
        re.sub(r'sha256 = ".*"\n', "", (folder / "config.toml").read_text()).replace(
            'module = "', f'module = "{folder}/'
        )
    )
    assert main(["run", str(folder.parent / "given.toml")]) == 2
    assert sprung.exists()


@pytest.mark.slow
def test_modules_beside_the_file_and_installed_ones_can_be_named(home, tmp_path, monkeypatch):
    changed(home, "def make_task(given", "def make(given")
    (home / "beside.py").write_text("from diabetes import make as made\n")
    (home / "more.py").write_text("import beside\nmake_task = beside.made\n")
    words = ["--set", "task.module=more.py:make_task"]
    assert run(home, "--out", str(tmp_path / "one"), *words) == 0
    monkeypatch.syspath_prepend(str(home))
    words = ["--set", "task.module=diabetes:make"]
    assert run(home, "--out", str(tmp_path / "two"), *words) == 0
    assert without_seconds(tmp_path / "one") == without_seconds(tmp_path / "two")


FREE = """
import jax, jax.numpy as jnp, optax
import drmad_jax as dj
from drmad_jax.experiments.own import OwnTask

def make_task(given, **options):
    assert options == {"slopes": [1.0, 2.0], "more": {"a": 1}}, options
    loss = lambda w, h, batch, *, model_state=None: jnp.mean((w - batch) ** 2)
    def inner(w, h, batch, *, model_state=None, key=None):
        return loss(w, h, batch) + h["l2"] * w**2, model_state + 1
    draw = lambda key: jax.random.normal(key, (given.num_steps, 4)) + 1
    return OwnTask(
        problem=dj.Problem(inner, loss, lambda h: optax.sgd(h["rate"])),
        hparams={"l2": jnp.array(0.1), "rate": 0.05},
        init=lambda key: jnp.zeros(()),
        init_model_state=lambda key: jnp.zeros(()),
        train=draw,
        valid=lambda key: draw(key)[0],
        project=lambda h: jax.tree.map(lambda x: jnp.clip(x, 0.04, 1), h),
        metrics=lambda w, h, test, *, model_state: {"visits": model_state, "is_up": w > 0},
    )
"""


@pytest.mark.slow
def test_functions_as_batches_state_projection_and_any_options(tmp_path, capsys):
    """As for sinusoids drawn anew, a physics-informed network, or batches from elsewhere."""
    (tmp_path / "free.py").write_text(FREE)
    (tmp_path / "free.toml").write_text(
        'name = "free"\n'
        'task = {module = "free.py:make_task", slopes = [1.0, 2.0], more = {a = 1}}\n'
        "inner.num_steps = 7\n"
        'outer = {num_steps = 2, optimizer = {name = "sgd", learning_rate = 100.0}}\n'
        'method.name = "checkpointed"\n'
    )
    words = ["run", str(tmp_path / "free.toml"), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    lines = without_seconds(tmp_path / "run")
    assert [line["visits"] for line in lines] == [7.0] * 3
    with np.load(tmp_path / "run" / "hparams.npz") as archive:
        assert all(0.04 <= archive[name] <= 1 for name in ("l2", "rate"))
    config = configs.load(tmp_path / "run" / "config.toml")
    assert configs.to_toml(config) == (tmp_path / "run" / "config.toml").read_text()
    assert main([*words, "--resume"]) == 0
    capsys.readouterr()
    assert main([*words[:2], "--set", "inner.batch_size=3"]) == 2
    assert "returns `train` as a function" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("command", ["run", "compare", "plot", "report"])
def test_help_says_what_runs_code(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    runs = command in ("run", "compare")
    assert ("code that it names (task.module) is run" in said) == runs
    assert bool(re.search("no code in (it|them) is run", said)) != runs
