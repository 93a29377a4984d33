"""jaxopt: its optax wrapper unrolled, and its implicit differentiation.

`OptaxSolver.run` holds its data fixed and `run_iterator` is a Python loop; minibatches in a
compiled program go through `OptaxSolver.update`, which does not look at the tolerance.
"""

import functools

import jax
import jaxopt
from jaxopt import implicit_diff, linear_solve

from benchmarks.peers.subject import Case, Prepared
from benchmarks.peers.with_jax import gradient, optimizer, prepare, take
from benchmarks.problems.mlp import inner_loss, outer_loss

# On the normal equations, jaxopt's own choice: the Hessian of a minibatch is indefinite.
SOLVE = functools.partial(linear_solve.solve_normal_cg, maxiter=20, tol=1e-5)


def _train(case: Case, hparams, params, train, indices):
    solver = jaxopt.OptaxSolver(inner_loss, optimizer(case), maxiter=case.num_steps)
    state = solver.init_state(params, hparams, take(train, indices[0]))

    def step(carry, batch_indices):
        return tuple(solver.update(*carry, hparams, take(train, batch_indices))), None

    (params, _), _ = jax.lax.scan(step, (params, state), indices)
    return params


def unrolled(case: Case) -> Prepared:
    """`jax.value_and_grad` through the solver's steps."""

    def trained(hparams, params, train, valid, indices):
        return outer_loss(_train(case, hparams, params, train, indices), hparams, valid)

    return gradient(case, trained)


def implicit(case: Case) -> Prepared:
    """`custom_root` at the trained weights, on the last minibatch."""

    def call(hparams, params, train, valid, indices, key):
        @implicit_diff.custom_root(jax.grad(inner_loss), solve=SOLVE)
        def solution(params, hparams, last):
            return _train(case, hparams, params, train, indices)

        def trained(hparams):
            final = solution(params, hparams, take(train, indices[-1]))
            return outer_loss(final, hparams, valid)

        return jax.value_and_grad(trained)(hparams)

    return prepare(case, call)


FORMS = {"jaxopt, unrolled": unrolled, "jaxopt, implicit": implicit}
