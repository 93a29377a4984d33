"""Weights and losses of few bits: warned of, and what lower precision inside a model costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax import tree

KEYS = jax.random.split(jax.random.key(0), 5)
X, Y = jax.random.normal(KEYS[0], (200, 8)), jax.random.normal(KEYS[1], (200, 3))
WEIGHTS = {
    "a": 0.4 * jax.random.normal(KEYS[2], (8, 12)),
    "b": 0.4 * jax.random.normal(KEYS[3], (12, 3)),
}
# Beside float64: measured .022 for the exact method and .002 for the default.
LARGEST_ERROR = 4 * float(jnp.finfo(jnp.bfloat16).eps)


def problem(compute, of_outputs="float32"):
    """A regression whose model computes in one dtype; its loss is taken in another."""

    def predict(w, h, batch):
        w, x = jax.tree.map(lambda x: x.astype(compute), (w, batch["x"]))
        return (jnp.tanh(x @ w["a"]) @ w["b"]).astype(of_outputs)

    def loss(w, h, batch):
        error = jnp.mean((predict(w, h, batch) - batch["y"].astype(of_outputs)) ** 2)
        return error + jnp.exp(h).astype(of_outputs) * tree.squared_norm(w).astype(of_outputs)

    outer = lambda w, h, batch: loss(w, jnp.asarray(-30, h.dtype), batch)
    return dj.Problem(loss, outer, optax.sgd(0.05, momentum=0.9))


def hypergradient(subject, dtype, method=None, num_steps=4):
    given = jax.tree.map(lambda x: x.astype(dtype), (WEIGHTS, {"x": X, "y": Y}))
    batches = dj.minibatches(given[1], 20, jax.random.key(1))
    method = dj.checkpointed() if method is None else method
    compute = jax.jit(dj.hypergradient(subject, num_steps=num_steps, method=method))
    return compute(jnp.asarray(-4, jnp.float32), given[0], batches, given[1])


def test_weights_of_few_bits_are_warned_of_by_name():
    with pytest.warns(UserWarning, match=r"weights below float32, `params\['a'\]` \(bfloat16\), "):
        hypergradient(problem("bfloat16", "bfloat16"), "bfloat16")


def test_loss_of_few_bits_is_warned_of():
    with pytest.warns(UserWarning, match="the inner loss is a bfloat16"):
        hypergradient(problem("bfloat16", "bfloat16"), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("method", [dj.checkpointed(), dj.drmad()], ids=["exact", "default"])
def test_model_in_bfloat16_with_float32_weights_is_right_to_its_rounding(method):
    """Without a warning; weights, cotangents and sums stay in float32."""
    reference = hypergradient(problem("float64", "float64"), "float64", method, 1000)
    out = hypergradient(problem("bfloat16"), "float32", method, 1000)
    assert {leaf.dtype for leaf in jax.tree.leaves((out.params, out.grad))} == {np.dtype("f4")}
    assert abs(float(out.grad) / float(reference.grad) - 1) < LARGEST_ERROR
