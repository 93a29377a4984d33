"""Online one-step adaptation: learning rates and L2 penalties that change at every step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.loops.adaptation import Granularity, OnlineState, Rule, adaptation


def online_learning_rates(
    direction: optax.GradientTransformation | None = None,
    *,
    init: float,
    log_step: float = 0.01,
    rule: Rule = "sign",
    granularity: Granularity = "parameter",
    min_value: float = 1e-8,
    max_value: float = 10.0,
) -> optax.GradientTransformationExtraArgs:
    """Learning rates that follow their one-step hypergradient while training goes on.

    With w_t = w_{t−1} − α d_{t−1}, ∂E(w_t)/∂log α = −∇E(w_t) · α d_{t−1} (hypergradient
    descent, Baydin et al. 2018; one rate for each parameter, Almeida et al. 1999), entry by entry
    or summed over a tensor or over all. Before step t:
    log α ← log α − `log_step` · rule(∂E/∂log α), clipped to the bounds.

    Args:
        direction: Makes the direction d from the gradient, without a learning rate, such as
            `optax.scale_by_adam()` or `optax.trace(0.9)`; `None` for the gradient itself.
        init: Learning rate of the first step.
        log_step: Step of log α; .01 changes α by up to about 1 % a step under "sign".
        rule: "sign"; "raw", the hypergradient itself (in units of the loss); "cosine", divided by
            the norms of both factors (after Baydin et al.'s multiplicative rule), which differs
            from "sign" only for tensors and scalars.
        granularity: One learning rate for each "parameter", each "tensor", or a single "scalar".
        min_value: Lower bound of the learning rates.
        max_value: Upper bound of the learning rates.

    Returns:
        A complete optax optimizer (its updates are −α d), with an `OnlineState`. Its `update`
        takes the keyword `outer_grad`, the gradient at `params` of the loss E that the rates
        should serve; without it they serve the training loss on the next batch, as in Baydin et
        al., which sees the incoming gradient (after whatever stands before it in a chain).

    Cost:
        Memory: two more copies of the parameters (one for "tensor" and "scalar"), one of them in
        at least float32. Time: elementwise.
    Bias:
        Biased: it sees one step ahead, and the rates fall too soon where training is noisy (the
        short-horizon bias of Wu et al. 2018).

    Raises:
        ValueError: Unless 0 < `min_value` <= `init` <= `max_value` and `log_step` > 0, or on an
            unknown name.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> rates = dj.online_learning_rates(init=0.1, log_step=0.5)
        >>> optimizer = optax.chain(optax.clip(1.0), rates)
        >>> w = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(w)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jax.grad(lambda w: jnp.sum(w**2))(w), state, w)
        ...     w = optax.apply_updates(w, updates)
        >>> [round(float(rate), 4) for rate in state[1].values]  # 0.1 · exp(0.5)
        [0.1649, 0.1649]
    """
    bounds = min_value, max_value
    rates = adaptation("online_learning_rates", init, log_step, rule, granularity, bounds=bounds)
    direction = optax.identity() if direction is None else direction
    _check_transformation("online_learning_rates", "direction", direction)
    transform = optax.with_extra_args_support(direction)

    def start(params: PyTree) -> OnlineState:
        return rates.init(params, transform.init(params))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        *,
        outer_grad: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, OnlineState]:
        log_values = rates.step(state, updates if outer_grad is None else outer_grad)
        moves, inner = transform.update(
            updates, state.inner, params, outer_grad=outer_grad, **extra_args
        )
        scale = lambda rate, d: -rate * d
        updates = jax.tree.map(scale, rates.spread(log_values, moves), moves)
        return updates, OnlineState(log_values, tree.cast_like(updates, state.response), inner)

    return optax.GradientTransformationExtraArgs(start, update)


def online_penalties(
    optimizer: optax.GradientTransformation,
    *,
    init: float,
    log_step: float = 0.01,
    rule: Rule = "sign",
    granularity: Granularity = "parameter",
    min_value: float = 1e-8,
    max_value: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """L2 penalties that follow their one-step hypergradient while training goes on.

    Adds λ ⊙ w to the gradient, as ½ Σ λ_i w_i² in the loss would. With U the optimizer's update at
    a fixed optimizer state, ∂E(w_t)/∂log λ = ∇E(w_t) · (∂U/∂g · λ w_{t−1}), which for plain
    gradient descent is −α λ w_{t−1} · ∇E(w_t) (T1–T2, Luketina et al. 2016). Before step t:
    log λ ← log λ − `log_step` · rule(∂E/∂log λ), clipped to the bounds.

    Args:
        optimizer: Any optax optimizer; `online_learning_rates(...)` to adapt both at once (the
            adaptive method of St. Jules' experiments with completions of DrMAD).
        init: Penalty λ of the first step.
        log_step: Step of log λ; .01 changes λ by up to about 1 % a step under "sign".
        rule: "sign"; "raw", the hypergradient itself; "cosine", divided by the norms of both
            factors, which differs from "sign" only for tensors and scalars.
        granularity: One penalty for each "parameter", each "tensor", or a single "scalar".
        min_value: Lower bound of the penalties.
        max_value: Upper bound of the penalties.

    Returns:
        An optax optimizer with an `OnlineState`. Its `update` needs `params` and the keyword
        `outer_grad`, the gradient of the validation loss at `params`; it hands both on to
        `optimizer`.

    Cost:
        Memory: two more copies of the parameters (one for "tensor" and "scalar"), one of them in
        at least float32. Time: elementwise (one `jax.jvp` of the optimizer's update), and a
        gradient of the validation loss at each step, which the caller computes.
    Bias:
        Biased: it sees one step ahead, and of an optimizer with memory only what reaches the
        weights at once. Each entry's own response is exact for optimizers that act entry by entry;
        where they do not (clipping by a norm), it is the response to all penalties growing
        together. An entry that is 0 does not respond.

    Raises:
        ValueError: Unless 0 < `min_value` <= `init` <= `max_value` and `log_step` > 0, on an
            unknown name, or when `update` is called without `params` or `outer_grad`.
        TypeError: If `optimizer` is no optax optimizer.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> optimizer = dj.online_penalties(optax.sgd(0.5), init=0.1, log_step=0.5)
        >>> train, validation = (jax.grad(lambda w, x=x: jnp.sum((w - x) ** 2)) for x in (2.0, 1.0))
        >>> w = jnp.array([3.0])
        >>> state = optimizer.init(w)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(train(w), state, w, outer_grad=validation(w))
        ...     w = optax.apply_updates(w, updates)
        >>> round(float(state.values[0]), 4)  # w overshoots 1, so the penalty grows
        0.1649
    """
    bounds = min_value, max_value
    penalties = adaptation("online_penalties", init, log_step, rule, granularity, bounds=bounds)
    _check_transformation("online_penalties", "optimizer", optimizer)
    transform = optax.with_extra_args_support(optimizer)

    def start(params: PyTree) -> OnlineState:
        return penalties.init(params, transform.init(params))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        *,
        outer_grad: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, OnlineState]:
        _require("online_penalties", params=params, outer_grad=outer_grad)
        log_values = penalties.step(state, outer_grad)
        decay = jax.tree.map(jnp.multiply, penalties.spread(log_values, params), params)
        decay = tree.cast_like(decay, updates)
        step = lambda g: transform.update(
            g, state.inner, params, outer_grad=outer_grad, **extra_args
        )
        penalised = tree.add(updates, decay)
        updates, response, inner = jax.jvp(step, (penalised,), (decay,), has_aux=True)
        # Adam's square root turns a zero entry with a zero gradient into 0 · ∞.
        own = lambda r, w: jnp.where(w == 0, jnp.zeros_like(r), r)
        response = tree.cast_like(jax.tree.map(own, response, params), state.response)
        return updates, OnlineState(log_values, response, inner)

    return optax.GradientTransformationExtraArgs(start, update)


def _check_transformation(where: str, name: str, value: object) -> None:
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(
            f"{where}: `{name}` must be an optax.GradientTransformation, "
            f"got {type(value).__name__} {value!r}"
        )


def _require(where: str, **arguments: PyTree) -> None:
    mends = {
        "params": "optimizer.update(grads, state, params, ...)",
        "outer_grad": "outer_grad=..., the gradient of the validation loss at `params`",
    }
    for name, value in arguments.items():
        if value is None:
            raise ValueError(f"{where}: `update` needs `{name}`: pass {mends[name]}")
