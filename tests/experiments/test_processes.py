"""Several processes make one run, the same as one does; they begin and end together."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny import TINY, VARIANTS, without_seconds

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.processes import Place

JUDGED = TINY | {"judge": {"num_seeds": 3}, "method": {"name": "one_step"}}
LONG = JUDGED | {"outer": TINY["outer"] | {"num_steps": 300}}
# As `drmad-jax` does, but less patient with a process that does not come, or says nothing.
COMMAND = """
import sys
from drmad_jax.experiments import processes
from drmad_jax.experiments.cli import main
processes._PATIENCE, processes._HEARTBEAT = 5, 8
sys.exit(main(sys.argv[1:]))
"""
# As in a program of the user's own.
INITIALISED = """
import sys, jax
address, count, index, *words = sys.argv[1:]
jax.distributed.initialize(address, int(count), int(index))
from drmad_jax.experiments.cli import main
sys.exit(main(words))
"""
LOST = (
    "error: another process of this run has ended or cannot be reached; what it told says why, "
    "and --resume goes on from the last finished outer step"
)
FOUND = ("JAX_COORDINATOR_ADDRESS", "SLURM_", "OMPI_", "KUBERNETES_")


def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def started(*commands, devices=1):
    """Processes with some devices each, which do not outlive the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOUND)}
    flags = f"--xla_force_host_platform_device_count={devices}"
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    env = kept | quickly | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    found = [
        subprocess.Popen([sys.executable, "-c", *map(str, words)], env=env, **pipes)
        for words in commands
    ]
    try:
        yield found
    finally:
        for process in found:
            process.kill()
            process.communicate()


def by_hand(words, count=2, index=(0, 1), at=None):
    at = at or address()
    place = ["--distributed", "--coordinator", at, "--num-processes", count, "--process-id"]
    return [[COMMAND, *words, *place, number] for number in index]


def initialised(words):
    at = address()
    return [[INITIALISED, at, 2, number, *words] for number in (0, 1)]


def ended(*commands, devices=1):
    with started(*commands, devices=devices) as processes:
        told = [process.communicate(timeout=120) for process in processes]
        return [(process.returncode, *each) for process, each in zip(processes, told, strict=True)]


def wait_for(checkpoints, step):
    """That one, or a later one: they are quick, and the last two are kept."""
    deadline = time.monotonic() + 60
    reached = lambda: (
        checkpoints.is_dir()
        and any(path.name.isdigit() and int(path.name) >= step for path in checkpoints.iterdir())
    )
    while not reached():
        assert time.monotonic() < deadline, checkpoints
        time.sleep(0.02)


def left(folder):
    with np.load(folder / "hparams.npz") as arrays:
        hparams = {name: arrays[name].tobytes() for name in arrays}
    judged = [json.loads(line) for line in (folder / "judge.jsonl").read_text().splitlines()]
    return without_seconds(folder), hparams, [{**line, "seconds": 0} for line in judged]


def assert_same(run, another):
    assert run[:2] == another[:2]
    for line, other in zip(run[2], another[2], strict=True):
        assert line["seed"] == other["seed"]
        for when in ("before", "after"):
            # A program for several devices may be compiled in another way.
            assert line[when].keys() == other[when].keys()
            found, wanted = (np.array([*each[when].values()], float) for each in (line, other))
            np.testing.assert_allclose(found, wanted, rtol=1e-5)


def config_file(tmp_path, config, text=""):
    path = tmp_path / "tiny.toml"
    path.write_text(configs.to_toml(configs.parse(config)) + text)
    return path


@pytest.mark.slow
def test_two_processes_of_two_devices_make_one_run(tmp_path):
    path = config_file(tmp_path, JUDGED, VARIANTS)
    words = ["run", path, "--all", "--out"]
    ((code, *_),) = ended([COMMAND, *words, tmp_path / "alone"])
    assert code == 0
    first, second = ended(*by_hand([*words, tmp_path / "both"]), devices=2)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert second[1:] == ("", "")
    assert "2 processes with 4 devices: each process computes every outer step" in first[2]
    assert "[Gloo]" not in first[1] and "tiny/diverging: the outer loss is nan" in first[1]
    for name in ("base", "diverging", "untuned"):
        assert_same(left(tmp_path / "both" / name), left(tmp_path / "alone" / name))
        files = [
            {str(file.relative_to(tmp_path / run)) for file in (tmp_path / run / name).rglob("*")}
            for run in ("both", "alone")
        ]
        assert files[0] == files[1]


@pytest.mark.slow
def test_killed_process_ends_the_other_and_any_number_goes_on(tmp_path):
    path = config_file(tmp_path, LONG)
    words = ["run", path, "--out"]
    assert ended([COMMAND, *words, tmp_path / "whole"])[0][0] == 0
    words = [*words, tmp_path / "run", "--resume"]
    checkpoints = tmp_path / "run" / "checkpoints"
    for step, killed, commands in (
        (5, 1, by_hand(words)),
        (10, 0, [[COMMAND, *words]]),
    ):
        with started(*commands) as processes:
            wait_for(checkpoints, step)
            processes[killed].kill()
            others = [each for each in processes if each is not processes[killed]]
            for other in others:
                _, told = other.communicate(timeout=60)
                assert other.returncode == 3, told
                assert told.rstrip().splitlines()[-1] == LOST
        assert not (tmp_path / "run" / "summary.json").exists()
    first, second = ended(*initialised(words))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert_same(left(tmp_path / "run"), left(tmp_path / "whole"))


@pytest.mark.slow
def test_silent_process_counts_as_dead(tmp_path):
    commands = by_hand(["run", config_file(tmp_path, LONG), "--out", tmp_path / "run"])
    with started(*commands) as processes:
        wait_for(tmp_path / "run" / "checkpoints", 3)
        processes[0].send_signal(signal.SIGSTOP)
        _, told = processes[1].communicate(timeout=40)
        assert processes[1].returncode == 3
        assert told.rstrip().splitlines()[-1] == LOST and "absl" not in told


@pytest.mark.slow
def test_what_one_process_is_told_to_do_wrongly_ends_all(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    words = ["run", config_file(tmp_path, TINY), "--out", tmp_path / "run"]
    first, second = ended(*by_hand(words))
    assert first[0] == 2 and "is not empty" in first[2]
    assert second[0] == 3 and second[2].strip() == LOST


@pytest.mark.slow
def test_processes_that_do_not_meet_are_told_why(tmp_path):
    words = ["run", config_file(tmp_path, TINY), "--out", tmp_path / "run"]
    at = address()
    ((code, _, told),) = ended([COMMAND, *words, "--distributed"])
    assert code == 2 and told.count("\n") == 1
    assert "--distributed: this is no job of Slurm, Open MPI or Kubernetes" in told
    ((code, _, told),) = ended(*by_hand(words, index=[1], at=at))
    assert code == 3 and told.strip().count("\n") == 0
    assert f"error: not all 2 processes met at {at} within 5 seconds" in told
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        ((code, _, told),) = ended(*by_hand(words, index=[0], at=f"127.0.0.1:{port}"))
        assert code == 2 and f"error: --coordinator: cannot use port {port}" in told
    at = address()
    two, three = by_hand(words, 2, [0], at), by_hand(words, 3, [1], at)
    (code, _, _), (other, _, told) = ended(*two, *three)
    assert (code, other) == (3, 2)
    assert told == "error: --num-processes: got 3, and 2 processes have met\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (("a:1", 2, None), "missing --process-id"),
        ((None, 2, 0), "missing --coordinator"),
        (("a", 2, 0), "--coordinator: expected HOST:PORT, got 'a'"),
        (("a:70000", 2, 0), "--coordinator: expected HOST:PORT"),
        (("a:1", 0, 0), "--num-processes: expected at least 1, got 0"),
        (("a:1", 2, 2), "--process-id: expected 0 to 1 for --num-processes 2, got 2"),
    ],
)
def test_place_is_told_whole(place, why):
    with pytest.raises(ConfigError, match=why):
        Place(*place).check()


def test_place_that_is_said_or_found():
    assert Place("a:1", 2, 1).check() == ("a:1", 2, 1)
    assert Place().check() == (None, None, None)
