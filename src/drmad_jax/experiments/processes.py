"""The processes of one run: how they meet, agree on what was computed, and end together.

All of them compute; the first one, of index 0, is the only one that writes and tells.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from drmad_jax import tree as trees
from drmad_jax.experiments.errors import ConfigError, ExperimentError, ProcessLost, RunStopped
from drmad_jax.experiments.files import say

# Seconds in which all processes must have begun, and after which a silent one counts as dead.
_PATIENCE = 300
_HEARTBEAT = 30
_WHO_WAS_LOST = (
    "another process of this run has ended or cannot be reached; what it told says why, and "
    "--resume goes on from the last finished outer step"
)
# Said by every process that sees another one end.
_CHATTER = re.compile(r"coordination_service|preemption_sync_manager")


class Place(NamedTuple):
    """Where one process stands among those of a run; `None` for what JAX finds out by itself.

    Attributes:
        coordinator: Address and port of the first process.
        num_processes: How many processes there are.
        process_id: Which of them this is.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def check(self) -> "Place":
        """Returns itself.

        Raises:
            ConfigError: If it is told by halves, or cannot be.
        """
        options = dict(zip(("--coordinator", "--num-processes", "--process-id"), self, strict=True))
        missing = [name for name, value in options.items() if value is None]
        if missing and len(missing) < len(options):
            raise ConfigError(f"{', '.join(options)} go together; missing {missing[0]}")
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                raise ConfigError(f"--coordinator: expected HOST:PORT, got {self.coordinator!r}")
        if self.num_processes is not None and self.num_processes < 1:
            raise ConfigError(f"--num-processes: expected at least 1, got {self.num_processes}")
        if self.process_id is not None and not 0 <= self.process_id < (self.num_processes or 0):
            raise ConfigError(
                f"--process-id: expected 0 to {(self.num_processes or 0) - 1} for --num-processes "
                f"{self.num_processes}, got {self.process_id}"
            )
        return self


def leads() -> bool:
    """Whether this process is the one that writes and tells; true where it is alone."""
    return jax.process_index() == 0


def from_leader(tree: PyTree) -> PyTree:
    """What the first process holds, in all of them; they wait for one another here.

    Args:
        tree: Arrays or numbers, of the same shapes and dtypes in every process.

    Returns:
        The tree of the first process; as it came where there is one process alone.

    Raises:
        ProcessLost: If another process has ended.
    """
    if jax.process_count() == 1:
        return tree
    with _told_of_loss():
        found = multihost_utils.broadcast_one_to_all(trees.with_key_data(tree))
    return trees.with_keys(jax.tree.map(jnp.asarray, found), tree)


def gathered(tree: PyTree) -> PyTree:
    """The whole of arrays that are spread over the devices of all processes, in every process.

    Args:
        tree: Global arrays.

    Returns:
        NumPy arrays.

    Raises:
        ProcessLost: If another process has ended.
    """
    jax.block_until_ready(tree)
    with _told_of_loss():
        return multihost_utils.process_allgather(tree, tiled=True)


@contextlib.contextmanager
def joined(place: Place | None) -> Iterator[None]:
    """Makes this process one of those of a run, until all of them have done what it does.

    Where one of them ends before, the others do, with a sentence and the exit code of
    `ProcessLost`; JAX alone would tell of it in a page and abort.

    Args:
        place: Where it stands; `None` for a process that is alone, or whose caller has initialised
            `jax.distributed`.

    Yields:
        Nothing, once all processes have come.

    Raises:
        ConfigError: If it is not said where it stands, and no cluster does.
    """
    is_ours = place is not None and not jax.distributed.is_initialized()
    if not is_ours and (not jax.distributed.is_initialized() or jax.process_count() == 1):
        yield
        return
    _runtime.hold(place)
    try:
        if place is not None:
            _meet(place, is_ours)
        with warnings.catch_warnings():
            if not leads():
                warnings.simplefilter("ignore")
            yield
    except RunStopped:  # Which happens in all of them.
        _part(is_ours)
        raise
    except BaseException:
        _runtime.is_apart = True
        raise
    _part(is_ours)


def end_together(command: Callable[[], int]) -> int:
    """Runs a command that may be one of several processes.

    Args:
        command: Returns its exit code; what it raises is told as Python does.

    Returns:
        The exit code, where the other processes have come to the same end. Where this one ends
        apart from them it does so here: an interpreter that ends would wait for them, as they
        wait for it.
    """
    try:
        code = command()
    except BaseException:
        if not _runtime.is_apart:
            raise
        traceback.print_exc()
        code = 1
    if _runtime.is_apart:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def _meet(place: Place, is_ours: bool) -> None:
    if is_ours:
        if place.process_id == 0:
            _check_port(place)
        try:
            # The default of late; of collectives on the CPU, it is the one that needs no MPI.
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            # It would take SIGTERM for itself, which ends a command here.
            jax.config.update("jax_enable_preemption_service", False)
            jax.distributed.initialize(
                *place, initialization_timeout=_PATIENCE, heartbeat_timeout_seconds=_HEARTBEAT
            )
        except (KeyError, RuntimeError, ValueError) as error:
            if place.coordinator is None and "should be defined" in str(error):
                raise ConfigError(
                    "--distributed: this is no job of Slurm, Open MPI or Kubernetes; say which "
                    "process it is by --coordinator HOST:PORT --num-processes N --process-id I"
                ) from error
            why = " ".join(str(error).split())
            raise ExperimentError(f"--distributed: {why}") from error
    # Each was told a number, and JAX asks no more than that so many come as the first one was told.
    met = len({device.process_index for device in jax.devices()})
    wanted = jax.process_count() if place.num_processes is None else place.num_processes
    if met != wanted:
        raise ConfigError(f"--num-processes: got {wanted}, and {met} processes have met")
    from_leader(jnp.zeros(()))  # Nobody begins before all have found that it is so.


def _check_port(place: Place) -> None:
    """Refuses a port that is taken: JAX's server has been seen to crash on one."""
    port = int(str(place.coordinator).rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(
            f"--coordinator: cannot use port {port} of this machine: {why}"
        ) from error


def _part(is_ours: bool) -> None:
    """Waits for all, so that none takes the end of another one for its death."""
    from_leader(jnp.zeros(()))
    if is_ours:
        jax.distributed.shutdown()
    _runtime.let_go()


@contextlib.contextmanager
def _told_of_loss() -> Iterator[None]:
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Where it is noticed before the computation has begun, it is the latter.
        if isinstance(error, ValueError) and "Gloo" not in str(error):
            raise
        raise ProcessLost(_WHO_WAS_LOST) from error


class _Runtime:
    """What JAX's runtime says and does on its own when a process is lost, in words of ours.

    Its threads print a page and abort; there is no exception to catch and no hook to set. So what
    it prints is held back, and a handler of SIGABRT, which may be a function of Python since no
    thread of Python's is interrupted by it, says the one sentence.
    """

    is_apart = False

    def hold(self, place: Place | None) -> None:
        """Holds back what is printed past Python, and waits for an abort."""
        self.place = place
        self.kept = tempfile.TemporaryFile()
        self.streams = sys.stdout, sys.stderr
        # Gloo tells of its connections on the former.
        sinks = open(os.devnull, "wb"), self.kept
        for number, name, sink in zip((1, 2), ("stdout", "stderr"), sinks, strict=True):
            stream = getattr(sys, name)
            stream.flush()
            # Python's own streams go on to where they went.
            again = open(os.dup(number), "w", 1, stream.encoding, stream.errors)
            os.dup2(sink.fileno(), number)
            setattr(sys, name, again)
        sinks[0].close()
        if os.name == "posix":
            self.handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
            ctypes.CDLL(None).signal(signal.SIGABRT, self.handler)

    def let_go(self) -> None:
        """Everything as it was; tells what was held back, but for what is of no use."""
        if os.name == "posix":
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
        for number, name, stream in zip((1, 2), ("stdout", "stderr"), self.streams, strict=True):
            again = getattr(sys, name)
            again.flush()
            os.dup2(again.fileno(), number)
            setattr(sys, name, stream)
            again.close()
        self.tell_rest()
        self.kept.close()

    def tell_rest(self) -> None:
        """Tells what was held back, but for what is said every time."""
        for line in self.read().splitlines():
            if not _CHATTER.search(line):
                say(line)

    def read(self) -> str:
        """All that was held back."""
        return os.pread(self.kept.fileno(), 2**20, 0).decode(errors="replace")

    def _aborted(self, number: int) -> None:
        del number
        if self.is_apart:  # The main thread is telling why, and about to end.
            time.sleep(10)
            os._exit(ProcessLost.exit_code)
        why = _why(self.read(), self.place)
        if why is None:
            self.tell_rest()
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGABRT)
            return
        # Below a progress bar, which would be drawn again below what is said above it.
        print(f"\nerror: {why}", file=sys.stderr, flush=True)
        os._exit(ProcessLost.exit_code)


_runtime = _Runtime()


def _why(text: str, place: Place | None) -> str | None:
    """Why the runtime ended the process, from what it printed; `None` if for another reason."""
    if "JAX distributed service detected fatal errors" not in text:
        return None
    if "RegisterTask" not in text or place is None:
        return _WHO_WAS_LOST
    where = place.coordinator or "the coordinator"
    if "Unexpected task" in text:
        return f"--process-id: {place.process_id} is too high for the --num-processes of {where}"
    if "DEADLINE_EXCEEDED" in text:
        many = (
            "not all processes"
            if place.num_processes is None
            else f"not all {place.num_processes} processes"
        )
        return (
            f"{many} met at {where} within {_PATIENCE} seconds; see that each was started with the "
            "same address and count and an index of its own, and that the address can be reached"
        )
    status = re.search(r"absl::Status: (.*)", text)
    return f"the processes could not meet at {where}: {status.group(1) if status else text}"
