"""optimistix: through its iterates with recursive checkpoints, and its implicit differentiation.

A solver's function sees the iterate and fixed arguments, not the step, so that its optax wrapper
takes no minibatches. What it can do: one training step as the map of a fixed-point iteration, whose
iterate is weights, velocity and a counter.
"""

import functools

import jax
import jax.numpy as jnp
import lineax
import optax
import optimistix

from benchmarks.peers.subject import Case, Prepared
from benchmarks.peers.with_jax import gradient, of_scan, optimizer, prepare, take, train_step
from benchmarks.problems.mlp import inner_loss, outer_loss

# Not 0, at which the gradient of the (unused) stopping rule is not a number. The counter moves by
# one each step, so that the iteration never stops early.
NEVER = 1e-30


def recursive(case: Case, *, store_all: bool) -> Prepared:
    """`RecursiveCheckpointAdjoint`, with its default number of checkpoints or with T."""
    adjoint = optimistix.RecursiveCheckpointAdjoint(case.num_steps if store_all else None)
    solver = optimistix.FixedPointIteration(rtol=0.0, atol=NEVER)
    rule = optimizer(case)

    def advance(iterate, args):
        carry, count = iterate
        hparams, train, indices = args
        step = train_step(case, train, hparams)
        return step(carry, indices[count.astype(jnp.int32)]), count + 1

    def trained(hparams, params, train, valid, indices):
        start = (params, rule.init(params)), jnp.zeros(())
        found = optimistix.fixed_point(
            advance,
            solver,
            start,
            (hparams, train, indices),
            max_steps=case.num_steps,
            adjoint=adjoint,
            throw=False,
        )
        (params, _), _ = found.value
        return outer_loss(params, hparams, valid)

    return gradient(case, trained)


def implicit(case: Case) -> Prepared:
    """`ImplicitAdjoint` at the trained weights: a minimisation that is told to stay there."""
    # At smaller tolerances the solver stagnates in float32 and ends in an error.
    normal_cg = lineax.NormalCG(rtol=1e-1, atol=1e-2, max_steps=5000)
    stay = optimistix.OptaxMinimiser(optax.sgd(0.0), rtol=1.0, atol=1.0)
    rule = optimizer(case)

    def call(hparams, params, train, valid, indices, key):
        step = train_step(case, train, hparams)
        final, _ = of_scan(step, (params, rule.init(params)), indices)

        def trained(hparams):
            found = optimistix.minimise(
                lambda params, args: inner_loss(params, *args),
                stay,
                final,
                (hparams, take(train, indices[-1])),
                max_steps=1,
                adjoint=optimistix.ImplicitAdjoint(normal_cg),
                throw=False,
            )
            return outer_loss(found.value, hparams, valid)

        return jax.value_and_grad(trained)(hparams)

    return prepare(case, call)


FORMS = {
    "optimistix, log T checkpoints": functools.partial(recursive, store_all=False),
    "optimistix, T checkpoints": functools.partial(recursive, store_all=True),
    "optimistix, implicit": implicit,
}
