"""Fixed-point numbers of 64 bits in pairs of 32-bit words: the arithmetic that can be undone.

Sums of integers can be undone exactly, sums of floats cannot. The pairs need no 64-bit integers,
hence no `jax_enable_x64`; accelerators make their 64-bit integers out of pairs, too.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt32

from drmad_jax import tree


class Fixed(NamedTuple):
    """Integers of 64 bits in two's complement; with F fraction bits, i stands for i · 2^−F.

    Attributes:
        high: The upper 32 bits, any shape.
        low: The lower 32 bits, same shape.
    """

    high: UInt32[Array, "*shape"]
    low: UInt32[Array, "*shape"]


def from_float(
    value: Float[Array, "*shape"], fraction_bits: int
) -> tuple[Fixed, Bool[Array, "*shape"]]:
    """The fixed-point number next to a float, rounded towards zero.

    Args:
        value: Floats of any shape and dtype.
        fraction_bits: Number F of bits behind the binary point.

    Returns:
        The number, and whether |value| < 2^(63−F), the range; false for NaN. Zero where not.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.numbers import from_float
        >>> number, in_range = from_float(jnp.array([1.5, 3e9]), 32)
        >>> number.high.tolist(), number.low.tolist(), in_range.tolist()
        ([1, 0], [2147483648, 0], [True, False])
    """
    scaled = value.astype(tree.accumulation_dtype(value.dtype))
    scaled = jnp.abs(scaled) * 2.0 ** (fraction_bits - 32)
    in_range = scaled < 2.0**31
    scaled = jnp.where(in_range, scaled, 0)
    high = jnp.floor(scaled)
    low = (scaled - high) * 2.0**32
    magnitude = Fixed(high.astype(jnp.uint32), low.astype(jnp.uint32))
    return _select(value < 0, negate(magnitude), magnitude), in_range


def to_float(number: Fixed, fraction_bits: int, dtype: DTypeLike) -> Float[Array, "*shape"]:
    """The float next to a fixed-point number.

    Args:
        number: The number.
        fraction_bits: Number F of bits behind its binary point.
        dtype: A floating-point dtype.

    Returns:
        Floats of that dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.numbers import from_float, to_float
        >>> float(to_float(from_float(jnp.array(-0.75), 52)[0], 52, jnp.float32))
        -0.75
    """
    wide = tree.accumulation_dtype(jnp.dtype(dtype))
    negative = _top_bit(number.high)
    # The magnitude is converted, not the signed pair: of a small negative number, the two words
    # would cancel and leave it a few bits.
    magnitude = _select(negative, negate(number), number)
    high = magnitude.high.astype(wide) * 2.0 ** (32 - fraction_bits)
    value = high + magnitude.low.astype(wide) * 2.0**-fraction_bits
    return jnp.where(negative, -value, value).astype(dtype)


def negate(number: Fixed) -> Fixed:
    """The negative, modulo 2^64.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.numbers import Fixed, negate
        >>> [int(word) for word in negate(Fixed(jnp.uint32(0), jnp.uint32(1)))]
        [4294967295, 4294967295]
    """
    low = ~number.low + jnp.uint32(1)
    return Fixed(~number.high + (low == 0).astype(jnp.uint32), low)


def add(first: Fixed, second: Fixed) -> tuple[Fixed, Bool[Array, "*shape"]]:
    """The sum, modulo 2^64: adding the negative undoes it even where it overflows.

    Args:
        first: A number.
        second: A number of the same shape.

    Returns:
        The sum, and whether it is in range, that is, has not overflowed.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.numbers import Fixed, add
        >>> one = Fixed(jnp.uint32(0), jnp.uint32(1))
        >>> total, in_range = add(Fixed(jnp.uint32(2**31 - 1), jnp.uint32(2**32 - 1)), one)
        >>> int(total.high), int(total.low), bool(in_range)
        (2147483648, 0, False)
    """
    low = first.low + second.low
    high = first.high + second.high + (low < first.low).astype(jnp.uint32)
    # A sum overflows where both terms have the sign that it has not.
    return Fixed(high, low), ~_top_bit((first.high ^ high) & (second.high ^ high))


def equal(first: Fixed, second: Fixed) -> Bool[Array, "*shape"]:
    """Whether two numbers are the same to the bit.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.numbers import Fixed, equal
        >>> one = Fixed(jnp.uint32(0), jnp.uint32(1))
        >>> bool(equal(one, one))
        True
    """
    return (first.high == second.high) & (first.low == second.low)


def _top_bit(word: Array) -> Array:
    # Compared as signed: the literal 2**31 does not fit beside 32-bit integers.
    return word.astype(jnp.int32) < 0


def _select(condition: Array, first: Fixed, second: Fixed) -> Fixed:
    return Fixed(
        jnp.where(condition, first.high, second.high), jnp.where(condition, first.low, second.low)
    )
