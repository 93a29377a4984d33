"""Fixed-point numbers and the information buffer, against Python's integers."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drmad_jax.fixed_point.buffer import (
    SMALLEST_RATIO,
    divide_back,
    empty_buffer,
    multiply,
    nearest_ratio,
    overflowed,
    rows_needed,
    to_ratio,
)
from drmad_jax.fixed_point.numbers import Fixed, add, equal, from_float, negate, to_float

pytestmark = pytest.mark.usefixtures("optimised")

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3)
NUMERATORS = st.integers(2**8, 2**16)
MOST_STEPS = 64
as_fixed = jax.jit(from_float, static_argnums=1)
as_float = jax.jit(to_float, static_argnums=(1, 2))
fast = settings(max_examples=100, deadline=None)


def fixed(integers):
    words = np.array([i % 2**64 for i in integers], np.uint64)
    return Fixed(jnp.asarray(words >> 32, jnp.uint32), jnp.asarray(words % 2**32, jnp.uint32))


def integers(number):
    words = np.asarray(number.high, np.uint64) << 32 | np.asarray(number.low, np.uint64)
    return words.astype(np.int64).tolist()


@given(first=INTEGERS, second=INTEGERS)
@fast
def test_sums_and_negatives_are_those_of_the_integers(first, second):
    total, in_range = jax.jit(add)(fixed(first), fixed(second))
    for a, b, c, fits in zip(first, second, integers(total), in_range, strict=True):
        assert (a + b - c) % 2**64 == 0
        assert bool(fits) == (a + b == c)
    back, _ = add(total, negate(fixed(second)))
    assert bool(jnp.all(equal(back, fixed(first))))


@given(value=st.floats(-2047, 2047), fraction_bits=st.sampled_from([20, 32, 40, 52]))
@fast
def test_floats_are_rounded_towards_zero(value, fraction_bits):
    number, in_range = as_fixed(jnp.array([value]), fraction_bits)
    assert bool(in_range[0])
    assert integers(number) == [math.trunc(Fraction(value) * 2**fraction_bits)]
    back = float(as_float(number, fraction_bits, jnp.float64)[0])
    assert abs(back - value) <= max(2.0**-fraction_bits, 2.0**-52 * abs(value))


@given(value=st.floats(-1, 1, width=32))
@fast
def test_small_negative_numbers_keep_their_bits(value):
    number, _ = as_fixed(jnp.array([value], jnp.float32), 60)
    back = float(as_float(number, 60, jnp.float32)[0])
    assert abs(back - value) <= max(2.0**-23 * abs(value), 2.0**-60)


@pytest.mark.parametrize("value", [2048.0, -2048.0, math.inf, math.nan])
def test_floats_out_of_range_are_flagged(value):
    assert not bool(from_float(jnp.array(value), 52)[1])


@given(first=INTEGERS, numerator=NUMERATORS, digit=st.integers(0, 2**16 - 1))
@fast
def test_a_product_is_within_one_unit(first, numerator, digit):
    buffer = empty_buffer((3,), 1)
    buffer = buffer._replace(digit=jnp.full(3, digit, jnp.uint16))
    ratio, valid = jax.jit(to_ratio)(jnp.asarray(numerator / 2**16))
    assert bool(valid) and int(ratio.numerator) == numerator
    product, _ = jax.jit(multiply)(fixed(first), buffer, ratio)
    for a, b in zip(first, integers(product), strict=True):
        assert abs(b - Fraction(a * numerator, 2**16)) <= 1


@jax.jit
def there_and_back(start, added, numerators, num_steps):
    ratios, _ = to_ratio(numerators / 2**16)
    at = lambda tree, t: jax.tree.map(lambda x: x[t], tree)

    def forth(t, carry):
        number, buffer = carry
        return multiply(add(number, at(added, t))[0], buffer, at(ratios, t))

    def back(t, carry):
        t = num_steps - 1 - t
        number, buffer = divide_back(*carry, at(ratios, t))
        return add(number, negate(at(added, t)))[0], buffer

    there = jax.lax.fori_loop(0, num_steps, forth, (start, empty_buffer((3,), MOST_STEPS)))
    return there[1], jax.lax.fori_loop(0, num_steps, back, there)


@given(
    start=INTEGERS,
    seed=st.integers(0, 2**32 - 1),
    numerators=st.lists(NUMERATORS, min_size=1, max_size=MOST_STEPS),
)
@fast
def test_any_sequence_of_products_and_sums_is_undone(start, seed, numerators):
    words = np.random.default_rng(seed).integers(0, 2**32, (2, MOST_STEPS, 3), np.uint32)
    added = Fixed(jnp.asarray(words[0]), jnp.asarray(words[1]))
    padded = jnp.asarray(numerators + [2**16] * (MOST_STEPS - len(numerators)), jnp.float64)
    full, (number, buffer) = there_and_back(fixed(start), added, padded, len(numerators))
    assert not bool(overflowed(full))
    assert integers(number) == start
    for leaf in (buffer.digit, buffer.pending, buffer.height, buffer.level):
        assert not np.any(np.asarray(leaf))


@pytest.mark.parametrize("ratio", [SMALLEST_RATIO, 0.1, 0.5, 0.9, 0.98, 0.999, 1.0])
def test_the_integer_never_outgrows_its_bound(ratio):
    ratio, _ = to_ratio(jnp.asarray(ratio))
    largest_digit = jnp.full(1, 2**16 - 1, jnp.uint16)

    def worst(carry, _):
        number, buffer = multiply(*carry, ratio)
        room = 2.0 ** (16 + buffer.level.astype(jnp.float64) / 2**20)
        below = buffer.pending.astype(jnp.float64) < room
        return (number, buffer._replace(digit=largest_digit)), jnp.all(below)

    buffer = empty_buffer((1,), 4000)._replace(digit=largest_digit)
    (_, buffer), below = jax.lax.scan(worst, (fixed([-1]), buffer), length=4000)
    assert bool(jnp.all(below))
    assert int(buffer.height) <= rows_needed(np.full(4000, ratio.loss))


def test_a_full_buffer_says_so():
    ratio, _ = to_ratio(jnp.asarray(SMALLEST_RATIO))
    number, buffer = fixed([1, 2, 3]), empty_buffer((3,), 1)
    for overflows in (False, False, False, True, True):
        number, buffer = multiply(number, buffer, ratio)
        assert bool(overflowed(buffer)) == overflows


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, math.nan, 0.9 * SMALLEST_RATIO])
def test_ratios_out_of_range_are_flagged(value):
    assert not bool(to_ratio(jnp.asarray(value))[1])


def test_ratios_are_rounded_but_their_derivative_is_not():
    value, slope = jax.value_and_grad(nearest_ratio)(0.9)
    assert float(value) == round(0.9 * 2**16) / 2**16
    assert float(slope) == 1.0
