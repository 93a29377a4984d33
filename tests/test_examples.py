import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples"
# Of docs/scale.md; the others leave a picture each.
LONG_RUN, LANGUAGE_MODEL = FOLDER / "long_run.py", FOLDER / "language_model.py"
AT_SCALE = LONG_RUN, LANGUAGE_MODEL
EXAMPLES = sorted(set(FOLDER.glob("*.py")) - set(AT_SCALE))


@pytest.mark.parametrize("path", [*EXAMPLES, *AT_SCALE], ids=lambda path: path.stem)
def test_examples_are_short(path):
    lines = path.read_text().splitlines()
    assert len(lines) < (80 if path in AT_SCALE else 60)
    assert lines[0].startswith('"""')


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run_as_they_stand_and_leave_a_picture(path, tmp_path):
    environment = os.environ | {"MPLBACKEND": "agg"}
    subprocess.run([sys.executable, path], cwd=tmp_path, env=environment, check=True)
    pictures = list(tmp_path.glob("*.png"))
    assert pictures
    assert all(picture.stat().st_size > 5000 for picture in pictures)


def long_run(folder, *options, kill_at=None):
    """Runs the example, and kills it once it has said a line; how it ended."""
    command = [sys.executable, LONG_RUN, "--folder", folder, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if kill_at is not None and line.startswith(kill_at):
                process.kill()
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize(("source", "store"), [("stream", "npz"), ("host", "orbax")])
def test_a_long_run_that_is_killed_goes_on(tmp_path, source, store):
    options = "--source", source, "--store", store
    for kill_at in ("training: 300 ", "training: 750 ", "way back: "):
        assert long_run(tmp_path / "killed", *options, kill_at=kill_at) == -signal.SIGKILL
    for name in ("killed", "whole"):
        assert long_run(tmp_path / name, *options) == 0
    found, wanted = (np.load(tmp_path / n / "hypergradient.npz") for n in ("killed", "whole"))
    assert {name: x.tobytes() for name, x in found.items()} == {
        name: x.tobytes() for name, x in wanted.items()
    }
    assert np.all(np.isfinite([wanted["value"], wanted["in"], wanted["out"]]))


def said(*options):
    command = [sys.executable, LANGUAGE_MODEL, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_language_model_runs_at_a_tiny_size():
    done = said("--tiny")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("finite True") == 2


@pytest.mark.slow
def test_the_language_model_compiles_at_its_size():
    """And is held as often as the page says a large state is."""
    done = said("--compile-only")
    weights, size, states = done.stderr.split("weights: ")[0], *done.stderr.split()[2:5:2]
    assert 95e6 < int(weights.replace(",", "")) < 100e6 and float(size) < 13
    assert float(states) < 12
