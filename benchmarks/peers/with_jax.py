"""Plain JAX: what a user writes without any package."""

import functools
import math
from collections.abc import Callable

import jax

from benchmarks.peers.case import Case
from benchmarks.peers.compiled import gradient, optimizer, train_step
from benchmarks.peers.subject import Prepared
from benchmarks.problems.mlp import outer_loss


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
