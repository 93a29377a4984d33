"""Checks of what users pass in: each error names the argument, what came and the mend."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
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


def check_whole(where: str, name: str, values: Iterable[object]) -> tuple[int, ...]:
    """Several numbers as Python ints; raises a `TypeError` unless they are whole numbers."""
    values = tuple(values)
    for value in values:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{where}: `{name}` must be ints, got {value!r} among them")
    return tuple(map(operator.index, cast(tuple, values)))


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
    """Raises a `TypeError` unless `key` is `None` or one key, typed or two uint32 numbers."""
    if key is None:
        return
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if typed and shape != ():
        raise TypeError(
            f"{where}: `key` must be one key, got keys of shape {shape}: take one of them, or "
            "jax.vmap over them"
        )
    if not typed and (dtype != jnp.uint32 or not shape or len(shape) != 1):
        raise TypeError(f"{where}: `key` must be a key such as jax.random.key(0), got {key!r}")


class HeldKey:
    """A key inside a method: compared and hashed by its numbers, as methods are by theirs.

    A traced key has none, and is equal to itself alone.
    """

    def __init__(self, key: Array):
        self.key = key

    def _numbers(self) -> object:
        if isinstance(self.key, Tracer):
            return id(self.key)
        is_typed = jnp.issubdtype(self.key.dtype, jax.dtypes.prng_key)
        kind = str(jax.random.key_impl(self.key)) if is_typed else "raw"
        data = jax.random.key_data(self.key) if is_typed else self.key
        return kind, np.asarray(data).tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeldKey) and self._numbers() == other._numbers()

    def __hash__(self) -> int:
        return hash(self._numbers())

    def __repr__(self) -> str:
        return repr(self.key)


def hold_key(where: str, key: object) -> HeldKey | None:
    """A checked key, as methods hold it."""
    check_key(where, key)
    return None if key is None else HeldKey(cast(Array, key))


def choose_key(where: str, own: HeldKey | None, of_call: Array | None) -> Array:
    """The key that a method draws from: its own, else the one of the call.

    Raises:
        ValueError: If there is neither. A fixed one would draw the same at every outer step.
    """
    key = of_call if own is None else own.key
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
    """Turns every leaf into an array; raises a `TypeError` unless all are real floating-point."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(pytree):
        where = f"{name}{jax.tree_util.keystr(path)}"
        try:
            inexact = tree.is_inexact(leaf)
        except TypeError as error:
            raise TypeError(f"`{where}` must be an array, got {leaf!r}") from error
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise TypeError(
                f"`{where}` has dtype {jnp.result_type(leaf)}, and derivatives here are those of "
                "real numbers: hold the real and the imaginary part in two leaves, and put them "
                "together with jax.lax.complex inside the loss"
            )
        if not inexact:
            raise TypeError(
                f"`{where}` has dtype {jnp.result_type(leaf)}, but only floating-point leaves have "
                f"a derivative: convert it, or move it to the batch or to model_state"
            )
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), pytree)


def check_given(hparams: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
    """Hyperparameters and weights as arrays on the device.

    Raises:
        TypeError: On a leaf that is not real floating-point.
        ValueError: If there are no weights, and so nothing to train.
    """
    hparams, params = check_inexact("hparams", hparams), check_inexact("params", params)
    if not sum(leaf.size for leaf in jax.tree.leaves(params)):
        raise ValueError(f"`params` has no entries, so that there is nothing to train: {params}")
    return tree.on_device((hparams, params))


def check_directions(where: str, hparams: PyTree) -> None:
    """Raises a `ValueError` where there is no direction in which hyperparameters could move."""
    if not sum(jnp.size(leaf) for leaf in jax.tree.leaves(hparams)):
        raise ValueError(
            f"{where}: `hparams` has no entries, and so no directions to go along: use another "
            "method, such as stored()"
        )


def check_batches(inner_batches: PyTree, num_steps: int) -> PyTree:
    """A source of batches as a pytree, stacked ones with one entry for each step.

    Raises:
        TypeError: On an iterator, which cannot give a batch again.
        ValueError: On a leading axis of another length.
    """
    if hasattr(inner_batches, "__next__"):
        raise TypeError(
            f"`inner_batches` is an iterator ({type(inner_batches).__name__}), and the way back "
            "asks for every batch again: stack one batch for each step, or pass "
            "drmad_jax.minibatches(data, batch_size, key), or drmad_jax.host_batches(fetch, "
            "example) with a function of the step"
        )
    if callable(inner_batches):
        is_leaf = jax.tree.leaves(inner_batches) == [inner_batches]
        # A function of one's own is no pytree, which a rule for a derivative takes alone.
        return jax.tree_util.Partial(inner_batches) if is_leaf else inner_batches
    for path, leaf in jax.tree_util.tree_leaves_with_path(inner_batches):
        shape = jnp.shape(leaf)
        if not shape or shape[0] != num_steps:
            raise ValueError(
                f"`inner_batches{jax.tree_util.keystr(path)}` must have leading axis "
                f"num_steps = {num_steps}, got shape {list(shape)}: stack one batch for each step, "
                "or pass drmad_jax.minibatches(data, batch_size, key)"
            )
    return inner_batches


def check_scalar(name: str, value: Array) -> None:
    """Raises unless a loss is one floating-point number."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"`{name}` must return a scalar array, got {type(value).__name__}")
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.inexact):
        raise ValueError(
            f"`{name}` must return a floating-point scalar, "
            f"got {value.dtype}{list(value.shape)}: take its mean or sum"
        )
