"""`kill -9` anywhere in either direction loses at most one chunk, and changes no bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import killed_run

SCRIPT = Path(__file__).with_name("killed_run.py")


def lines_of(folder, kill_after):
    """Starts the run; kills it after so many lines; the lines that it printed."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command, lines = [sys.executable, SCRIPT, folder], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rpartition(" ")[::2])
            if len(lines) == kill_after:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    assert process.returncode == (-signal.SIGKILL if len(lines) == kill_after else 0)
    return [(phase, int(done)) for phase, done in lines]


@pytest.mark.slow
def test_killed_five_times_in_each_direction(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    told = lines_of(whole, None)
    there = sum(phase == "training" for phase, _ in told)
    back = len(told) - there
    assert there == killed_run.NUM_STEPS // killed_run.CHUNK and back >= 8
    # Of chunks done since it was started again.
    plan = [1, 4, 6, 2, 5, *[there - 18 + 1], *[1] * 4]
    came = []
    for count in plan:
        came.append(lines_of(cut, count))
    came.append(lines_of(cut, None))
    lasts = [lines[-1][0] for lines in came[:-1]]
    assert lasts.count("training") == 5 and lasts.count("way back") == 5
    for before, after in zip(came, came[1:], strict=False):
        # The chunk after the last one that was told; or the one after that, which was saved.
        at = told.index(before[-1])
        assert after[0] in told[at + 1 : at + 3]
    with np.load(whole / "out.npz") as a, np.load(cut / "out.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
