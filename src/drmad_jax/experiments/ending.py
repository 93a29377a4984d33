"""How a command ends: its exit code, and what is told when it could not do all that was asked."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from drmad_jax.experiments.errors import ExperimentError

# Modules of the extra, which may be missing; anything else that is missing is a bug.
_EXTRA = {
    "array_record", "flax", "jinja2", "matplotlib", "PIL", "pydantic", "scipy", "sklearn",
    "tensorflow_datasets", "tomli_w", "tqdm",
}  # fmt: skip
# How a cluster takes a job off a machine, and a terminal that is closed what runs in it.
_SIGNALS = ("SIGTERM", "SIGHUP")
_HOW_TO_GO_ON = "--resume goes on from the last finished outer step"


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by a signal that is handled as Ctrl-C is."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def run_to_exit_code(command: Callable[[], Any], *, can_resume: bool) -> int:
    """Runs a command to its end, whichever that is.

    Args:
        command: What is to be done.
        can_resume: Whether `--resume` goes on with it.

    Returns:
        0 if all was done and told; 1 for what failed, 2 for what was asked for wrongly, 128 and the
        signal's number for what was interrupted, each told in one sentence on standard error.
    """
    hint = f"; {_HOW_TO_GO_ON}" if can_resume else ""
    try:
        _check_streams()
        with _signals():
            command()
            sys.stdout.flush()
    except ExperimentError as error:
        return _tell(f"error: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        return _tell(
            f"error: this command needs the package {error.name}, which is not installed:\n"
            '    pip install "drmad_jax[experiments]"'
        )
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT
        return _tell(f"\ninterrupted{hint}", 128 + number)
    except BrokenPipeError:
        _drop_output()
        return _tell(f"error: the output was closed before all was told{hint}")
    except MemoryError as error:
        return _tell(f"error: out of memory: {error}")
    except OSError as error:
        where = "" if error.filename is None else f" {os.fsdecode(error.filename)}"
        return _tell(f"error: cannot read or write{where}: {error.strerror or error}{hint}")
    return 0


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Makes the signals raise `Terminated`, but for those that are handled or ignored (`nohup`)."""

    def stop(number: int, frame: Any) -> None:
        raise Terminated(number)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    # The main thread alone may say what becomes of a signal.
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _check_streams() -> None:
    """A file opened later would take the number of a closed stream, and what is told to it."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
        raise ExperimentError("standard output is closed; open it, or send it to /dev/null")


def _tell(text: str, exit_code: int = 1) -> int:
    """Tells why on standard error, without what would move a terminal's cursor."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    # There is nobody to be told where that is closed, too; the exit code says it.
    with contextlib.suppress(OSError):
        print(shown, file=sys.stderr, flush=True)
    return exit_code


def _drop_output() -> None:
    """What is still to be written would fail again when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
