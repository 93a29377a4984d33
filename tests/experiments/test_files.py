import signal
import subprocess
import sys

import pytest

from drmad_jax.experiments import files
from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.files import locked, write_folder, write_text

HOLD = """
import sys, time
from pathlib import Path
from drmad_jax.experiments.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process at work in the folder, until its input ends."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_folder_in_use_is_refused_by_name(tmp_path, holder, monkeypatch, capsys):
    monkeypatch.setattr(files, "_PATIENCE", 0.2)
    with pytest.raises(RunFolderError, match="is in use by another process; wait.* --out"):
        with locked(tmp_path):
            pass
    assert capsys.readouterr().err == f"waiting for another process to leave {tmp_path}\n"


@pytest.mark.parametrize("end", [lambda process: process.stdin.close(), lambda p: p.kill()])
def test_who_waits_gets_in_when_the_other_ends_or_is_killed(tmp_path, holder, end):
    end(holder)
    with locked(tmp_path):
        assert holder.wait() in (0, -signal.SIGKILL)
        # Whoever holds it, others cannot.
        assert files._try_lock(tmp_path / files.LOCK) is None
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_taken_away_is_not_taken_for_one(tmp_path, monkeypatch):
    """Between the opening of the file and its locking the holder before may remove it."""
    flock = files.fcntl.flock

    def remove_and_lock(file, how):
        (tmp_path / files.LOCK).unlink()
        monkeypatch.setattr(files.fcntl, "flock", flock)
        flock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", remove_and_lock)
    assert files._try_lock(tmp_path / files.LOCK) is None
    with locked(tmp_path):
        assert (tmp_path / files.LOCK).exists()


def test_what_a_killed_process_left_is_taken_up(tmp_path):
    (tmp_path / ".a.txt.tmp").write_text("half")
    (tmp_path / ".b.tmp").mkdir()
    (tmp_path / ".b.tmp" / "old").write_text("half")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "older").write_text("before")
    write_text(tmp_path / "a.txt", "whole")
    write_folder(tmp_path / "b", lambda folder: write_text(folder / "new", "whole"))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"a.txt", "b", "b/new"}


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_atomically(path, fail)
    assert caught.value.filename == str(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
