"""Eight simulated devices, in a process of their own: as on one, and no more work or talk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def found(check):
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, HERE / "on_eight_devices.py", check],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("check", "count"), [("methods", 24), ("three_axes", 6)])
def test_eight_devices_do_what_one_does(check, count):
    errors = found(check)
    assert len(errors) == count
    # Fixed point differs by the rounding of a sum.
    assert {name: error for name, error in errors.items() if error > 1e-8} == {}


@pytest.mark.slow
def test_each_device_computes_its_own_rows_and_populations_need_no_word():
    programs = found("programs")
    assert len(programs) == 10
    for name, (rows, collectives) in programs.items():
        if name.startswith("population"):
            assert (rows, collectives) == ([8 * 11, 8 * 13], []), name
        else:
            assert rows == [11, 13], name
            assert set(collectives) <= {"all-gather", "all-reduce", "reduce-scatter"}, name
