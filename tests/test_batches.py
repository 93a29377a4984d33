"""Batch sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drmad_jax as dj
from drmad_jax.training.minibatches import _permute


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 500])
def test_shuffling_is_a_permutation(size):
    keys = jax.random.split(jax.random.key(size), 50)
    indices = jnp.arange(size, dtype=jnp.int32)
    shuffled = jax.vmap(lambda key: _permute(indices, size, key))(keys)
    np.testing.assert_array_equal(jnp.sort(shuffled, axis=1), np.tile(np.arange(size), (50, 1)))


def test_shuffled_epochs_see_every_example_once_in_a_new_order():
    batches = dj.minibatches(jnp.arange(12), 3, jax.random.key(0), order="shuffled")
    epochs = [np.concatenate([batches(4 * e + t) for t in range(4)]) for e in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(12))
    assert any(np.any(epochs[0] != epoch) for epoch in epochs[1:])


@pytest.mark.slow
def test_shuffling_is_a_permutation_at_every_size():
    for size in [*range(1, 40), 1023, 1025, 59999, 65536]:
        shuffled = _permute(jnp.arange(size, dtype=jnp.int32), size, jax.random.key(size))
        np.testing.assert_array_equal(np.sort(shuffled), np.arange(size))


@pytest.mark.parametrize("size", [4, 7])
def test_shuffling_looks_random(size):
    """Over many keys two neighbours get each pair of values about equally often."""
    indices, num_keys = jnp.arange(2, dtype=jnp.int32), 60_000
    keys = jax.random.split(jax.random.key(1), num_keys)
    first, second = jax.jit(jax.vmap(lambda key: _permute(indices, size, key)))(keys).T
    counts = np.bincount(np.asarray(first) * size + np.asarray(second), minlength=size**2)
    pairs = counts.reshape(size, size)[~np.eye(size, dtype=bool)]
    each = num_keys / len(pairs)
    chi_square, degrees = np.sum((pairs - each) ** 2) / each, len(pairs) - 1
    assert counts.sum() == pairs.sum()
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("order", ["uniform", "shuffled", "cyclic"])
def test_what_is_in_host_memory_gives_the_same(order):
    there = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    data = jnp.arange(36.0).reshape(12, 3)
    draw = jax.jit(lambda data: dj.minibatches(data, 4, jax.random.key(0), order=order)(5))
    np.testing.assert_array_equal(draw(jax.device_put(data, there)), draw(data))


def test_uniform_draws_are_within_range_and_reproducible():
    batches = dj.minibatches(jnp.arange(10), 10, jax.random.key(0))
    drawn = np.concatenate([batches(t) for t in range(100)])
    assert set(drawn) == set(range(10))
    np.testing.assert_array_equal(batches(3), batches(jnp.asarray(3)))


def test_cyclic_order_leaves_out_the_incomplete_batch():
    batches = dj.minibatches(jnp.arange(7), 3, jax.random.key(0), order="cyclic")
    assert [batches(t).tolist() for t in range(3)] == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]


def test_data_is_an_argument_not_a_constant():
    data = jnp.arange(1000.0)
    batches = dj.minibatches(data, 10, jax.random.key(0))
    jaxpr = jax.make_jaxpr(lambda b: b(0))(batches)
    assert not jaxpr.consts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"x": jnp.zeros((3, 2)), "y": jnp.zeros(4)}, 2), "same leading axis.*'3', '4'"),
        ((jnp.zeros(()), 1), "same leading axis"),
        ((jnp.zeros(3), 4), "between 1 and the 3 examples, got 4"),
        ((jnp.zeros(3), 0), "between 1 and the 3 examples, got 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        dj.minibatches(*arguments, jax.random.key(0))


def test_unknown_order_is_named():
    with pytest.raises(ValueError, match="`order` must be one of.*'random'"):
        dj.minibatches(jnp.zeros(3), 1, jax.random.key(0), order="random")
