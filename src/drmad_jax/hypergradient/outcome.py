"""What comes out, and what is computed where training and the way back end."""

from typing import Any, NamedTuple

from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.protocol import Info, Method
from drmad_jax.training.run import Run, Start
from drmad_jax.training.step import Cotangent, outer_cotangent


class Hypergradient(NamedTuple):
    """The outcome of one training run and its reverse pass.

    Attributes:
        value: Outer loss E(w_T, λ) at the end of training.
        grad: dE/dλ, like `hparams`.
        params: Trained weights w_T.
        state: The whole final training state.
        initial_params_grad: dE/dw_0, like `params`; `None` from methods that do not see the start.
            Where a `TrainState` was given, its cotangent, `None` at leaves without a derivative.
        info: What happened on the way.
    """

    value: Float[Array, ""]
    grad: PyTree
    params: PyTree
    state: TrainState
    initial_params_grad: PyTree
    info: Info


def turned(
    run: Run, method: Method, final: TrainState, trace: Any, hparams: PyTree, outer_batch: PyTree
) -> tuple[Float[Array, ""], Cotangent]:
    """The outer loss at the end of training, and the cotangent that goes back from there."""
    judged = method.judged(final, trace)
    value, cotangent = outer_cotangent(run.problem, judged, hparams, outer_batch)
    if judged is not final:
        value = run.problem.outer(final.params, hparams, outer_batch, final.model_state)
    return value, cotangent


def finished(
    run: Run,
    method: Method,
    start: Start,
    hparams: PyTree,
    value: Float[Array, ""],
    final: TrainState,
    cotangent: Cotangent,
    info: Info,
) -> Hypergradient:
    """What comes out, once the cotangent has arrived at the initial state."""
    grad, d_params = cotangent.hparams, None
    if method.reaches_start(run):
        grad, d_params, _ = start.pull(cotangent)
    grad = tree.cast_like(grad, hparams)
    info = info._replace(finite=tree.all_finite((value, grad)))
    final = run.counted(final)
    return Hypergradient(value, grad, final.params, final, d_params, info)
