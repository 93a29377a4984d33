"""Real-time mode: hyperparameters are updated while training goes on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import (
    check_batches,
    check_count,
    check_given,
    check_key,
    check_scalar,
)
from drmad_jax.loops.outer import OuterOptimizer
from drmad_jax.problem import Problem, TrainState, init_state
from drmad_jax.training.run import Run, forward_scan
from drmad_jax.training.step import outer_cotangent
from drmad_jax.training.tangents import (
    contract,
    initial_tangents,
    push_tangents,
    reshape_like,
    unit_directions,
)


class RealTimeState(NamedTuple):
    """What real-time training carries.

    Attributes:
        train: The training state.
        tangents: Z = ∂(training state)/∂λ, a `TrainState` with a leading axis of one tangent for
            each hyperparameter entry, `None` at leaves without a derivative.
        hparams: The hyperparameters as they are now.
        outer_state: State of the outer optimizer.
    """

    train: TrainState
    tangents: TrainState
    hparams: PyTree
    outer_state: PyTree


class RealTimeInfo(NamedTuple):
    """What a real-time step reports.

    Attributes:
        value: Outer loss after the inner steps, before the hyperparameters change.
        grad: Its hypergradient, like `hparams`.
        finite: Whether both are finite.
        tangent_norm: Largest L2 norm of ∂w/∂λ over the hyperparameter entries. Growing without
            bound, training is chaotic and the hypergradient is not to be trusted.
    """

    value: Float[Array, ""]
    grad: PyTree
    finite: Bool[Array, ""]
    tangent_norm: Float[Array, ""]


class RealTime(NamedTuple):
    """A pair of pure functions; made by `real_time`.

    Attributes:
        init: `(hparams, params, *, model_state=None) -> RealTimeState`.
        step: `(state, inner_batches, outer_batch, *, key=None) -> (RealTimeState, RealTimeInfo)`.
    """

    init: Callable[..., RealTimeState]
    step: Callable[..., tuple[RealTimeState, RealTimeInfo]]


def real_time(problem: Problem, outer_optimizer: OuterOptimizer, *, every: int) -> RealTime:
    """Real-time hyperparameter optimization: an outer update after every Δ inner steps.

    RTHO (Franceschi et al. 2017): Z ← A_t Z + B_t travels with training as in `forward`; after
    every Δ-th step λ is updated along ∂E/∂s_t · Z_t + ∂E/∂λ, and training goes on. As published,
    Z is kept across updates; to start it anew, replace `state.tangents` by zeros.

    Args:
        problem: Inner loss, outer loss and optimizer.
        outer_optimizer: Of the hyperparameters, such as `outer_optimizer(optax.adam(1e-2))`.
        every: Number Δ of inner steps between updates.

    Returns:
        A `RealTime` pair of `init` and `step`, to be jitted, vmapped and scanned by the caller.
        `step` takes Δ inner batches, stacked along a leading axis or as a callable of the step
        since the start of training, such as `minibatches`; an outer batch; and the key of the
        whole run, the same at every call (inner step t passes `jax.random.fold_in(key, t)`).

    Cost:
        Memory: N + 1 training states for N hyperparameter entries, at any length. Time: each
        tangent costs about 1.5 trainings.
    Bias:
        Exact while the hyperparameters stand still. After updates it is the derivative along a
        shift common to all steps so far, though they ran at different values. It looks back only:
        what a learning rate does to later steps is not seen, which makes it greedy.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind, shape or dtype.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, lr, x: jnp.sum((w - x) ** 2)
        >>> problem = dj.Problem(loss, loss, lambda lr: optax.sgd(lr))
        >>> rtho = dj.real_time(problem, dj.outer_optimizer(optax.sgd(0.125)), every=2)
        >>> state = rtho.init(jnp.float32(0.25), jnp.zeros(1))
        >>> state, info = jax.jit(rtho.step)(state, jnp.ones((2, 1)), jnp.ones(1))
        >>> float(info.grad), float(state.hparams)  # E = (1 − 2 lr)⁴
        (-1.0, 0.375)
    """
    _check(problem, outer_optimizer, every)

    def init(hparams: PyTree, params: PyTree, *, model_state: PyTree = None) -> RealTimeState:
        hparams, params = check_given(hparams, params)
        start = lambda h: init_state(problem, h, params, model_state=model_state)
        tangents = initial_tangents(start, hparams, _all_directions(hparams))
        return RealTimeState(start(hparams), tangents, hparams, outer_optimizer.init(hparams))

    def step(
        state: RealTimeState,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        key: Array | None = None,
    ) -> tuple[RealTimeState, RealTimeInfo]:
        inner_batches = check_batches(inner_batches, every)
        check_key("real_time", key)
        hparams, directions = state.hparams, _all_directions(state.hparams)

        # Stacked batches are those of this call alone.
        offset = 0 if callable(inner_batches) else -state.train.step
        run = Run(
            problem, every, inner_batches, key, lambda hparams: state.train, batch_offset=offset
        )
        inner = lambda carry: push_tangents(run.step, carry[0], hparams, carry[1], directions)
        (train, tangents), _ = forward_scan(inner, (state.train, state.tangents), [every])
        value = jax.eval_shape(problem.outer, train.params, hparams, outer_batch, train.model_state)
        check_scalar("outer_loss", value)
        value, cotangent = outer_cotangent(problem, train, hparams, outer_batch)
        grad = reshape_like(contract(cotangent.state, tangents), hparams)
        grad = tree.add(cotangent.hparams, grad)
        grad = tree.cast_like(grad, hparams)
        finite = jnp.isfinite(value) & tree.all_finite(grad)
        norms = jnp.sqrt(jax.vmap(tree.squared_norm)(tangents.params))
        hparams, outer_state = outer_optimizer.update(grad, state.outer_state, hparams)
        info = RealTimeInfo(value, grad, finite, jnp.max(norms))
        return RealTimeState(train, tangents, hparams, outer_state), info

    return RealTime(init, step)


def _all_directions(hparams: PyTree) -> PyTree:
    count = sum(leaf.size for leaf in jax.tree.leaves(hparams))
    return unit_directions(hparams, jnp.arange(count, dtype=jnp.int32))


def _check(problem: Any, outer_optimizer: Any, every: Any) -> None:
    if not isinstance(problem, Problem):
        raise TypeError(
            f"real_time: `problem` must be a drmad_jax.Problem, got {type(problem).__name__}"
        )
    if isinstance(outer_optimizer, optax.GradientTransformation) or not isinstance(
        outer_optimizer, OuterOptimizer
    ):
        raise TypeError(
            "real_time: `outer_optimizer` must come from drmad_jax.outer_optimizer(...), "
            f"got {type(outer_optimizer).__name__}: wrap your optax optimizer in it"
        )
    check_count("real_time", "every", every)
