"""Code that a configuration names: finding it, calling it, and saying where it went wrong.

Nothing here runs unless a configuration was given to a command that runs it, on purpose.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax

from drmad_jax.experiments.errors import ConfigError, ExperimentError, UserCodeError

# Marks a module that was loaded here.
_MARK = "__drmad_jax_task__"
_FRAME = re.compile(r'File "(.+?)", line (\d+), in (\S+)')
_PACKAGE = Path(__file__).parents[1]
_INSTALLED = tuple(
    Path(path).resolve()
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)


class Reference(NamedTuple):
    """A function in a file.

    Attributes:
        text: As the configuration has it, "FILE.py:FUNCTION" or "package.module:FUNCTION".
        file: The file.
        module: The name to import it by; empty for a file.
        function: The function's name.
        sha256: Of the file's contents.
    """

    text: str
    file: Path
    module: str
    function: str
    sha256: str


def find(text: str, folder: Path) -> Reference:
    """Finds the file of a function; of a package it imports what the module is in.

    Args:
        text: "FILE.py:FUNCTION", the file relative to the folder, or "package.module:FUNCTION".
        folder: The folder of the configuration.

    Returns:
        Where it is.

    Raises:
        ConfigError: If there is no such file or module, or the text names none.
    """
    place, colon, function = text.rpartition(":")
    if not colon or not place or not function.isidentifier():
        raise ConfigError(
            'task.module: expected "my_task.py:make_task", a file relative to the config, or '
            f'"package.module:make_task", got {text!r}'
        )
    module = "" if place.endswith(".py") else place
    file = _file_of(module) if module else (folder / Path(place).expanduser()).absolute()
    try:
        return Reference(
            text, file, module, function, hashlib.sha256(file.read_bytes()).hexdigest()
        )
    except OSError as error:
        raise ConfigError(f"task.module: cannot read {file}: {error.strerror}") from error


def load(reference: Reference) -> Callable[..., Any]:
    """Runs a module and returns its function.

    Modules beside its file can be imported by it.

    Args:
        reference: What `find` returned.

    Returns:
        The function.

    Raises:
        UserCodeError: If the module raises something.
        ConfigError: If it has no such function.
    """
    with told_of_user_code():
        module = _module(reference)
    function = getattr(module, reference.function, None)
    if not callable(function):
        there = [name for name, value in vars(module).items() if _is_own(module, value)]
        raise ConfigError(
            f"task.module: {reference.file} has no function {reference.function!r}; it has "
            f"{', '.join(there) or 'none'}"
        )
    return function


@contextlib.contextmanager
def told_of_user_code() -> Iterator[None]:
    """Tells of an exception in the user's code by its file and line; any other one passes.

    Yields:
        Nothing.

    Raises:
        UserCodeError: In its place; the user's part of the traceback is below the sentence.
    """
    try:
        yield
    except ExperimentError:
        raise
    except (Exception, SystemExit) as error:
        if (said := blame(error)) is None:
            raise
        raise UserCodeError(said) from error


def blame(error: BaseException) -> str | None:
    """Where the user's code raised something, or called what did.

    Args:
        error: The exception.

    Returns:
        A sentence, and the frames of the user's own files below it; `None` if none is among them.
    """
    steps = traceback.walk_tb(error.__traceback__)
    frames = [
        traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in steps
        if _is_users(frame.f_code.co_filename, frame.f_globals)
        # What a device says, such as that its memory is full, is said of no line.
        and not isinstance(error, jax.errors.JaxRuntimeError)
    ]
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename, {}):
        text = (error.text or "").strip() or None
        frames.append(
            traceback.FrameSummary(error.filename, error.lineno or 0, "<module>", line=text)
        )
    # Of a function that compiled code calls, JAX has the traceback as a text.
    said = str(error).strip()
    for file, line, name in _FRAME.findall(said) if not frames else ():
        if _is_users(file, {}):
            frames.append(traceback.FrameSummary(file, int(line), name))
    if not frames:
        return None
    last = frames[-1]
    where = "" if last.name.startswith("<") else f", in {last.name}"
    if isinstance(error, jax.errors.JaxRuntimeError):
        said = said.rpartition("\n")[2]
    said = said.partition("\n\n")[0] or "no message"
    told = (
        traceback.format_list(frames) if len(frames) < 20 else traceback.format_list(frames[-20:])
    )
    return (
        f"task.module: {last.filename}, line {last.lineno}{where}: {type(error).__name__}: {said}\n"
        f"{''.join(told)}".rstrip()
    )


def _file_of(module: str) -> Path:
    try:
        with told_of_user_code():
            spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"task.module: cannot find the module {module!r}: {error}") from error
    if spec is None or not spec.has_location or spec.origin is None:
        raise ConfigError(
            f"task.module: there is no module {module!r} to import; a file is named by "
            '"FILE.py:FUNCTION"'
        )
    return Path(spec.origin)


def _module(reference: Reference) -> ModuleType:
    if reference.module:
        module = importlib.import_module(reference.module)
        setattr(module, _MARK, True)
        return module
    name = f"_drmad_jax_task_{reference.file.stem}"
    spec = importlib.util.spec_from_file_location(name, reference.file)
    assert spec is not None and spec.loader is not None  # Its name ends in ".py".
    module = importlib.util.module_from_spec(spec)
    setattr(module, _MARK, True)
    # Dataclasses look their module up there.
    sys.modules[name] = module
    # At the end: nothing of ours or of Python's may be taken for a file that lies there.
    if (folder := str(reference.file.parent)) not in sys.path:
        sys.path.append(folder)
    spec.loader.exec_module(module)
    return module


def _is_own(module: ModuleType, value: Any) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def _is_users(file: str, names: dict[str, Any]) -> bool:
    """Whether code is the user's: what was loaded here, and what is neither ours nor installed."""
    if _MARK in names:
        return True
    path = Path(file)
    if not path.is_file():
        return False
    path = path.resolve()
    return not any(path.is_relative_to(root) for root in (_PACKAGE, *_INSTALLED))
