"""One step of training forwards, and the same step backwards."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax.problem import Problem, TrainState
from drmad_jax.training.curvature import Curvature, inner_gradient


class StepInfo(NamedTuple):
    """What a train step reports: the inner loss before the step."""

    loss: Float[Array, ""]


class Cotangent(NamedTuple):
    """What the reverse pass carries.

    Attributes:
        state: Cotangent of the training state: a `TrainState` with `None` wherever the state has
            no floating-point leaf.
        hparams: The hypergradient accumulated so far, like the hyperparameters, in at least
            float32.
    """

    state: TrainState
    hparams: PyTree


class ReverseInfo(NamedTuple):
    """What a reverse step or segment reports.

    Attributes:
        cotangent_norm: Norm of the weights' cotangent after it.
        residual: What a segment's Krylov space leaves of its equation; `None` for a single step.
        curvatures: The curvature that the cotangent meets where a segment's way back begins and
            ends, shape (2,); `None` for a single step.
    """

    cotangent_norm: Float[Array, ""]
    residual: Float[Array, ""] | None = None
    curvatures: Float[Array, "2"] | None = None


def train_step(
    problem: Problem,
    state: TrainState,
    hparams: PyTree,
    batch: PyTree,
    *,
    key: Array | None = None,
    curvature: Curvature | None = "hessian",
) -> tuple[TrainState, StepInfo]:
    """One step of training, w, s ← Φ_t(w, s, λ), pure and differentiable in state and hparams.

    Args:
        problem: The problem.
        state: The state before the step; its `step` is t.
        hparams: Hyperparameters.
        batch: The inner batch of this step.
        key: Key of the whole run; the step uses `jax.random.fold_in(key, t)`.
        curvature: The derivative that reverse mode sees (see `inner_gradient`); `None` for plain
            JAX differentiation, which forward mode needs.

    Returns:
        The next state, every leaf in the dtype it came in, and a `StepInfo`.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: 0.5 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, loss, optax.sgd(0.5))
        >>> state = dj.init_state(problem, {}, jnp.ones(1))
        >>> state, info = dj.train_step(problem, state, {}, None)
        >>> float(state.params[0]), int(state.step)
        (0.5, 1)
    """
    own_key = step_key(key, state.step)
    return push_forward(problem, state, hparams, batch, own_key, curvature=curvature)


def push_forward(
    problem: Problem,
    state: TrainState,
    hparams: PyTree,
    batch: PyTree,
    key: Array | None,
    *,
    curvature: Curvature | None,
) -> tuple[TrainState, StepInfo]:
    """`train_step` with the step's own key."""
    gradient = inner_gradient(problem, curvature)
    grads, (loss, model_state) = gradient(state.params, hparams, state.model_state, batch, key)
    updates, opt_state = optimizer_update(problem, hparams)(
        grads, state.opt_state, state.params, loss
    )
    params = optax.apply_updates(state.params, updates)
    new = TrainState(params, opt_state, model_state, state.step + 1)
    _check_same_structure(new, state)
    return tree.cast_like(new, state), StepInfo(loss)


def step_key(key: Array | None, step: Array | int) -> Array | None:
    """A step's own key, from the key of the run."""
    return None if key is None else jax.random.fold_in(key, step)


def optimizer_update(problem: Problem, hparams: PyTree) -> Callable[..., tuple[PyTree, PyTree]]:
    """The optimizer's update at these hyperparameters, `(grads, opt_state, params, loss)`.

    It raises a `TypeError` of optimizers that ask for more than a gradient and the loss's value.
    """
    transformation = problem.transformation(hparams)

    def with_what_it_takes(grads, opt_state, params, loss):
        try:
            return transformation.update(grads, opt_state, params, value=loss, grad=grads)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
        # Some say that they take more, and do not (optax.contrib.sam).
        return transformation.update(grads, opt_state, params)

    def update(grads, opt_state, params, loss):
        with _told_of_what_is_asked():
            try:
                updates, state = with_what_it_takes(grads, opt_state, params, loss)
            except (TypeError, ValueError):
                # optax.lookahead wants the gradients of half of its weights.
                if not isinstance(params, optax.LookaheadParams):
                    raise
                updates, state = with_what_it_takes(grads.fast, opt_state, params, loss)
        _check_updates(updates, params)
        return updates, state

    return update


# What an optimizer's own error names, and what to do about it.
_ASKED = {
    "value_fn": (
        "asks for the loss as a function (`value_fn`), as line searches do, and no method goes "
        "back through their loops: take a learning rate, such as "
        "optax.lbfgs(0.1, linesearch=None)"
    ),
    "obj_fn": (
        "asks for the loss as a function (`obj_fn`), to estimate curvature: take one that moves "
        "by the gradient, such as optax.adam"
    ),
    "grad_fn": (
        "asks for further gradients inside a step (`grad_fn`): take one that gets by with a "
        "gradient each step, such as optax.contrib.sam(..., opaque_mode=False)"
    ),
    "no attribute fast": (
        "keeps two copies of the weights: give params=optax.LookaheadParams.init_synced(params), "
        "and let the losses read params.fast in training and params.slow after it"
    ),
}


@contextlib.contextmanager
def _told_of_what_is_asked() -> Iterator[None]:
    """Says what to do where an optimizer misses something, in place of its own error."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        said = str(error).replace("'", "")
        asked = next((name for name in _ASKED if name in said), None)
        if asked is None:
            raise
        raise TypeError(f"this optimizer {_ASKED[asked]}") from error


def _check_updates(updates: PyTree, params: PyTree) -> None:
    """An update of another shape would be broadcast, and train something else."""
    shapes = lambda pytree: [jnp.shape(leaf) for leaf in jax.tree.leaves(pytree)]
    if shapes(updates) != shapes(params):
        raise ValueError(
            f"the optimizer returns updates of shapes {shapes(updates)} for weights of shapes "
            f"{shapes(params)}: optimizers that take the gradient of each example "
            "(optax.contrib.dpsgd) do not get them here"
        )


def reverse_step(
    problem: Problem,
    state: TrainState,
    hparams: PyTree,
    batch: PyTree,
    cotangent: Cotangent,
    *,
    key: Array | None = None,
    curvature: Curvature = "hessian",
    weight: Float[Array, ""] | float | None = None,
) -> tuple[Cotangent, ReverseInfo]:
    """One step of the reverse pass, linearised at `state`.

    s̄ ← (∂Φ_t/∂s)ᵀ s̄ and λ̄ ← λ̄ + weight · (∂Φ_t/∂λ)ᵀ s̄, both from a single `jax.vjp` of the train
    step. Whether `state` is the state that training passed through, or a stand-in from a path, is
    the caller's choice.

    Args:
        problem: The problem.
        state: Where step t is linearised; its `step` is t.
        hparams: Hyperparameters.
        batch: The inner batch of step t.
        cotangent: The cotangent of the state after step t.
        key: Key of the whole run.
        curvature: "hessian" or "gauss_newton".
        weight: How many steps this one stands for in the hypergradient; `None` for one.

    Returns:
        The cotangent of the state before step t, and a `ReverseInfo`.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: 0.5 * h * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, loss, optax.sgd(0.5))
        >>> state = dj.init_state(problem, jnp.float32(1), jnp.ones(1))
        >>> cotangent = dj.init_cotangent(state, jnp.float32(1), params=jnp.ones(1))
        >>> cotangent, info = dj.reverse_step(problem, state, jnp.float32(1), None, cotangent)
        >>> float(cotangent.state.params[0]), float(cotangent.hparams)
        (0.5, -0.5)
    """
    own_key = step_key(key, state.step)

    def step(state: TrainState, hparams: PyTree) -> TrainState:
        return push_forward(problem, state, hparams, batch, own_key, curvature=curvature)[0]

    return pull_back(step, state, hparams, cotangent, weight)


def pull_back(
    step: Callable[[TrainState, PyTree], TrainState],
    state: TrainState,
    hparams: PyTree,
    cotangent: Cotangent,
    weight: Float[Array, ""] | float | None = None,
) -> tuple[Cotangent, ReverseInfo]:
    """`reverse_step` for any step, `(state, hparams) -> state`."""
    inexact, rest = tree.partition(state)
    of_inexact = lambda inexact, h: tree.partition(step(tree.combine(inexact, rest), h))[0]
    d_state, d_hparams = jax.vjp(of_inexact, inexact, hparams)[1](cotangent.state)
    if weight is not None:
        d_hparams = jax.tree.map(lambda g: g * jnp.asarray(weight, g.dtype), d_hparams)
    accumulated = tree.add(cotangent.hparams, d_hparams)
    norm = jnp.sqrt(tree.squared_norm(d_state.params))
    return Cotangent(d_state, accumulated), ReverseInfo(norm)


def init_cotangent(
    state: TrainState,
    hparams: PyTree,
    *,
    params: PyTree = None,
    model_state: PyTree = None,
    accumulated: PyTree = None,
) -> Cotangent:
    """The cotangent with which the reverse pass starts.

    Args:
        state: The final training state, for structure and dtypes.
        hparams: Hyperparameters, for structure and dtypes.
        params: ∂E/∂w at the end; zeros if `None`.
        model_state: ∂E/∂(model state) at the end, `None` at leaves without a derivative; zeros if
            `None`.
        accumulated: The direct ∂E/∂λ; zeros if `None`.

    Returns:
        A `Cotangent` with a float32 (or wider) accumulator.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> problem = dj.Problem(lambda w, h, x: w.sum(), lambda w, h, x: w.sum(), optax.sgd(1.0))
        >>> state = dj.init_state(problem, {}, jnp.ones(2))
        >>> dj.init_cotangent(state, {}).state.params.tolist()
        [0.0, 0.0]
    """
    zeros = tree.zeros_like(tree.partition(state)[0])
    d_state = zeros._replace(
        params=zeros.params if params is None else params,
        model_state=zeros.model_state if model_state is None else model_state,
    )
    source = tree.zeros_like(hparams) if accumulated is None else accumulated
    widen = lambda x: jnp.asarray(x, tree.accumulation_dtype(jnp.result_type(x)))
    return Cotangent(d_state, jax.tree.map(widen, source))


def outer_cotangent(
    problem: Problem, final: TrainState, hparams: PyTree, outer_batch: PyTree
) -> tuple[Float[Array, ""], Cotangent]:
    """The outer loss, and the cotangent with which the way back starts."""
    inexact, rest = tree.partition(final.model_state)

    def loss(params, hparams, inexact):
        return problem.outer(params, hparams, outer_batch, tree.combine(inexact, rest))

    value, (d_params, direct, d_model_state) = jax.value_and_grad(loss, argnums=(0, 1, 2))(
        final.params, hparams, inexact
    )
    cotangent = init_cotangent(
        final, hparams, params=d_params, model_state=d_model_state, accumulated=direct
    )
    return value, cotangent


def _check_same_structure(new: TrainState, old: TrainState) -> None:
    """A step must hand on what it was handed, or it cannot be repeated."""
    for field in ("params", "opt_state", "model_state"):
        after, before = getattr(new, field), getattr(old, field)
        shapes = lambda x: [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        same = jax.tree.structure(after) == jax.tree.structure(before)
        if not same or shapes(after) != shapes(before):
            hint = " (as returned by inner_loss)" if field == "model_state" else ""
            raise ValueError(
                f"one step of training changes the structure or shapes of `{field}`{hint}: "
                f"before {_describe(before)}, after {_describe(after)}"
            )


def _describe(pytree: PyTree) -> str:
    return str(jax.tree.map(lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}", pytree))
