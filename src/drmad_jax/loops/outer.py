"""The outer loop's update: pure init and update over any optax optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from drmad_jax import tree


class OuterOptimizer(NamedTuple):
    """A pair of pure functions; made by `outer_optimizer`.

    Attributes:
        init: `hparams -> state`.
        update: `(grad, state, hparams, **more) -> (hparams, state)`; `more` is passed on to the
            optimizer, such as the outer loss's `value=` for those that look at it.
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[..., tuple[PyTree, PyTree]]


def outer_optimizer(
    optimizer: optax.GradientTransformation,
    *,
    project: Callable[[PyTree], PyTree] | None = None,
) -> OuterOptimizer:
    """Updates of the hyperparameters by any optax optimizer.

    A hypergradient with an entry that is not finite changes nothing: neither the hyperparameters
    nor the optimizer's state.

    Args:
        optimizer: Any optax optimizer; `optax.sign_sgd` for the sign updates of Fu et al. 2016.
        project: `hparams -> hparams`, applied after each update, for example one of optax's
            projections onto a simplex or a box.

    Returns:
        An `OuterOptimizer`.

    Raises:
        TypeError: If an argument is not of its kind.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> outer = dj.outer_optimizer(optax.sgd(0.5), project=lambda h: jnp.clip(h, 0, 1))
        >>> hparams = jnp.array([0.2, 0.8])
        >>> hparams, state = outer.update(jnp.array([1.0, -0.2]), outer.init(hparams), hparams)
        >>> [round(float(h), 2) for h in hparams]
        [0.0, 0.9]
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "outer_optimizer: `optimizer` must be an optax.GradientTransformation, got "
            f"{type(optimizer).__name__}"
        )
    if project is not None and not callable(project):
        raise TypeError(f"outer_optimizer: `project` must be a function, got {project!r}")
    takes_more = optax.with_extra_args_support(optimizer)

    def update(grad: PyTree, state: PyTree, hparams: PyTree, **more: Any) -> tuple[PyTree, PyTree]:
        updates, new_state = takes_more.update(grad, state, hparams, **more)
        new = optax.apply_updates(hparams, updates)
        new = new if project is None else project(new)
        if jax.tree.structure(new) != jax.tree.structure(hparams):
            raise ValueError(
                "outer_optimizer: `project` must return hyperparameters like those that it gets, "
                f"{jax.tree.structure(hparams)}, got {jax.tree.structure(new)}"
            )
        finite = tree.all_finite(grad)
        keep = lambda new, old: jnp.where(finite, new, old)
        return jax.tree.map(keep, (new, new_state), (hparams, state))

    return OuterOptimizer(optimizer.init, update)
