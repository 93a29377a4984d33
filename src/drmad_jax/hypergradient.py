"""The entry points: `hypergradient`, the differentiable `train`, and plain `trained`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import (
    check_batches,
    check_count,
    check_given,
    check_inexact,
    check_key,
    check_scalar,
)
from drmad_jax._checks.closures import constant, refuse_closures
from drmad_jax.methods.certificate import certificate
from drmad_jax.methods.drmad import drmad
from drmad_jax.problem import Problem, TrainState, init_state
from drmad_jax.protocol import Certificate, Estimator, Info, Method, resolved
from drmad_jax.training.run import Run, Start, started
from drmad_jax.training.step import init_cotangent, outer_cotangent


class Hypergradient(NamedTuple):
    """The outcome of one training run and its reverse pass.

    Attributes:
        value: Outer loss E(w_T, λ) at the end of training.
        grad: dE/dλ, like `hparams`.
        params: Trained weights w_T.
        state: The whole final training state.
        initial_params_grad: dE/dw_0, like `params`; `None` from methods that do not see the start.
        info: What happened on the way.
    """

    value: Float[Array, ""]
    grad: PyTree
    params: PyTree
    state: TrainState
    initial_params_grad: PyTree
    info: Info


def hypergradient(
    problem: Problem,
    *,
    num_steps: int,
    method: Method | Estimator | None = None,
    certify: int | None = None,
) -> Callable[..., Hypergradient]:
    """The gradient of the outer loss after training, with respect to the hyperparameters.

    dE/dλ of E(w_T(λ), λ), where w_T comes from `num_steps` optimizer steps on the inner loss.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_steps: Number of inner steps T.
        method: How; `drmad()` if `None`.
        certify: With `info.certificate`, what the hypergradient is worth, from one tangent of the
            true training along it (about two trainings more) and this number of further ones in
            random directions; `None` for without.

    Returns:
        A pure function `(hparams, params, inner_batches, outer_batch, *, model_state=None,
        key=None) -> Hypergradient`, to be jitted, vmapped and sharded by the caller.
        `hparams`: any pytree of floating-point arrays. `params`: initial weights. `inner_batches`:
        a pytree with leading axis T, or a function `step -> batch` such as `minibatches`; `None`
        for losses that take no batch. A function of one's own has to be made inside what is
        jitted, or be a `jax.tree_util.Partial`.
        `outer_batch`: whatever the outer loss takes. `model_state`: initial model state. `key`:
        key of the run; step t passes `jax.random.fold_in(key, t)` to an inner loss (or a
        composite's `predict`) that takes the keyword `key`, and methods that draw derive their own
        from it.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind, shape or dtype, when called.

    Warns:
        UserWarning: If the method differentiates the optimizer, and that has no finite derivative
            where a gradient is exactly zero (`optax.adam` without `eps_root`); and of
            hyperparameters that the method gets wrong, by name.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, lambda w, l2, x: jnp.sum((w - x) ** 2), optax.sgd(0.1))
        >>> step = jax.jit(dj.hypergradient(problem, num_steps=50, method=dj.stored()))
        >>> out = step(1.0, jnp.zeros(1), jnp.ones((50, 1)), jnp.ones(1))
        >>> round(float(out.value), 4), round(float(out.grad), 4)  # w = 1/(1+l2)
        (0.25, 0.25)
    """
    method = _checked(problem, num_steps, method)
    if certify is not None:
        check_count("hypergradient", "certify", certify, least=0)

    def compute(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Hypergradient:
        hparams, params, run = _run(
            problem, num_steps, hparams, params, inner_batches, model_state, key
        )
        start = started(run, hparams, params, model_state)
        _check_losses(run, start.state, hparams, outer_batch)
        if isinstance(method, Estimator):
            out = _estimate(method, run, start, hparams, outer_batch)
        else:
            out = _differentiate(method, run, start, hparams, outer_batch)
        if certify is None:
            return out
        found = certificate(
            run, start.state, hparams, outer_batch, out.grad, num_directions=certify
        )
        return out._replace(info=out.info._replace(certificate=found))

    return compute


def certify(
    problem: Problem, *, num_steps: int, num_directions: int = 0
) -> Callable[..., Certificate]:
    """What any vector is worth as a hypergradient: one of one's own, of another seed, a mean.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_steps: Number of inner steps T.
        num_directions: Number of random directions across the vector that tell the true
            hypergradient's norm, and so the cosine: each a tangent of training, all in one `vmap`.

    Returns:
        A pure function `(estimate, hparams, params, inner_batches, outer_batch, *,
        model_state=None, key=None) -> Certificate`; `estimate` is like `hparams`, the other
        arguments are those of a hypergradient.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind, shape or dtype.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: 0.5 * jnp.sum((w - h) ** 2)
        >>> problem = dj.Problem(loss, lambda w, h, x: jnp.sum(w * x), optax.sgd(1.0))
        >>> certify = jax.jit(dj.certify(problem, num_steps=1, num_directions=1))
        >>> target, outer = jnp.zeros(2), jnp.array([3.0, 4.0])  # The hypergradient is `outer`.
        >>> found = certify(jnp.array([2.0, 0.0]), target, jnp.ones(2), jnp.zeros(1), outer)
        >>> [round(float(x), 4) for x in (found.slope, found.ratio, found.norm, found.cosine)]
        [3.0, 1.5, 5.0, 0.6]
    """
    _check_problem(problem, num_steps)
    check_count("certify", "num_directions", num_directions, least=0)

    def call(
        estimate: PyTree,
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Certificate:
        hparams, params, run = _run(
            problem, num_steps, hparams, params, inner_batches, model_state, key
        )
        estimate = check_inexact("estimate", estimate)
        shapes = lambda pytree: jax.tree.map(jnp.shape, pytree)
        if shapes(estimate) != shapes(hparams):
            raise ValueError(
                f"certify: `estimate` must be like `hparams`, {shapes(hparams)}, got "
                f"{shapes(estimate)}"
            )
        state = run.start(hparams)
        _check_losses(run, state, hparams, outer_batch)
        return certificate(
            run, state, hparams, outer_batch, estimate, num_directions=num_directions
        )

    return call


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
    _check_problem(problem, num_steps)

    def call(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> TrainState:
        hparams, params, run = _run(
            problem, num_steps, hparams, params, inner_batches, model_state, key
        )
        return run.train(run.start(hparams), hparams)

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
    checked = _checked(problem, num_steps, method)
    if isinstance(checked, Estimator):
        raise ValueError(
            f"train: {checked} estimates the gradient of a loss and cannot pull back a cotangent "
            "of the final state: give it to hypergradient, or use a method with a reverse pass"
        )

    def begin(hparams, params, inner_batches, model_state, key):
        _, params, run = _run(problem, num_steps, hparams, params, inner_batches, model_state, key)
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
        hparams, params, run = _run(
            problem, num_steps, hparams, params, inner_batches, model_state, key
        )
        chosen = resolved(checked, run, run.start(hparams), hparams)
        if chosen.is_native:
            return chosen.forward(run, run.start(hparams), hparams)[0]
        inner_batches = constant("inner_batches", run.inner_batches)
        if not chosen.reaches_start(run):
            params = constant("params", params)
            model_state = constant("model_state", model_state)
        differentiable = _with_rule(chosen, begin)
        inputs = hparams, params, inner_batches, model_state, key
        refuse_closures(first_step, *inputs)
        return differentiable(*inputs)

    return call


def _with_rule(method: Method, begin: Callable[..., tuple[Run, "Start"]]) -> Callable:
    """Training with the method's way back as its derivative."""

    def plain(*inputs):
        run, start = begin(*inputs)
        return method.forward(run, start.state, inputs[0])[0]

    def forward(*inputs):
        run, start = begin(*inputs)
        final, trace = method.forward(run, start.state, inputs[0])
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


def _check_problem(problem: Problem, num_steps: int) -> None:
    if not isinstance(problem, Problem):
        raise TypeError(f"`problem` must be a drmad_jax.Problem, got {type(problem).__name__}")
    check_count("hypergradient", "num_steps", num_steps)


def _checked(
    problem: Problem, num_steps: int, method: Method | Estimator | None
) -> Method | Estimator:
    _check_problem(problem, num_steps)
    method = drmad() if method is None else method
    if not isinstance(method, Method | Estimator):
        raise TypeError(
            f"`method` must be a method value such as drmad_jax.drmad(), got {method!r}"
        )
    return method


def _run(problem, num_steps, hparams, params, inner_batches, model_state, key):
    """Hyperparameters and weights as arrays, and the run."""
    hparams, params = check_given(hparams, params)
    check_key("hypergradient", key)
    inner_batches = check_batches(inner_batches, num_steps)
    start = lambda hparams: init_state(problem, hparams, params, model_state=model_state)
    return hparams, params, Run(problem, num_steps, inner_batches, key, start)


def _differentiate(
    method: Method, run: Run, start: Start, hparams: PyTree, outer_batch: PyTree
) -> Hypergradient:
    """The hypergradient by a method that goes from the final state's cotangent back."""
    outer = lambda h: run.problem.outer(start.state.params, h, outer_batch, start.state.model_state)
    method = resolved(method, run, start.state, hparams, outer)
    final, trace = method.forward(run, start.state, hparams)
    judged = method.judged(final, trace)
    value, cotangent = outer_cotangent(run.problem, judged, hparams, outer_batch)
    if judged is not final:
        value = run.problem.outer(final.params, hparams, outer_batch, final.model_state)
    cotangent, info = method.backward(run, trace, hparams, cotangent)
    grad, d_params = cotangent.hparams, None
    if method.reaches_start(run):
        grad, d_params, _ = start.pull(cotangent)
    grad = tree.cast_like(grad, hparams)
    info = info._replace(finite=tree.all_finite((value, grad)))
    return Hypergradient(value, grad, final.params, final, d_params, info)


def _estimate(
    method: Estimator, run: Run, start: Start, hparams: PyTree, outer_batch: PyTree
) -> Hypergradient:
    """The hypergradient by a method that only asks for the outer losses of whole runs."""

    def evaluate(hparams: PyTree) -> tuple[Float[Array, ""], TrainState]:
        final = run.train(run.start(hparams), hparams)
        return run.problem.outer(final.params, hparams, outer_batch, final.model_state), final

    key = None if run.key is None else run.draw_key()
    value, final, grad, info = method.estimate(evaluate, hparams, key)
    grad = tree.cast_like(grad, hparams)
    info = info._replace(finite=tree.all_finite((value, grad)))
    return Hypergradient(value, grad, final.params, final, None, info)


def _check_losses(run: Run, state: TrainState, hparams: PyTree, outer_batch: PyTree) -> None:
    """Looks at what both losses return, at trace time and at no cost."""

    def inner(state, hparams):
        batch, key = run.inputs(state.step)
        return run.problem.inner(state.params, hparams, batch, state.model_state, key)[0]

    check_scalar("inner_loss", jax.eval_shape(inner, state, hparams))
    outer = jax.eval_shape(run.problem.outer, state.params, hparams, outer_batch, state.model_state)
    check_scalar("outer_loss", outer)
