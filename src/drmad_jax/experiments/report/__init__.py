"""`drmad-jax report`: run folders as one HTML page to read, print and paste from."""

from collections.abc import Sequence
from pathlib import Path

from drmad_jax.experiments.errors import RunFolderError
from drmad_jax.experiments.files import write_text
from drmad_jax.experiments.report.page import page
from drmad_jax.experiments.report.runs import find

__all__ = ["write_report"]
PAGE = "report.html"


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Writes a page about all runs in some folders.

    Args:
        folders: Run folders, or folders that contain run folders at any depth.
        out: The file; `report.html` in the first of the folders if `None`.

    Returns:
        The file.

    Raises:
        RunFolderError: If there is no run in one of the folders, one cannot be read, or the file
            cannot be written.
    """
    text = page(find(folders))
    path = folders[0] / PAGE if out is None else out
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error}; choose a file with --out") from error
    return path
