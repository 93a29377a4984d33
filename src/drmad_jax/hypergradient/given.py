"""What a user hands over, checked, and the run that it makes."""

import jax
from jaxtyping import Array, PyTree

from drmad_jax._checks.arguments import (
    check_batches,
    check_count,
    check_given,
    check_key,
    check_scalar,
)
from drmad_jax.methods.drmad import drmad
from drmad_jax.problem import Problem, TrainState
from drmad_jax.protocol import Estimator, Method
from drmad_jax.training.run import Run, initial_state


def check_problem(problem: Problem, num_steps: int) -> None:
    """Raises unless these are a problem and a number of steps."""
    if not isinstance(problem, Problem):
        raise TypeError(f"`problem` must be a drmad_jax.Problem, got {type(problem).__name__}")
    check_count("hypergradient", "num_steps", num_steps)


def chosen(
    problem: Problem, num_steps: int, method: Method | Estimator | None
) -> Method | Estimator:
    """The method, `drmad()` if `None`, checked with problem and number of steps."""
    check_problem(problem, num_steps)
    method = drmad() if method is None else method
    if not isinstance(method, Method | Estimator):
        raise TypeError(
            f"`method` must be a method value such as drmad_jax.drmad(), got {method!r}"
        )
    return method


def given(
    problem: Problem,
    num_steps: int,
    hparams: PyTree,
    params: PyTree,
    inner_batches: PyTree,
    model_state: PyTree,
    key: Array | None,
) -> tuple[PyTree, PyTree, Run]:
    """Hyperparameters and weights (or a state to go on from) as arrays, and the run."""
    first = 0
    if isinstance(params, TrainState):
        if model_state is not None:
            raise ValueError(
                "`model_state` is part of the TrainState that is given for `params`: give it there"
            )
        first = params.step
        hparams, weights = check_given(hparams, params.params)
        params = params._replace(params=weights)
    else:
        hparams, params = check_given(hparams, params)
    check_key("hypergradient", key)
    inner_batches = check_batches(inner_batches, num_steps)
    start = lambda hparams: initial_state(problem, hparams, params, model_state)
    return hparams, params, Run(problem, num_steps, inner_batches, key, start, first)


def check_losses(run: Run, state: TrainState, hparams: PyTree, outer_batch: PyTree) -> None:
    """Looks at what both losses return, at trace time and at no cost."""

    def inner(state, hparams):
        batch, key = run.inputs(state.step)
        return run.problem.inner(state.params, hparams, batch, state.model_state, key)[0]

    check_scalar("inner_loss", jax.eval_shape(inner, state, hparams))
    outer = jax.eval_shape(run.problem.outer, state.params, hparams, outer_batch, state.model_state)
    check_scalar("outer_loss", outer)
