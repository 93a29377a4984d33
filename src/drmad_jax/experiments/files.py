"""Files that are either whole or not there, whenever the process is killed; the cache's place."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes beside the file and renames, so that no reader ever sees half of it.

    Args:
        path: The file; its folder must exist. An existing file is replaced.
        write: Gets the open binary file.
    """
    # The process number keeps two runs that fill the same cache apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def cache_dir() -> Path:
    """The folder of what can be made again: drmad_jax in XDG_CACHE_HOME, or in ~/.cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "drmad_jax"
