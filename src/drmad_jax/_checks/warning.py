"""Warnings that point to the user's own line, through this package's frames and JAX's."""

import os
import pathlib
import sys
import warnings

import jax

# Folders of source files, by their whole names: jaxopt is not JAX.
JAX = f"{pathlib.Path(jax.__file__).parent}{os.sep}"
_INSIDE = (f"{pathlib.Path(__file__).parents[1]}{os.sep}", JAX)


def warn(message: str) -> None:
    """A `UserWarning` where the call came from; Python shows it once for each such line.

    Args:
        message: What is wrong, and the mend.

    Example:
        >>> import warnings
        >>> from drmad_jax._checks.warning import warn
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     warn("too small")
        >>> str(caught[0].message)
        'too small'
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
