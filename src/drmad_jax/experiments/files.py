"""All writing of files: whole or not there, whenever the process is killed; one writer a folder.

A file is written beside its place, under a name that is always the same, and renamed: what a killed
process leaves there is taken up by the next one that writes the file.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from drmad_jax.experiments.errors import RunFolderError

try:
    import fcntl
except ImportError:  # Not a POSIX system: there, nothing keeps two runs apart.
    fcntl = None

LOCK = ".lock"
# A job that is started anew waits so long for the one before to end.
_PATIENCE = 10.0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for the same out of a folder; waits for them a while.

    The lock is the kernel's, and vanishes with the process, however that ends.

    Args:
        folder: A folder, which must exist.

    Yields:
        Nothing, once the folder is this process's own.

    Raises:
        RunFolderError: If another process is at work in it for longer than ten seconds.
    """
    path, deadline = folder / LOCK, time.monotonic() + _PATIENCE
    lock = _try_lock(path)
    if lock is None:
        say(f"waiting for another process to leave {folder}")
    while lock is None:
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"{folder} is in use by another process; wait for its end, or choose another "
                "folder with --out"
            )
        time.sleep(0.05)
        lock = _try_lock(path)
    try:
        yield
    finally:
        try:
            # Whoever waits for it sees that it is gone, and makes another one.
            with contextlib.suppress(OSError):
                path.unlink()
        finally:
            os.close(lock)


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes beside the file and renames, so that no reader ever sees half of it.

    Args:
        path: The file; its folder must exist. An existing file is replaced.
        write: Gets the open binary file.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    temporary = _beside(path)
    with _named(path):
        try:
            with open(temporary, "wb") as file:
                write(file)
                _sync(file)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8.

    Args:
        path: The file; its folder must exist.
        text: Its whole contents.
    """
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically.

    Args:
        path: The file; its folder must exist.
        value: Nested plain values.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes NumPy's archive of arrays atomically; each part of it has a check sum.

    Args:
        path: The file; its folder must exist.
        arrays: Arrays by name.
    """
    write_atomically(path, lambda file: np.savez(file, **arrays))  # pyright: ignore


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads all of NumPy's archive of arrays.

    Args:
        path: The file.

    Returns:
        Arrays by name.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is damaged, or something else.
    """
    # In memory, since NumPy leaves the file of a damaged archive open.
    data = io.BytesIO(path.read_bytes())
    try:
        with np.load(data, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # What damage makes NumPy and zipfile raise has no one name.
        raise ValueError(f"it is no whole archive of arrays ({error})") from error


def write_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Fills a folder beside its place and renames it: it is there with all its files or not at all.

    Args:
        path: The folder; the one that it is in must exist. An existing one is replaced.
        write: Gets the folder to be filled.
    """
    temporary = _beside(path)
    with _named(path):
        remove(temporary)
        temporary.mkdir()
        write(temporary)
        remove(path)
        os.replace(temporary, path)
    _sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a text file; it is on the disk when this returns.

    Args:
        path: The file, made if it is not there.
        line: Text without its end.
    """
    with _named(path), open(path, "ab") as file:
        file.write(line.encode() + b"\n")
        _sync(file)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it; one that is not there is no error.

    Args:
        path: The file or folder.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Removes what killed processes left of files that they did not come to rename.

    Args:
        folder: A folder of this package's own, locked.
    """
    for path in folder.glob(".*.tmp"):
        remove(path)


def cache_dir() -> Path:
    """The folder of what can be made again: drmad_jax in XDG_CACHE_HOME, or in ~/.cache."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # This user has no home.
        root = Path(tempfile.gettempdir())
    return root / "drmad_jax"


def say(text: str) -> None:
    """Tells something on standard error, above a progress bar if there is one.

    Args:
        text: One line.
    """
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _try_lock(path: Path) -> int | None:
    """The open lock file; `None` if another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(file).st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(file)
        error.filename = error.filename or str(path)
        raise
    os.close(file)
    return None


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What goes wrong in an open file, such as a full disk, does not say in which."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a loss of power, where folders can be opened for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
