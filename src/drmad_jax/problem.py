"""What is optimised: the inner loss, the outer loss, the optimizer, and the state they share."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from drmad_jax import tree


class TrainState(NamedTuple):
    """State of training before step `step`: all that one step reads and writes.

    Attributes:
        params: The weights w, any pytree of floating-point arrays.
        opt_state: State of the optax optimizer, any pytree.
        model_state: What the model carries besides its weights (batch-normalisation statistics),
            any pytree; `None` for models without.
        step: Number of steps taken so far, int32 scalar.
    """

    params: PyTree
    opt_state: PyTree
    model_state: PyTree
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class CompositeLoss:
    """A loss `criterion(predict(...)) + penalty(...)`; made by `composite_loss`."""

    predict: Callable[..., PyTree]
    criterion: Callable[..., Float[Array, ""]]
    penalty: Callable[..., Float[Array, ""]] | None = None

    def __call__(
        self,
        params: PyTree,
        hparams: PyTree,
        batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Any:
        """The loss, and the new model state behind it where one is given."""
        outputs, new_model_state = self.outputs(params, hparams, batch, model_state, key)
        loss = self.criterion(outputs, hparams, batch)
        if self.penalty is not None:
            loss = loss + self.penalty(params, hparams)
        return loss if model_state is None else (loss, new_model_state)

    def outputs(
        self, params: PyTree, hparams: PyTree, batch: PyTree, model_state: PyTree, key: Array | None
    ) -> tuple[PyTree, PyTree]:
        """The model's outputs and its new state (`None` where it has none)."""
        params, hparams, model_state = _made_here((params, hparams, model_state))
        given = _optional(self.predict, "predict", model_state, key)
        result = self.predict(params, hparams, batch, **given)
        return (result, None) if model_state is None else result


def composite_loss(
    predict: Callable[..., PyTree],
    criterion: Callable[..., Float[Array, ""]],
    penalty: Callable[..., Float[Array, ""]] | None = None,
) -> CompositeLoss:
    """An inner loss whose structure Gauss–Newton curvature can see.

    L(w, λ) = criterion(predict(w, λ, batch), λ, batch) + penalty(w, λ). Its Gauss–Newton matrix
    is Jᵀ C J + ∇²penalty, with J = ∂predict/∂w and C the Hessian of the criterion in the outputs.
    The result is called like any other inner loss.

    Args:
        predict: `(params, hparams, batch) -> outputs`, any pytree of arrays. With model state or
            randomness it takes the keywords `model_state` and `key`, and with model state it
            returns `(outputs, new_model_state)`.
        criterion: `(outputs, hparams, batch) -> scalar`, convex in `outputs`; only then is the
            Gauss–Newton matrix positive semi-definite.
        penalty: `(params, hparams) -> scalar`, taken with its full Hessian.

    Returns:
        A callable `(params, hparams, batch) -> scalar`.

    Raises:
        TypeError: If one of the arguments is not callable.

    Example:
        >>> import drmad_jax as dj
        >>> loss = dj.composite_loss(
        ...     predict=lambda w, h, x: x * w,
        ...     criterion=lambda y, h, x: (y - 1.0) ** 2,
        ...     penalty=lambda w, h: h * w**2,
        ... )
        >>> loss(2.0, 0.5, 3.0)
        27.0
    """
    for name, value in (("predict", predict), ("criterion", criterion)):
        if not callable(value):
            raise TypeError(f"composite_loss: `{name}` must be callable, got {value!r}")
    if penalty is not None and not callable(penalty):
        raise TypeError(f"composite_loss: `penalty` must be callable or None, got {penalty!r}")
    return CompositeLoss(predict, criterion, penalty)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A bilevel problem: train on the inner loss, judge by the outer loss.

    Args:
        inner_loss: `(params, hparams, batch) -> scalar`, or a `composite_loss`. If a call passes
            `key` and the loss takes the keyword `key`, it gets a fresh one for each step; if a call
            passes `model_state`, it gets the keyword `model_state` and returns
            `(scalar, new_model_state)`; without one it may return `(scalar, aux)`, of which the
            second is left alone.
        outer_loss: `(params, hparams, batch) -> scalar`, with the keyword `model_state` where
            there is one.
        optimizer: An optax optimizer, or `hparams -> optimizer` when hyperparameters live inside
            the optimizer (learning rates, momenta).
        initial_params: `(params, hparams) -> params`, where training starts when the start depends
            on hyperparameters (scales of the initial weights, the initial weights themselves).

    Raises:
        TypeError: If an argument is not of its kind.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> problem = dj.Problem(
        ...     inner_loss=lambda w, h, x: jnp.sum((w - x) ** 2) + h["l2"] * jnp.sum(w**2),
        ...     outer_loss=lambda w, h, x: jnp.sum((w - x) ** 2),
        ...     optimizer=lambda h: optax.sgd(h["lr"], momentum=0.5),
        ... )
        >>> hypergradient = jax.jit(dj.hypergradient(problem, num_steps=3, method=dj.stored()))
        >>> out = hypergradient({"l2": 0.0, "lr": 0.1}, jnp.zeros(2), jnp.ones((3, 2)), jnp.ones(2))
        >>> bool(out.info.finite)
        True
    """

    inner_loss: Callable[..., Any]
    outer_loss: Callable[..., Float[Array, ""]]
    optimizer: optax.GradientTransformation | Callable[[PyTree], optax.GradientTransformation]
    initial_params: Callable[[PyTree, PyTree], PyTree] | None = None

    def __post_init__(self):
        for name in ("inner_loss", "outer_loss"):
            if not callable(getattr(self, name)):
                raise TypeError(f"Problem: `{name}` must be callable, got {getattr(self, name)!r}")
        if not isinstance(self.optimizer, optax.GradientTransformation) and not callable(
            self.optimizer
        ):
            raise TypeError(
                "Problem: `optimizer` must be an optax.GradientTransformation or a function "
                f"hparams -> optax.GradientTransformation, got {self.optimizer!r}"
            )

    def transformation(self, hparams: PyTree) -> optax.GradientTransformationExtraArgs:
        """The optimizer at these hyperparameters."""
        optimizer = self.optimizer
        if not isinstance(optimizer, optax.GradientTransformation):
            optimizer = optimizer(hparams)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(
                "Problem: `optimizer` must return an optax.GradientTransformation when called "
                f"with hparams, got {optimizer!r}"
            )
        return optax.with_extra_args_support(optimizer)

    def inner(
        self, params: PyTree, hparams: PyTree, batch: PyTree, model_state: PyTree, key: Array | None
    ) -> tuple[Float[Array, ""], PyTree]:
        """The inner loss and the new model state (`None` where there is none)."""
        params, hparams, model_state = _made_here((params, hparams, model_state))
        given = _optional(self.inner_loss, "inner_loss", model_state, key)
        result = self.inner_loss(params, hparams, batch, **given)
        if isinstance(result, tuple) and len(result) == 2:
            loss, other = result
            return loss, None if model_state is None else other
        if model_state is not None:
            raise TypeError(
                "`inner_loss` must return `(loss, new_model_state)` where a model state is given, "
                f"got {type(result).__name__}"
            )
        return cast(Array, result), None

    def outer(
        self, params: PyTree, hparams: PyTree, batch: PyTree, model_state: PyTree
    ) -> Float[Array, ""]:
        """The outer loss."""
        params, hparams, model_state = _made_here((params, hparams, model_state))
        given = _optional(self.outer_loss, "outer_loss", model_state, None)
        return self.outer_loss(params, hparams, tree.on_device(batch), **given)


def init_state(
    problem: Problem, hparams: PyTree, params: PyTree, *, model_state: PyTree = None
) -> TrainState:
    """The training state before the first step.

    Args:
        problem: The problem to train on.
        hparams: Hyperparameters, a pytree of floating-point arrays.
        params: Initial weights, any pytree of floating-point arrays.
        model_state: Initial model state, or `None`.

    Returns:
        The state at step 0, with `problem.initial_params` applied and the optimizer initialised.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: jnp.sum(w**2)
        >>> problem = dj.Problem(loss, loss, optax.adam(1e-3))
        >>> int(dj.init_state(problem, {}, jnp.ones(3)).step)
        0
    """
    if problem.initial_params is not None:
        params = problem.initial_params(params, hparams)
    opt_state = problem.transformation(hparams).init(params)
    model_state = tree.on_device(model_state)
    state = TrainState(params, opt_state, model_state, jnp.zeros((), jnp.int32))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)


def _made_here(pytree: PyTree) -> PyTree:
    """The same, its nodes built anew: nnx forbids to change variables of an outer trace."""
    return jax.tree.map(lambda leaf: leaf, pytree)


def _optional(
    function: Callable, name: str, model_state: PyTree, key: Array | None
) -> dict[str, Any]:
    """The keywords for a loss: those given, but a key only where the loss can take one."""
    given = {"model_state": model_state, "key": key}
    given = {name: value for name, value in given.items() if value is not None}
    if "key" in given and not _binds(function, given):
        # The run may have a key for its method alone.
        del given["key"]
    for word, mend in _KEYWORDS.items():
        if word not in given and _asks_for(function, word):
            raise TypeError(f"`{name}` asks for `{word}`: {mend}")
    return given


_KEYWORDS = {
    "key": "call with key=jax.random.key(...), which training takes (an outer loss gets none)",
    "model_state": "call with model_state=...",
}


def _asks_for(function: Callable, word: str) -> bool:
    try:
        parameter = inspect.signature(function).parameters.get(word)
    except ValueError:
        return False
    if parameter is None or parameter.kind is not parameter.KEYWORD_ONLY:
        return False
    return parameter.default is parameter.empty


def _binds(function: Callable, keywords: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None, None, **keywords)
    except TypeError:
        return False
    except ValueError:
        # Nothing is known of its signature.
        return True
    return True
