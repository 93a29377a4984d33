"""Finds optimizers that turn a gradient of exactly zero into a hypergradient of NaN."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.warning import warn
from drmad_jax.problem import Problem

_MESSAGE = (
    "this optimizer has no finite derivative where a gradient is exactly zero (a dead unit, an "
    "unused weight): the hypergradient becomes NaN there. Give optimizers of the Adam family "
    "`eps_root` above zero, as in optax.adam(learning_rate, eps_root=1e-8), and likewise for "
    "adamw, nadam, adan and lamb"
)


def warn_of_infinite_slope(problem: Problem, hparams: PyTree, params: PyTree) -> None:
    """Warns if the optimizer's first update has no finite derivative at a zero gradient.

    Adam at `eps_root=0` divides by √(v + 0), whose derivative at v = 0 is infinite (optax issue
    882). The probe runs while the caller is traced, on weights with one entry for each leaf, and
    leaves nothing in the compiled program.

    Args:
        problem: The problem, for its optimizer.
        hparams: Hyperparameters, which may be traced: a stand-in value then takes their place.
        params: Weights, or their shapes and dtypes.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax, warnings
        >>> from drmad_jax._checks.optimizer import warn_of_infinite_slope
        >>> loss = lambda w, h, x: jnp.sum(w**2)
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     for optimizer in (optax.adam(1e-3), optax.adam(1e-3, eps_root=1e-8)):
        ...         warn_of_infinite_slope(dj.Problem(loss, loss, optimizer), {}, jnp.ones(3))
        >>> len(caught)
        1
    """
    try:
        infinite = _has_infinite_slope(problem, hparams, params)
    except Exception:
        # An optimizer may ask for more than a probe can offer: for weights of their true size, for
        # values that are not known yet. It is not accused of anything.
        return
    if infinite:
        warn(_MESSAGE)


def _has_infinite_slope(problem: Problem, hparams: PyTree, params: PyTree) -> bool:
    small = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1,) * len(x.shape), x.dtype), params)
    ones = lambda: jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), small)

    def slope(grads):
        weights, optimizer = ones(), problem.transformation(hparams)
        state = optimizer.init(weights)
        value = jnp.ones((), jnp.result_type(*jax.tree.leaves(weights)))

        def update(grads):
            return tree.partition(optimizer.update(grads, state, weights, value=value, grad=grads))

        return jax.jvp(update, (grads,), (weights,), has_aux=True)[1]

    closed = jax.make_jaxpr(slope)(small)
    with jax.ensure_compile_time_eval(), jax.debug_nans(False):
        known = with_known_constants(closed)
        finite_at = lambda grads: bool(tree.all_finite(known(*jax.tree.leaves(grads))))

        # If it is not finite elsewhere either, the stand-ins are to blame.
        return not finite_at(tree.zeros_like(ones())) and finite_at(ones())


def with_known_constants(closed: ClosedJaxpr, stand_in: float = 0.5) -> Callable[..., list[Array]]:
    """A jaxpr as a function, with stand-ins for those of its constants that are traced.

    By default a half: a learning rate, a momentum and a logit.
    """

    def known(x):
        value = stand_in if tree.is_inexact(x) else 1
        return jnp.full(x.shape, value, x.dtype)

    values = [known(x) if isinstance(x, Tracer) else x for x in closed.consts]
    return jaxpr_as_fun(closed.replace(consts=values))
