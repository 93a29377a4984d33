"""Checks of what users pass in: each error names the argument, what came and the mend."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from drmad_jax import tree


def check_count(where: str, name: str, value: object, *, least: int = 1) -> None:
    """Raises unless `value` is a Python int of at least `least`.

    Raises:
        TypeError: If it is no int (a traced value, a float, a bool).
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{where}: `{name}` must be a Python int (it fixes shapes at trace time), "
            f"got {type(value).__name__} {value!r}"
        )
    if value < least:
        raise ValueError(f"{where}: `{name}` must be at least {least}, got {value}")


def check_number(
    where: str, name: str, value: object, *, least: float | None = None, above: float | None = None
) -> None:
    """Raises unless `value` is a Python number, at least `least` or above `above` where given.

    Raises:
        TypeError: If it is no int or float (a traced value, a bool).
        ValueError: If it is too small, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{where}: `{name}` must be a Python number, got {type(value).__name__} {value!r}"
        )
    if not math.isfinite(value):
        raise ValueError(f"{where}: `{name}` must be finite, got {value}")
    if least is not None and value < least:
        raise ValueError(f"{where}: `{name}` must be at least {least}, got {value}")
    if above is not None and value <= above:
        raise ValueError(f"{where}: `{name}` must be above {above}, got {value}")


def check_key(where: str, key: object) -> None:
    """Raises a `TypeError` unless `key` is `None` or looks like a key."""
    if key is not None and not hasattr(key, "dtype"):
        raise TypeError(f"{where}: `key` must be a key such as jax.random.key(0), got {key!r}")


def choose_key(where: str, own: Array | None, of_call: Array | None) -> Array:
    """The key that a method draws from: its own, else the one of the call.

    Raises:
        ValueError: If there is neither. A fixed one would draw the same at every outer step.
    """
    key = of_call if own is None else own
    if key is None:
        raise ValueError(
            f"{where}: no key to draw from: give {where}(key=...) inside your step function, a new "
            "one for each outer step, or call the hypergradient with key=..."
        )
    return key


def check_choice(where: str, name: str, value: object, choices: Sequence[object]) -> None:
    """Raises a `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{where}: `{name}` must be one of {tuple(choices)}, got {value!r}")


def check_inexact(name: str, pytree: PyTree) -> PyTree:
    """Turns every leaf into an array; raises a `TypeError` unless all are floating-point."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(pytree):
        where = f"{name}{jax.tree_util.keystr(path)}"
        try:
            inexact = tree.is_inexact(leaf)
        except TypeError as error:
            raise TypeError(f"`{where}` must be an array, got {leaf!r}") from error
        if not inexact:
            raise TypeError(
                f"`{where}` has dtype {jnp.result_type(leaf)}, but only floating-point leaves have "
                f"a derivative: convert it, or move it to the batch or to model_state"
            )
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), pytree)


def check_batches(inner_batches: PyTree, num_steps: int) -> None:
    """Raises a `ValueError` unless stacked batches have one entry for each step."""
    if callable(inner_batches):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(inner_batches):
        shape = jnp.shape(leaf)
        if not shape or shape[0] != num_steps:
            raise ValueError(
                f"`inner_batches{jax.tree_util.keystr(path)}` must have leading axis "
                f"num_steps = {num_steps}, got shape {list(shape)}: stack one batch for each step, "
                "or pass drmad_jax.minibatches(data, batch_size, key)"
            )


def check_scalar(name: str, value: Array) -> None:
    """Raises unless a loss is one floating-point number."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"`{name}` must return a scalar array, got {type(value).__name__}")
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.inexact):
        raise ValueError(
            f"`{name}` must return a floating-point scalar, "
            f"got {value.dtype}{list(value.shape)}: take its mean or sum"
        )
