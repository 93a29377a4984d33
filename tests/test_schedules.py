"""Schedules whose values are hyperparameters."""

import jax
import jax.numpy as jnp
import pytest

from drmad_jax.schedules import per_block


@pytest.mark.parametrize("num_steps, count", [(1, 1), (7, 3), (10, 10), (50, 7), (9, 1)])
def test_every_step_has_its_block(num_steps, count):
    schedule = per_block(jnp.arange(count), num_steps)
    blocks = jax.vmap(schedule)(jnp.arange(num_steps)).tolist()
    assert blocks == [count * step // num_steps for step in range(num_steps)]


def test_values_may_be_arrays_and_stay_after_the_end():
    schedule = per_block(jnp.array([[1.0, 2.0], [3.0, 4.0]]), 10)
    assert schedule(4).tolist() == [1.0, 2.0]
    assert schedule(11).tolist() == [3.0, 4.0]


def test_long_runs_do_not_overflow():
    assert int(per_block(jnp.arange(10_000), 2_000_000_000)(1_999_999_999)) == 9_999


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`values` needs a leading axis of 1 to num_steps = 2"):
        per_block(jnp.ones(3), 2)
    with pytest.raises(ValueError, match=r"got shape \[\]"):
        per_block(jnp.ones(()), 2)
    with pytest.raises(TypeError, match="`num_steps` must be a Python int"):
        per_block(jnp.ones(3), 5.0)
