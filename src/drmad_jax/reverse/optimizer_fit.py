"""Whether an optimizer moves weights as segments assume, found out by trying it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.optimizer import with_known_constants
from drmad_jax._checks.unused import used_leaves
from drmad_jax.problem import Problem, TrainState
from drmad_jax.reverse.optimizer_response import handed_on, mean_response
from drmad_jax.training.run import Run
from drmad_jax.training.step import optimizer_update

# Steps before the optimizer is looked at, and steps over which it is.
WARM_UP, WINDOW = 32, 16
# The side of the weights on which it is tried, and the most entries of weights of their true size.
SIDE, LARGEST = 4, 300_000
# Above this relative variation the response at one step says nothing of that at others.
LARGEST_VARIATION = 0.8
# Clipping by the norm of so few weights has .3.
LARGEST_MIXING = 0.4
# Of the movement, if the weights are scaled.
LARGEST_DEPENDENCE = 0.3
# A weight that loses more than this of itself in a step is set, not moved.
LARGEST_DECAY = 0.3
# What was found of optimizers already tried.
_FOUND: dict[Any, str | None] = {}
MOST_FOUND = 64
# The trial runs once.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def misfit(run: Run, state: TrainState, hparams: PyTree) -> str | None:
    """Why an optimizer has no mean response that segments could take; `None` where it has.

    Segments assume that an update answers to the gradient entry by entry, at every step alike, and
    to the weights by a small decay at most. Read off its trace: whether its state begins with the
    weights, whether it reads the loss, and whether hyperparameters set its initial state, except
    where it hands that on as it is. Found by trying: the rest, on small weights and gradients with
    noise, while the caller is traced.

    Args:
        run: The run.
        state: Its initial state; only structures, shapes and dtypes matter.
        hparams: Hyperparameters, which may be traced.

    Returns:
        The reason, or `None`.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> from drmad_jax.reverse.optimizer_fit import misfit
        >>> from drmad_jax.training.run import Run
        >>> def reason(optimizer):
        ...     problem = dj.Problem(lambda w, h, x: 0.0, lambda w, h, x: 0.0, optimizer)
        ...     start = lambda h: dj.init_state(problem, h, jnp.ones(3))
        ...     return misfit(Run(problem, 10, jnp.zeros(10), None, start), start({}), {})
        >>> reason(optax.adam(1e-3, eps_root=1e-8)), reason(optax.contrib.schedule_free_sgd(0.1))
        (None, "the optimizer's state begins with the weights")
    """
    problem, params = run.problem, state.params
    optimizer = problem.transformation(hparams)
    weights = lambda p: tree.partition(optimizer.init(p))[0]
    if used_leaves(weights, params):
        return "the optimizer's state begins with the weights"
    loss = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
    update = optimizer_update(problem, hparams)
    if used_leaves(lambda value: update(params, state.opt_state, params, value)[0], loss):
        return "the optimizer reads the value of the loss"
    kept = handed_on(lambda s: update(params, s, params, loss)[1], state.opt_state)

    def set_at_start(h):
        opt_state = tree.partition(run.start(h).opt_state)[0]
        return jax.tree.map(lambda keep, x: None if keep else x, kept, opt_state)

    if named := used_leaves(set_at_start, hparams):
        return f"hyperparameters set the optimizer's initial state ({', '.join(named)})"
    return _tried(problem, hparams, params)


def _tried(problem: Problem, hparams: PyTree, params: PyTree) -> str | None:
    """From small weights, or from weights of their true size where those do not do."""
    shape = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(params))
    key = (problem.optimizer, jax.tree.structure(params), shape)
    if key not in _FOUND:
        if len(_FOUND) >= MOST_FOUND:
            _FOUND.clear()
        _FOUND[key] = _try(problem, hparams, params)
    return _FOUND[key]


def _try(problem: Problem, hparams: PyTree, params: PyTree) -> str | None:
    small = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            tuple(1 if n == 1 else SIDE if x.ndim > 1 else SIDE**2 for n in x.shape), x.dtype
        ),
        params,
    )
    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    sizes = [small]
    if sum(x.size for x in jax.tree.leaves(whole)) <= LARGEST:
        sizes.append(whole)
    for shapes in sizes:
        try:
            errors = _known(functools.partial(_errors, problem, hparams, shapes))
        except Exception:
            # An optimizer may ask for more than a trial can offer. It is not accused of anything.
            continue
        return _reason(errors)
    return None


class _Errors(NamedTuple):
    """Relative, each 0 for an optimizer that is what segments assume.

    Attributes:
        others: How far an entry's response depends on the gradients of others.
        over_time: How far it varies from step to step.
        weights: How far a change of the weights does not just stay, or decay.
        decay: The largest decay in one step.
    """

    others: Array
    over_time: Array
    weights: Array
    decay: Array


def _reason(errors: _Errors) -> str | None:
    largest = {name: float(value) for name, value in errors._asdict().items()}
    if not np.all(np.isfinite(list(largest.values()))):
        return "the optimizer has no finite derivative"
    if largest["decay"] > LARGEST_DECAY:
        return "the optimizer sets weights instead of moving them (a proximal step, a projection)"
    if largest["over_time"] > LARGEST_VARIATION:
        return (
            "the optimizer's response varies from step to step (it moves at some of them only, say)"
        )
    if largest["others"] > LARGEST_MIXING:
        return "the optimizer's updates do not act entry by entry"
    if largest["weights"] > LARGEST_DEPENDENCE:
        return "the optimizer's updates depend on the weights, beyond a decay"
    return None


def _errors(problem: Problem, hparams: PyTree, shapes: PyTree) -> _Errors:
    update_of, optimizer = optimizer_update(problem, hparams), problem.transformation(hparams)
    # Weights of all sizes, a third of them zero; gradients of all sizes and signs, with noise.
    size = lambda x: jnp.sign(x) * 10 ** (2 * jnp.abs(x) - 2)
    params = jax.tree.map(lambda x: jnp.where(x > 0.4, 0, size(x)), _normal(shapes, 1))
    scale = jax.tree.map(lambda x: 10 ** (-2 * jnp.abs(x)), _normal(shapes, 2))
    mean = jax.tree.map(lambda x, s: s * x, _normal(shapes, 6), scale)
    noise = jax.tree.map(lambda x, s: s * x, _normal(shapes, 3, WARM_UP + WINDOW), scale)
    loss = jnp.ones((), jnp.result_type(*jax.tree.leaves(params)))
    update = lambda g, s, p: update_of(g, s, p, loss)
    inexact, rest = tree.partition(optimizer.init(params))

    def walk(params, inexact, rest, steps, change):
        """Through some steps, with a change of all their gradients."""

        def step(carry, index):
            params, inexact, rest = carry
            drawn = jax.tree.map(lambda m, n, c: m + n[index] + c, mean, noise, change)
            moved, new = update(drawn, tree.combine(inexact, rest), params)
            new, new_rest = tree.partition(new)
            new_params = tree.cast_like(optax.apply_updates(params, moved), params)
            return (new_params, tree.cast_like(new, inexact), new_rest), (carry, drawn)

        return jax.lax.scan(step, (params, inexact, rest), steps)

    none = tree.zeros_like(params)
    (start, inexact, rest), _ = walk(params, inexact, rest, jnp.arange(WARM_UP), none)
    window = WARM_UP + jnp.arange(WINDOW)

    def through(params, change):
        (end, *_), seen = walk(params, inexact, rest, window, change)
        return end, seen

    end, ((params_then, inexact_then, rest_then), grads_then) = through(start, none)

    def respond(grads, params, inexact, rest):
        return mean_response(update, tree.combine(inexact, rest), grads, params)

    responses = jax.vmap(respond)(grads_then, params_then, inexact_then, rest_then)
    decay = jax.tree.map(lambda d: jnp.mean(d, axis=0), responses.to_params)

    # What an entry answers to its own gradient is the same whatever those of others do; a change of
    # the weights leaves of itself what does not decay.
    signs = [jax.tree.map(jnp.sign, _normal(shapes, seed)) for seed in (4, 5)]
    stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
    changes = stack(none, none, signs[0], start), stack(*signs, none, none)
    of_end = lambda params, change: through(params, change)[0]
    push = lambda *tangents: jax.jvp(of_end, (start, none), tangents)[1]
    pushed = jax.vmap(push)(*changes)
    row = lambda index: jax.tree.map(lambda x: x[index], pushed)
    own = [jax.tree.map(jnp.multiply, row(k), signs[k]) for k in (0, 1)]
    half = jax.tree.map(lambda a, b: (a + b) / 2, *own)
    left_over = lambda pushed, change: jax.tree.map(
        lambda p, x, d: p - x * (1 - d) ** WINDOW, pushed, change, decay
    )
    moved = jax.tree.map(jnp.subtract, end, start)
    return _Errors(
        others=_ratio(jax.tree.map(jnp.subtract, *own), half),
        over_time=_variation(responses.to_gradient),
        weights=jnp.maximum(
            _ratio(left_over(row(2), signs[0]), signs[0]), _ratio(left_over(row(3), start), moved)
        ),
        decay=jax.tree.reduce(jnp.maximum, jax.tree.map(jnp.max, responses.to_params)),
    )


def _ratio(first: PyTree, second: PyTree) -> Array:
    """‖a‖/‖b‖, the largest of all leaves; 0/0 is 0."""
    norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x)))
    ratio = lambda a, b: jnp.where(norm(a) > 0, norm(a) / norm(b), 0)
    return jax.tree.reduce(jnp.maximum, jax.tree.map(ratio, first, second))


def _variation(values: PyTree) -> Array:
    """Standard deviation over mean along the first axis, the median of all entries."""

    def of_leaf(x):
        deviation, mean = jnp.std(x, axis=0), jnp.abs(jnp.mean(x, axis=0))
        return jnp.where(deviation > 0, deviation / mean, 0).ravel()

    return jnp.median(jnp.concatenate(jax.tree.leaves(jax.tree.map(of_leaf, values))))


def _normal(shapes: PyTree, seed: int, *axes: int) -> PyTree:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=(*axes, *x.shape)), x.dtype), shapes)


def _known(function: Callable[[], Any]) -> Any:
    """A function's value while something else is traced, stand-ins where it reads what is."""
    # Whatever the caller forbids itself elsewhere.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        closed, shape = jax.make_jaxpr(function, return_shape=True)()
    with jax.ensure_compile_time_eval(), jax.debug_nans(False):
        outputs = jax.jit(with_known_constants(closed), compiler_options=QUICKLY)()
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)
