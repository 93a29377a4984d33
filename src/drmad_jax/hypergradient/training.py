"""Training: plain, and as a function that a method differentiates."""

from collections.abc import Callable

import jax
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.closures import constant, refuse_closures
from drmad_jax.hypergradient.given import check_problem, chosen, given
from drmad_jax.problem import Problem, TrainState
from drmad_jax.protocol import Estimator, Method, resolved
from drmad_jax.training.run import Run, Start, started
from drmad_jax.training.step import init_cotangent


def trained(problem: Problem, *, num_steps: int) -> Callable[..., TrainState]:
    """Plain training, with no derivative prepared: for judging, timing and looking.

    JAX can differentiate it, at the memory of all T steps; `train` brings a method along.

    Args:
        problem: Inner loss and optimizer (the outer loss is not used).
        num_steps: Number of inner steps T.

    Returns:
        A pure function `(hparams, params, inner_batches, *, model_state=None, key=None) ->
        TrainState`.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind, shape or dtype.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: jnp.sum((w - x) ** 2)
        >>> training = jax.jit(dj.trained(dj.Problem(loss, loss, optax.sgd(0.25)), num_steps=3))
        >>> float(training(0.0, jnp.float32(0), jnp.ones(3)).params)
        0.875
    """
    check_problem(problem, num_steps)

    def call(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> TrainState:
        hparams, params, run = given(
            problem, num_steps, hparams, params, inner_batches, model_state, key
        )
        return run.counted(run.train(run.start(hparams), hparams))

    return call


def train(
    problem: Problem, *, num_steps: int, method: Method | None = None
) -> Callable[..., TrainState]:
    """Training as a differentiable function: `jax.grad` of anything after it uses the method.

    Args:
        problem: Inner loss and optimizer (the outer loss is not used).
        num_steps: Number of inner steps T.
        method: How to differentiate; `drmad()` if `None`.

    Returns:
        A pure function `(hparams, params, inner_batches, *, model_state=None, key=None) ->
        TrainState`, differentiable in reverse mode with respect to `hparams`, `params` and
        `model_state` (with `unrolled()` in forward mode, and with respect to the batches, too).

    Raises:
        ValueError: When differentiated with respect to `inner_batches` (arrays whose gradient is
            wanted belong into `hparams`), to something in a closure of the losses or the
            optimizer, or to `params` by a method that does not see the start.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> train = dj.train(dj.Problem(loss, loss, optax.sgd(0.1)), num_steps=50,
        ...                  method=dj.stored())
        >>> weight = lambda l2: train(l2, jnp.zeros(()), jnp.ones(50)).params
        >>> round(float(jax.grad(weight)(1.0)), 4)  # w = 1/(1+l2)
        -0.25
    """
    checked = chosen(problem, num_steps, method)
    if isinstance(checked, Estimator):
        raise ValueError(
            f"train: {checked} estimates the gradient of a loss and cannot pull back a cotangent "
            "of the final state: give it to hypergradient, or use a method with a reverse pass"
        )

    def begin(hparams, params, inner_batches, model_state, key):
        _, params, run = given(problem, num_steps, hparams, params, inner_batches, model_state, key)
        return run, started(run, hparams, params, model_state)

    def first_step(*inputs):
        run, start = begin(*inputs)
        return run.step(start.state, inputs[0])

    def call(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> TrainState:
        hparams, params, run = given(
            problem, num_steps, hparams, params, inner_batches, model_state, key
        )
        by = resolved(checked, run, run.start(hparams), hparams)
        if by.is_native:
            return run.counted(by.forward(run, run.start(hparams), hparams)[0])
        inner_batches = constant("inner_batches", run.inner_batches)
        if not by.reaches_start(run):
            params = constant("params", params)
            model_state = constant("model_state", model_state)
        differentiable = _with_rule(by, begin)
        inputs = hparams, params, inner_batches, model_state, key
        refuse_closures(first_step, *inputs)
        return differentiable(*inputs)

    return call


def _with_rule(method: Method, begin: Callable[..., tuple[Run, "Start"]]) -> Callable:
    """Training with the method's way back as its derivative."""

    def plain(*inputs):
        run, start = begin(*inputs)
        return run.counted(method.forward(run, start.state, inputs[0])[0])

    def forward(*inputs):
        run, start = begin(*inputs)
        final, trace = method.forward(run, start.state, inputs[0])
        final = run.counted(final)
        return final, (inputs, final, trace)

    def backward(residuals, d_final):
        inputs, final, trace = residuals
        (run, start), hparams = begin(*inputs), inputs[0]
        drop = lambda c: None if c.dtype == jax.dtypes.float0 else c
        cotangent = init_cotangent(final, hparams)._replace(state=jax.tree.map(drop, d_final))
        cotangent, _ = method.backward(run, trace, hparams, cotangent)
        if not method.reaches_start(run):
            return tree.cast_like(cotangent.hparams, hparams), None, None, None, None
        grad, d_params, d_model_state = start.pull(cotangent)
        return tree.cast_like(grad, hparams), d_params, None, d_model_state, None

    differentiable = jax.custom_vjp(plain)
    differentiable.defvjp(forward, backward)
    return differentiable
