"""Schedules whose values are hyperparameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax.training.schedules import per_block


@pytest.mark.parametrize("num_steps, count", [(1, 1), (7, 3), (10, 10), (50, 7), (9, 1)])
def test_every_step_has_its_block(num_steps, count):
    schedule = per_block(jnp.arange(count), num_steps)
    blocks = jax.vmap(schedule)(jnp.arange(num_steps)).tolist()
    assert blocks == [count * step // num_steps for step in range(num_steps)]


def test_values_may_be_arrays_and_stay_after_the_end():
    schedule = per_block(jnp.array([[1.0, 2.0], [3.0, 4.0]]), 10)
    assert schedule(4).tolist() == [1.0, 2.0]
    assert schedule(11).tolist() == [3.0, 4.0]


def test_blocks_between_given_edges():
    schedule = per_block(jnp.arange(3), 10, edges=(1, 7))
    assert jax.vmap(schedule)(jnp.arange(12)).tolist() == [0] + 6 * [1] + 5 * [2]
    assert jax.vmap(per_block(jnp.arange(1), 3, edges=()))(jnp.arange(3)).tolist() == [0, 0, 0]


def test_every_segment_of_a_path_has_its_own_rate():
    """A path that stands at knots sees the block in which each of its steps was taken."""
    knots, target = (0, 2, 6, 8), 1.0
    loss = lambda w, h, x: 0.5 * jnp.sum((w - target) ** 2)
    optimizer = lambda h: optax.sgd(per_block(h, knots[-1], edges=knots[1:-1]))
    method = dj.drmad(knots=knots, curvature="hessian")
    compute = dj.hypergradient(dj.Problem(loss, loss, optimizer), num_steps=8, method=method)
    rates = np.array([0.1, 0.3, 0.2])
    out = jax.jit(compute)(rates, jnp.zeros(1), jnp.zeros(8), None)
    # The path is straight within each segment: w_t between the ends of the exponential decays.
    widths = np.diff(knots)
    rest = np.cumprod(np.concatenate([[1.0], (1 - rates) ** widths]))
    expected = []
    for k, width in enumerate(widths):
        after = rest[-1] / rest[k + 1]
        ends = 1 - (1 - np.arange(width) / width) * rest[k] - np.arange(width) / width * rest[k + 1]
        gradients = ends - target
        decays = after * (1 - rates[k]) ** np.arange(width)[::-1]
        expected.append(np.sum(rest[-1] * decays * gradients))
    np.testing.assert_allclose(out.grad, expected, rtol=1e-10)


def test_long_runs_do_not_overflow():
    assert int(per_block(jnp.arange(10_000), 2_000_000_000)(1_999_999_999)) == 9_999


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`values` needs a leading axis of 1 to num_steps = 2"):
        per_block(jnp.ones(3), 2)
    with pytest.raises(ValueError, match=r"got shape \[\]"):
        per_block(jnp.ones(()), 2)
    for edges, message in [
        ((2, 2), "`edges` must increase, got"),
        ((1,), "`edges` must be one fewer than the 3 `values`, got 1"),
        ((1, 9), "`edges` must be below num_steps = 9, got 9"),
        ((0, 1), "`edges` must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            per_block(jnp.ones(3), 9, edges=edges)
    with pytest.raises(TypeError, match="`edges` must be a Python int"):
        per_block(jnp.ones(2), 9, edges=(1.5,))
    with pytest.raises(TypeError, match="`num_steps` must be a Python int"):
        per_block(jnp.ones(3), 5.0)
