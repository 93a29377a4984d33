"""One mesh of eight simulated devices, in a process of its own: the same results as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_eight_devices_do_what_one_does():
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, HERE / "on_eight_devices.py"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) == 2 * 12
    # Fixed point differs by the rounding of a sum.
    assert {name: error for name, error in errors.items() if error > 1e-8} == {}
