"""Tangents of the training state: the parts of which forward mode is made."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_directions
from drmad_jax.problem import Problem, TrainState
from drmad_jax.training.step import push_forward, step_key


def tangent_step(
    problem: Problem,
    state: TrainState,
    hparams: PyTree,
    batch: PyTree,
    tangents: TrainState,
    directions: PyTree,
    *,
    key: Array | None = None,
) -> tuple[TrainState, TrainState]:
    """One step of training, and of its tangents along n directions of hyperparameter space.

    Z ← A Z + B U with A = ∂Φ_t/∂s and B = ∂Φ_t/∂λ (Franceschi et al. 2017, Alg. 2, Forward-HG);
    all n columns in one vmapped `jax.jvp`, the step itself once.

    Args:
        problem: The problem.
        state: The state before the step; its `step` is t.
        hparams: Hyperparameters.
        batch: The inner batch of this step.
        tangents: Z, the state's tangents before the step, each leaf with leading axis n; `None`
            wherever the state has no floating-point leaf.
        directions: U, like `hparams`, each leaf with leading axis n.
        key: Key of the whole run; the step uses `jax.random.fold_in(key, t)`.

    Returns:
        The state and its tangents after the step.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> from drmad_jax.training.tangents import initial_tangents, tangent_step
        >>> loss = lambda w, h, x: 0.5 * h * w**2
        >>> problem = dj.Problem(loss, loss, optax.sgd(0.5))
        >>> start = lambda h: dj.init_state(problem, h, jnp.float32(2))
        >>> h, unit = jnp.float32(1), jnp.ones(1)
        >>> tangents = initial_tangents(start, h, unit)
        >>> state, tangents = tangent_step(problem, start(h), h, None, tangents, unit)
        >>> float(state.params), tangents.params.tolist()  # w − 0.5 h w, and its −0.5 w
        (1.0, [-1.0])
    """
    own_key = step_key(key, state.step)

    def step(state: TrainState, hparams: PyTree) -> TrainState:
        return push_forward(problem, state, hparams, batch, own_key, curvature=None)[0]

    return push_tangents(step, state, hparams, tangents, directions)


def push_tangents(
    step: Callable[[TrainState, PyTree], TrainState],
    state: TrainState,
    hparams: PyTree,
    tangents: TrainState,
    directions: PyTree,
) -> tuple[TrainState, TrainState]:
    """`tangent_step` for any step, `(state, hparams) -> state`.

    Raises:
        TypeError: If the step holds a `jax.custom_vjp` that is differentiated forwards.
    """
    inexact, rest = tree.partition(state)
    of_inexact = lambda inexact, h: tree.partition(step(tree.combine(inexact, rest), h))

    def push(tangent, direction):
        return jax.jvp(of_inexact, (inexact, hparams), (tangent, direction), has_aux=True)

    # Only tangents are batched: out_axes=None says that the step itself is taken once.
    with _said_of_custom_vjp():
        new, tangents, rest = jax.vmap(push, out_axes=(None, 0, None))(tangents, directions)
    return tree.combine(new, rest), tangents


def initial_tangents(
    start: Callable[[PyTree], TrainState], hparams: PyTree, directions: PyTree
) -> TrainState:
    """Tangents of the initial state, ∂s_0/∂λ along each direction.

    Args:
        start: `hparams -> TrainState`, how training starts.
        hparams: Hyperparameters.
        directions: Like `hparams`, each leaf with leading axis n.

    Returns:
        A `TrainState` of tangents with leading axis n, `None` at leaves without a derivative.

    Raises:
        ValueError: If there are no hyperparameters.
        TypeError: If the start holds a `jax.custom_vjp` that is differentiated forwards.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> from drmad_jax.training.tangents import initial_tangents
        >>> loss = lambda w, h, x: jnp.sum(w**2)
        >>> problem = dj.Problem(loss, loss, optax.sgd(0.5), initial_params=lambda w, h: h * w)
        >>> start = lambda h: dj.init_state(problem, h, jnp.array([2.0, 3.0]))
        >>> initial_tangents(start, jnp.float32(1), jnp.ones(1)).params.tolist()
        [[2.0, 3.0]]
    """
    check_directions("forward mode", hparams)

    def push(direction):
        inexact = lambda h: tree.partition(start(h))[0]
        return jax.jvp(inexact, (hparams,), (direction,))[1]

    with _said_of_custom_vjp():
        return jax.vmap(push)(directions)


@contextlib.contextmanager
def _said_of_custom_vjp() -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise TypeError(
            "forward mode cannot go through a function under jax.custom_vjp, nor through a rule "
            "that calls its own function: let the rule call what is beneath, write a "
            "jax.custom_jvp, or use a method that goes back, such as checkpointed()"
        ) from error


def unit_directions(hparams: PyTree, indices: Int[Array, " n"]) -> PyTree:
    """The unit directions of the hyperparameter entries `indices`, counted through the leaves.

    Args:
        hparams: Hyperparameters, a pytree of arrays.
        indices: Which entries; past the last one, the direction is zero.

    Returns:
        Like `hparams`, each leaf with leading axis n.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.training.tangents import unit_directions
        >>> hparams = {"a": jnp.zeros(2), "b": jnp.zeros(())}
        >>> unit_directions(hparams, jnp.array([1, 2]))["a"].tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    leaves, structure = jax.tree.flatten(hparams)
    stacks, offset = [], 0
    for leaf in leaves:
        rows = jax.nn.one_hot(indices - offset, leaf.size, dtype=leaf.dtype)
        stacks.append(rows.reshape(len(indices), *leaf.shape))
        offset += leaf.size
    return jax.tree.unflatten(structure, stacks)


def reshape_like(entries: Float[Array, " n"], hparams: PyTree) -> PyTree:
    """A vector with one number for each hyperparameter entry, in the hyperparameters' shape.

    Args:
        entries: One number for each entry, counted through the leaves.
        hparams: Hyperparameters, a pytree of arrays.

    Returns:
        Like `hparams`, in the dtype of `entries`.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.training.tangents import reshape_like
        >>> tree = reshape_like(jnp.arange(3.0), {"a": jnp.zeros(2), "b": jnp.zeros(())})
        >>> tree["a"].tolist(), tree["b"].tolist()
        ([0.0, 1.0], 2.0)
    """
    leaves, structure = jax.tree.flatten(hparams)
    parts, offset = [], 0
    for leaf in leaves:
        parts.append(entries[offset : offset + leaf.size].reshape(leaf.shape))
        offset += leaf.size
    return jax.tree.unflatten(structure, parts)


def contract(cotangent: PyTree, tangents: PyTree) -> Float[Array, " n"]:
    """ē · Z: how the outer loss changes along each of n tangents of the state.

    Args:
        cotangent: Cotangent ē of the state.
        tangents: Z, like `cotangent`, each leaf with leading axis n.

    Returns:
        One derivative for each tangent, in at least float32.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.training.tangents import contract
        >>> contract({"w": jnp.array([1.0, 2.0])}, {"w": jnp.eye(2)}).tolist()
        [1.0, 2.0]
    """
    leaves = jax.tree.leaves(cotangent)
    wide = [tree.accumulation_dtype(leaf.dtype) for leaf in leaves]
    widest = max(wide, key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))

    def product(tangent):
        total = jnp.zeros((), widest)
        for a, b, dtype in zip(leaves, jax.tree.leaves(tangent), wide, strict=True):
            total = total + jnp.sum(a.astype(dtype) * b.astype(dtype)).astype(widest)
        return total

    return jax.vmap(product)(tangents)
