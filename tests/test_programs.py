"""What is counted in programs and divided in timings, on programs that are known."""

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("benchmarks", reason="needs the repository's root on the path")

from benchmarks import programs
from benchmarks.programs import COMPILED, LOWERED, PRODUCTS
from benchmarks.timing import ratios

MATRIX = jnp.ones((3, 3))


def model(x):
    return jnp.tanh(x @ MATRIX)


def test_derivatives_add_products_but_no_copies():
    gradient = jax.grad(lambda x: jnp.sum(model(x)))
    one, two = (programs.count(programs.build(f, jnp.ones(3))) for f in (model, gradient))
    assert one == {LOWERED: 1, COMPILED: 1, PRODUCTS: 1}
    assert two == {LOWERED: 1, COMPILED: 1, PRODUCTS: 2}


def test_body_of_a_loop_counts_once_and_each_call_by_itself():
    loop = lambda x: jax.lax.fori_loop(0, 7, lambda _, y: model(y), model(x))
    assert programs.count(programs.build(loop, jnp.ones(3)))[LOWERED] == 2


def test_ratio_is_taken_within_a_round():
    times = {"a": {"rounds_s": [1.0, 2.0, 4.0]}, "b": {"rounds_s": [2.0, 4.0, 8.0]}}
    assert ratios(times, "a")["b"] == {"median": 2.0, "min": 2.0, "max": 2.0, "n": 3}
