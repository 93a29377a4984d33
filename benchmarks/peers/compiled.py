"""JAX programs as subjects: compiled ahead of time, data as arguments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import mnist_mlp
from benchmarks.peers.case import Case
from benchmarks.peers.subject import Answer, Prepared


def prepare(case: Case, function: Callable[..., tuple[Any, Any]]) -> Prepared:
    """Compiles a function for a case.

    Args:
        case: The problem.
        function: `(hparams, params, train, valid, indices, key) -> (value, gradient)`, a gradient
            of `None` for plain training.

    Returns:
        The compiled program as a subject.
    """
    arrays = case.hparams, case.params, case.train, case.valid, case.indices
    given = *jax.tree.map(jnp.asarray, arrays), jax.random.wrap_key_data(case.key)
    program = jax.jit(function).lower(*given).compile()

    def call() -> Answer:
        value, grad = jax.block_until_ready(program(*given))
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(grad)]
        return Answer(float(value), np.concatenate(leaves) if leaves else None)

    return Prepared(call, program.memory_analysis().temp_size_in_bytes)


def inner_loss(params, hparams, batch):
    """Cross-entropy with the penalty."""
    logits = mnist_mlp.predict(params, hparams, batch)
    return mnist_mlp.criterion(logits, hparams, batch) + mnist_mlp.penalty(params, hparams)


def outer_loss(params, hparams, batch):
    """Cross-entropy on the outer batch."""
    return mnist_mlp.criterion(mnist_mlp.predict(params, hparams, batch), hparams, batch)


def take(data, indices):
    """A minibatch."""
    return jax.tree.map(lambda leaf: leaf.at[indices].get(mode="promise_in_bounds"), data)


def optimizer(case: Case) -> optax.GradientTransformation:
    """SGD with momentum."""
    return optax.sgd(case.step_size, momentum=case.momentum)


def train_step(case: Case, train, hparams) -> Callable:
    """One step `((params, opt_state), indices) -> (params, opt_state)` of plain optax."""
    rule = optimizer(case)

    def step(carry, indices):
        params, opt_state = carry
        grads = jax.grad(inner_loss)(params, hparams, take(train, indices))
        updates, opt_state = rule.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return step
