"""Ends a process, or a call, at the n-th thing it does to files under a folder.

As a program: `python file_events.py N FOLDER WORDS…` runs `drmad-jax WORDS…` and kills it there.
"""

import contextlib
import os
import signal
import sys

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_folder, _on_event = None, None


class Killed(BaseException):
    """What nobody catches."""


def _hook(event, arguments):
    if _folder is None or event not in _CHANGES | {"open"}:
        return
    path, *more = arguments
    if not isinstance(path, str | bytes | os.PathLike):
        return
    if event == "open" and not more[1] & _WRITING:
        return
    path = os.fsdecode(path)
    if event in ("os.remove", "os.rmdir") and more[0] != -1:
        # As `shutil.rmtree` does it, in an open folder.
        path = os.path.join(os.readlink(f"/proc/self/fd/{more[0]}"), path)
    if os.path.abspath(path).startswith(_folder):
        _on_event(path)


def _torn_fsync(file):
    """Of what is not on the disk yet, a loss of power takes the second half."""
    path = os.readlink(f"/proc/self/fd/{file}")
    if _folder is not None and path.startswith(_folder) and os.path.isfile(path):
        size = os.fstat(file).st_size
        _on_event(None, lambda: os.ftruncate(file, size // 2))
    _fsync(file)


def _watch(folder, on_event):
    global _folder, _on_event
    _folder, _on_event = folder and os.path.abspath(folder), on_event


# It stays for as long as the process does.
sys.addaudithook(_hook)
_fsync, os.fsync = os.fsync, _torn_fsync


@contextlib.contextmanager
def failing_at(number, folder, error, *, is_dead):
    """Raises an error at an event, and at all later ones if the process is to be dead then.

    Yields the list of events.
    """
    seen = []

    def on_event(path, tear=lambda: None):
        seen.append(path)
        # The system names the file, but for one that is open.
        error.filename = path
        if len(seen) == number:
            tear()
        if len(seen) == number or is_dead and len(seen) > number > 0:
            raise error

    _watch(folder, on_event)
    try:
        yield seen
    finally:
        _watch(None, None)


if __name__ == "__main__":
    from drmad_jax.experiments.cli import main

    left = int(sys.argv[1])

    def kill_at_last(path, tear=lambda: None):
        global left
        left -= 1
        if left == 0:
            tear()
            os.kill(os.getpid(), signal.SIGKILL)

    _watch(sys.argv[2], kill_at_last)
    code = main(sys.argv[3:])
    print("events", int(sys.argv[1]) - left)
    sys.exit(code)
