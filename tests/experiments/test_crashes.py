"""A run that ends at any event of its files goes on, and leaves what one left alone does."""

import errno
import signal
import subprocess
import sys

import file_events
import pytest
from file_events import Killed, failing_at
from tiny import TINY, outcome

from drmad_jax.experiments import config as configs
from drmad_jax.experiments import files
from drmad_jax.experiments.cli import main
from drmad_jax.experiments.runs import draw as drawing
from drmad_jax.experiments.runs.loop import run

pytestmark = pytest.mark.usefixtures("compiled_once")
CONFIG = configs.parse(
    TINY | {"outer": TINY["outer"] | {"num_steps": 2}, "judge": {"num_seeds": 2}}
)


def full():
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def uninterrupted(compiled_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    with failing_at(0, folder, Killed(), is_dead=True) as events:
        run(CONFIG, folder, progress=False)
    assert len(events) > 30
    return outcome(folder), len(events)


def crash(number, folder, error, *, is_dead):
    try:
        with failing_at(number, folder, error, is_dead=is_dead):
            run(CONFIG, folder, resume=True, progress=False)
    except type(error):
        return True
    return False


def test_killed_at_every_event(uninterrupted, tmp_path):
    expected, count = uninterrupted
    for number in range(1, count + 1):
        folder = tmp_path / str(number)
        assert crash(number, folder, Killed(), is_dead=True)
        run(CONFIG, folder, resume=True, progress=False)
        assert outcome(folder) == expected, f"killed at event {number} of {count}"


def test_killed_again_and_again(uninterrupted, tmp_path):
    expected, count = uninterrupted
    for each in (18, 19, 20):
        folder, times = tmp_path / str(each), 0
        while crash(each + times % 9, folder, Killed(), is_dead=True):
            times += 1
            assert times < count
        assert outcome(folder) == expected and times > 1


def test_no_space_at_every_event(uninterrupted, tmp_path):
    expected, count = uninterrupted
    for number in range(1, count + 1, 2):
        folder = tmp_path / str(number)
        if crash(number, folder, full(), is_dead=False):
            run(CONFIG, folder, resume=True, progress=False)
        else:
            # All that had to be written was; the lock's file may be left.
            (folder / files.LOCK).unlink(missing_ok=True)
        assert outcome(folder) == expected, f"refused at event {number} of {count}"


def test_no_space_is_one_sentence(tmp_path, capsys):
    path, folder = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(configs.to_toml(CONFIG))
    with failing_at(15, folder, full(), is_dead=True):
        assert main(["run", str(path), "--out", str(folder)]) == 1
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith(f"error: cannot read or write {folder}")
    assert told.endswith(
        "No space left on device; --resume goes on from the last finished outer step\n"
    )


def test_figures_killed_at_every_event(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_of_run", lambda folder: {"a": b"first", "b": b"second"})
    monkeypatch.setattr(drawing, "png", lambda figure: figure)
    monkeypatch.setattr(drawing, "is_png", lambda path: path.exists())
    (tmp_path / "run").mkdir()
    with failing_at(0, tmp_path / "run", Killed(), is_dead=True) as events:
        drawing.draw(tmp_path / "run")
    assert len(events) > 8 and drawing.is_drawn(tmp_path / "run")
    for number in range(1, len(events) + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(Killed), failing_at(number, folder, Killed(), is_dead=True):
            drawing.draw(folder)
        is_drawn = drawing.is_drawn(folder)
        found = {path.name: path.read_bytes() for path in (folder).glob("figures/*")}
        assert {"a.png", "b.png"} <= set(found) or not is_drawn
        assert {found.get("a.png"), found.get("b.png")} <= {b"first", b"second", None}
        drawing.draw(folder)
        assert {path.name for path in folder.glob("figures/*")} == {"a.png", "b.png", ".drawn"}


@pytest.mark.slow
def test_killed_by_the_system(uninterrupted, tmp_path):
    """The same from outside, figures and all: `--all --resume` ends what a kill began."""
    path = tmp_path / "tiny.toml"
    path.write_text(configs.to_toml(CONFIG))

    def execute(number, folder):
        words = ["run", str(path), "--all", "--resume", "--out", str(folder)]
        command = [sys.executable, file_events.__file__, str(number), str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = execute(0, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    count = int(whole.stdout.split()[-1])
    everything = outcome(tmp_path / "whole" / "base")
    assert everything[1:4] == uninterrupted[0][1:4]
    for number in range(1, count + 1, 5):
        folder = tmp_path / str(number)
        assert execute(number, folder).returncode == -signal.SIGKILL
        assert execute(0, folder).returncode == 0
        # Killed while it let go of the figures; nothing more was to be done.
        (folder / "base" / "figures" / files.LOCK).unlink(missing_ok=True)
        assert outcome(folder / "base") == everything, f"killed at event {number} of {count}"
