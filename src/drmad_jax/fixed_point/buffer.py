"""The information buffer: multiplication by a ratio below one, undone bit for bit.

Maclaurin, Duvenaud, Adams 2015, Alg. 3: what γ = n/d cuts off a number c goes into an integer i,
and what i can spare goes into c: i ← i·d + (c mod d), c ← (c ÷ d)·n + (i mod n), i ← i ÷ n.
Two departures. Theirs is a Python integer that grows without end; here i has 32 bits and spills
its lower 16 onto a stack when it might outgrow them, as in a range coder. When it spills depends on
the ratios alone, so that all numbers of an array spill together and share one stack pointer. And
theirs leaves up to n units of noise in c; here c has one digit of 16 bits more than it shows, and
the noise stays in that digit.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt16, UInt32

from drmad_jax.fixed_point.numbers import Fixed

# Smaller ratios lose more than 8 bits at once.
SMALLEST_RATIO = 2.0**-8
_DIGIT_BITS = 16
_DENOMINATOR = 2**_DIGIT_BITS
_DIGIT = _DENOMINATOR - 1
_LEVEL_UNITS = 2**20
_WORD = _DIGIT_BITS * _LEVEL_UNITS


class Ratio(NamedTuple):
    """A ratio numerator/2^16.

    Attributes:
        numerator: Between 2^8 and 2^16.
        loss: What a multiplication loses, log2(2^16/numerator), rounded up, in 2^−20 bit.
    """

    numerator: UInt32[Array, "*shape"]
    loss: UInt32[Array, "*shape"]


class Buffer(NamedTuple):
    """What an array of numbers has lost so far.

    Attributes:
        digit: The digit of 16 bits behind the last of each number.
        pending: The integer i of each number, below 2^(16 + level · 2^−20).
        words: The stack, one row a spill; its last row takes what is not to be kept.
        height: Number of rows in use. Above the number of rows, bits have been lost.
        level: How full `pending` may be, in 2^−20 bit beyond 16 bits, below 16 bits.
    """

    digit: UInt16[Array, "*shape"]
    pending: UInt32[Array, "*shape"]
    words: UInt16[Array, "rows *shape"]
    height: Int32[Array, ""]
    level: UInt32[Array, ""]


def nearest_ratio(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The multiple of 2^−16 next to a value; differentiates as the identity.

    Args:
        value: Any floats.

    Returns:
        Floats of the same dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from drmad_jax.fixed_point.buffer import nearest_ratio
        >>> float(nearest_ratio(jnp.float32(0.5))), float(jax.grad(nearest_ratio)(0.5))
        (0.5, 1.0)
    """
    nearest = jnp.round(value * _DENOMINATOR) / _DENOMINATOR
    return value + jax.lax.stop_gradient(nearest - value)


def to_ratio(value: Float[Array, "*shape"]) -> tuple[Ratio, Bool[Array, "*shape"]]:
    """The ratio next to a value.

    Args:
        value: In [2^−8, 1].

    Returns:
        The ratio, and whether the value is in that range.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.buffer import to_ratio
        >>> ratio, valid = to_ratio(jnp.float32(0.5))
        >>> int(ratio.numerator) / 2**16, round(int(ratio.loss) / 2**20, 3), bool(valid)
        (0.5, 1.0, True)
    """
    valid = (value >= SMALLEST_RATIO) & (value <= 1)
    value = jnp.where(valid, value, 1)
    numerator = jnp.round(value * _DENOMINATOR).astype(jnp.uint32)
    missing = (jnp.uint32(_DENOMINATOR) - numerator).astype(jnp.float32) / _DENOMINATOR
    bits = -jnp.log1p(-missing) / math.log(2)
    # Rounding i up costs at most 2^−16 of it, and 2^−16 (d/n) where it spills: 1/log(2) bits of
    # that is the second term. The factor of the first covers the error of a float32 logarithm.
    slack = 24 * (1 + _DENOMINATOR / numerator.astype(jnp.float32))
    loss = jnp.ceil(bits * (1 + 2.0**-18) * _LEVEL_UNITS + slack)
    return Ratio(numerator, loss.astype(jnp.uint32)), valid


def rows_needed(losses: np.ndarray) -> int:
    """Rows that a buffer needs.

    Args:
        losses: `Ratio.loss` of every multiplication to come, integers.

    Returns:
        Number of rows of 16 bits.

    Example:
        >>> import numpy as np
        >>> from drmad_jax.fixed_point.buffer import rows_needed
        >>> rows_needed(np.full(1000, 2**20))
        63
    """
    return math.ceil(np.sum(losses, dtype=np.uint64) / _WORD)


def empty_buffer(shape: tuple[int, ...], rows: int) -> Buffer:
    """A buffer that nothing has gone into.

    Args:
        shape: Shape of the numbers.
        rows: How many times it can spill (see `rows_needed`).

    Returns:
        The buffer.

    Example:
        >>> from drmad_jax.fixed_point.buffer import empty_buffer
        >>> empty_buffer((3,), 7).words.shape
        (8, 3)
    """
    return Buffer(
        jnp.zeros(shape, jnp.uint16),
        jnp.zeros(shape, jnp.uint32),
        jnp.zeros((rows + 1, *shape), jnp.uint16),
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.uint32),
    )


def forget(buffer: Buffer) -> Buffer:
    """Frees the rows: multiplications so far cannot be undone any more, those to come can.

    The next one may spill at once, so that a row more than `rows_needed` is needed.

    Args:
        buffer: Any buffer, overflowed or not.

    Returns:
        The same buffer with no row in use.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.buffer import empty_buffer, forget
        >>> full = empty_buffer((3,), 7)._replace(height=jnp.int32(9))
        >>> int(forget(full).height)
        0
    """
    return buffer._replace(height=jnp.zeros_like(buffer.height))


def overflowed(buffer: Buffer) -> Bool[Array, ""]:
    """Whether a buffer has spilt more often than it has rows.

    Example:
        >>> from drmad_jax.fixed_point.buffer import empty_buffer, overflowed
        >>> bool(overflowed(empty_buffer((3,), 7)))
        False
    """
    return buffer.height >= buffer.words.shape[0]


def multiply(number: Fixed, buffer: Buffer, ratio: Ratio) -> tuple[Fixed, Buffer]:
    """The numbers times a ratio, with what is cut off pushed into the buffer.

    Args:
        number: The numbers c.
        buffer: Their buffer.
        ratio: The ratio n/d, scalars.

    Returns:
        The products, within one unit of the exact ones, and the buffer.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.numbers import Fixed
        >>> from drmad_jax.fixed_point.buffer import divide_back, empty_buffer, multiply, to_ratio
        >>> ratio, _ = to_ratio(jnp.float32(0.9))
        >>> number = Fixed(jnp.uint32([7]), jnp.uint32([12345]))
        >>> product, buffer = multiply(number, empty_buffer((1,), 1), ratio)
        >>> number, buffer = divide_back(product, buffer, ratio)
        >>> number.high.tolist(), number.low.tolist(), buffer.pending.tolist()
        ([7], [12345], [0])
    """
    level = buffer.level + ratio.loss
    spills = level >= _WORD
    # Written whether it spills or not: a row that is not kept costs less than a branch.
    words = jax.lax.dynamic_update_index_in_dim(
        buffer.words, buffer.pending.astype(jnp.uint16), buffer.height, 0
    )
    pending = jnp.where(spills, buffer.pending >> _DIGIT_BITS, buffer.pending)
    upper, rest = _divide(pending, ratio.numerator)
    lower, spared = _divide(_join(rest, buffer.digit.astype(jnp.uint32)), ratio.numerator)
    number, digit = _times(number, ratio.numerator, spared)
    height = buffer.height + spills.astype(jnp.int32)
    return number, Buffer(digit, _join(upper, lower), words, height, level % _WORD)


def divide_back(number: Fixed, buffer: Buffer, ratio: Ratio) -> tuple[Fixed, Buffer]:
    """Undoes `multiply`.

    Args:
        number: The products.
        buffer: The buffer after `multiply`.
        ratio: The same ratio.

    Returns:
        The numbers and the buffer before `multiply`, bit for bit; rows of `words` that are not in
        use apart.
    """
    number, spared = _over(number, buffer.digit.astype(jnp.uint32), ratio.numerator)
    lower = (buffer.pending & _DIGIT) * ratio.numerator + spared
    pending = (buffer.pending >> _DIGIT_BITS) * ratio.numerator + (lower >> _DIGIT_BITS)
    spilt = buffer.level < ratio.loss
    height = buffer.height - spilt.astype(jnp.int32)
    word = jax.lax.dynamic_index_in_dim(buffer.words, height, keepdims=False)
    pending = jnp.where(spilt, _join(pending, word.astype(jnp.uint32)), pending)
    level = (buffer.level - ratio.loss) % _WORD
    return number, Buffer(lower.astype(jnp.uint16), pending, buffer.words, height, level)


def _times(number: Fixed, factor: Array, addend: Array) -> tuple[Fixed, Array]:
    """Long multiplication: number · factor + addend = result · 2^16 + digit."""
    # Signed numbers: 2^63 is added before it and 2^63 · factor taken off after it.
    high = number.high + jnp.uint32(2**31)
    digits = (number.low & _DIGIT, number.low >> _DIGIT_BITS, high & _DIGIT, high >> _DIGIT_BITS)
    products, carry = [], addend
    for digit in digits:
        products.append(digit * factor + carry)
        carry = products[-1] >> _DIGIT_BITS
    low = _join(products[2], products[1] & _DIGIT)
    return Fixed(products[3] - (factor << 15), low), products[0].astype(jnp.uint16)


def _over(number: Fixed, digit: Array, divisor: Array) -> tuple[Fixed, Array]:
    """Long division, undoing `_times`: the quotient, and the remainder."""
    quotients, rest = [], jnp.zeros_like(digit)
    dividend = number.high + (divisor << 15)
    for following in (number.low >> _DIGIT_BITS, number.low & _DIGIT, digit, None):
        quotient, rest = _divide(dividend, divisor)
        quotients.append(quotient)
        dividend = rest if following is None else _join(rest, following)
    high = _join(quotients[0], quotients[1]) - jnp.uint32(2**31)
    return Fixed(high, _join(quotients[2], quotients[3])), rest


def _divide(dividend: Array, divisor: Array) -> tuple[Array, Array]:
    quotient = jax.lax.div(dividend, jnp.broadcast_to(divisor, dividend.shape))
    return quotient, dividend - quotient * divisor


def _join(upper: Array, lower: Array) -> Array:
    return (upper << _DIGIT_BITS) | lower
