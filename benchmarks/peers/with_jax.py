"""Plain JAX: what a user writes without any package, and what makes a JAX program a subject."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers.subject import Answer, Case, Prepared
from benchmarks.problems.mlp import inner_loss, outer_loss
from benchmarks.timing import compile_all


def prepare(case: Case, function: Callable[..., tuple[Any, Any]]) -> Prepared:
    """The program of `(hparams, params, train, valid, indices, key) -> (value, gradient)`.

    The gradient is `None` for plain training.
    """
    arrays = case.hparams, case.params, case.train, case.valid, case.indices
    given = jax.tree.map(jnp.asarray, (*arrays, case.key))
    with_key = lambda *given: function(*given[:-1], jax.random.wrap_key_data(given[-1]))
    program = compile_all({"call": with_key}, *given)["call"]

    def call() -> Answer:
        value, grad = jax.block_until_ready(program())
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(grad)]
        return Answer(float(value), np.concatenate(leaves) if leaves else None)

    return Prepared(call, program.temporary_bytes)


def gradient(case: Case, trained: Callable[..., Any]) -> Prepared:
    """`jax.value_and_grad` of `(hparams, params, train, valid, indices) -> outer loss`."""
    return prepare(case, lambda *given: jax.value_and_grad(trained)(*given[:-1]))


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


def of_scan(step, carry, indices):
    """All steps in one scan."""
    return jax.lax.scan(lambda carry, i: (step(carry, i), None), carry, indices)[0]


def checkpointed_steps(step, carry, indices):
    """A scan that stores the state of each step, and nothing from within."""
    return of_scan(jax.checkpoint(step), carry, indices)


def checkpointed_intervals(step, carry, indices):
    """A scan of scans that stores the state of each interval of about √T steps."""
    num_steps = len(indices)
    length = next(n for n in range(math.isqrt(num_steps), 0, -1) if num_steps % n == 0)
    interval = jax.checkpoint(functools.partial(of_scan, step))
    return of_scan(interval, carry, indices.reshape(-1, length, indices.shape[1]))


def hypergradient(loop: Callable, case: Case) -> Prepared:
    """Through a loop `(step, carry, indices) -> carry` over all minibatches."""
    rule = optimizer(case)

    def trained(hparams, params, train, valid, indices):
        step = train_step(case, train, hparams)
        params, _ = loop(step, (params, rule.init(params)), indices)
        return outer_loss(params, hparams, valid)

    return gradient(case, trained)


FORMS = {
    "jax.grad of scan": functools.partial(hypergradient, of_scan),
    "jax.checkpoint on steps": functools.partial(hypergradient, checkpointed_steps),
    "jax.checkpoint on intervals": functools.partial(hypergradient, checkpointed_intervals),
}
