"""Whether an optimizer moves weights as segments assume, found out by trying it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import eval_context
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.optimizer import with_known_constants
from drmad_jax._checks.unused import used_leaves
from drmad_jax.problem import Problem, TrainState
from drmad_jax.reverse.optimizer_response import (
    Memory,
    Transposed,
    Update,
    mean_response,
    memory,
    random_signs,
    transposed_update,
)
from drmad_jax.training.run import Run
from drmad_jax.training.step import optimizer_update

# Steps before the optimizer is looked at, and steps over which it is.
WARM_UP, WINDOW = 32, 16
# The side of the weights on which it is tried, and the most entries of weights of their true size.
SIDE, LARGEST = 4, 300_000
# Above this relative variation the response at one step says nothing of that at others.
LARGEST_VARIATION = 0.8
# Clipping by the norm of so few weights has .2.
LARGEST_MIXING = 0.25
LARGEST_SURPRISE = 0.4
# Of what the state takes up from a gradient, beside the same at the state's mean.
LARGEST_UNEVENNESS = 0.5
# Times what it takes up later.
LARGEST_FIRST = 2.0
# Of the movement, if the weights are scaled.
LARGEST_DEPENDENCE = 0.3
# A weight that loses more than this of itself in a step is set, not moved.
LARGEST_DECAY = 0.3
# What was found of optimizers already tried.
_FOUND: dict[Any, str | None] = {}
MOST_FOUND = 64
# For hyperparameters whose values are not known while the caller is traced: a rate, a decay, the
# logit of one, a log rate.
STAND_INS = (0.5, 0.95, 3.0, -3.0)
# The trial runs once.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def misfit(run: Run, state: TrainState, hparams: PyTree) -> str | None:
    """Why an optimizer has no mean response that segments could take; `None` where it has.

    Segments assume that an update answers to the gradient entry by entry, at every step alike, and
    to the weights by a small decay at most. Read off its trace: whether its state begins with the
    weights, and whether it reads the value of the loss. Found by trying: the rest, on small weights
    and gradients with noise, while the caller is traced.

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
    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    small = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            tuple(1 if n == 1 else SIDE if x.ndim > 1 else SIDE**2 for n in x.shape), x.dtype
        ),
        params,
    )
    sizes = [_without_likes(small), small]
    if sum(x.size for x in jax.tree.leaves(whole)) <= LARGEST:
        sizes.append(whole)
    for shapes in sizes:
        try:
            found = _known(functools.partial(_errors, problem, hparams, shapes))
        except Exception:
            # An optimizer may ask for more than a trial can offer. It is not accused of anything.
            continue
        reasons = [_reason(jax.tree.map(lambda x, k=k: x[k], found)) for k in range(len(STAND_INS))]
        # What is not known yet must not speak against it.
        return None if None in reasons else reasons[0]
    return None


def _without_likes(shapes: PyTree) -> PyTree:
    """One leaf of each name and rank, `None` for the others, so that deep models take no longer."""
    seen = set()

    def keep(path, leaf):
        kind = str(path[-1:]), leaf.ndim
        if kind in seen:
            return None
        seen.add(kind)
        return leaf

    return jax.tree_util.tree_map_with_path(keep, shapes)


class _Errors(NamedTuple):
    """Relative, each 0 for an optimizer that is what segments assume.

    Attributes:
        others: How far an entry's response depends on the gradients of others.
        lasting: How far a lasting change moves the weights otherwise than the response says.
        over_time: How far an immediate response varies from step to step.
        weights: How far a change of the weights does not just stay, or decay.
        decay: The largest decay in one step.
        uneven: How far what a state takes up from a gradient hangs on where that state is just now,
            as where a maximum is kept.
        first: How much more is left of what it took up from the very first one.
    """

    others: Array
    lasting: Array
    over_time: Array
    weights: Array
    decay: Array
    uneven: Array
    first: Array


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
    if largest["lasting"] > LARGEST_SURPRISE:
        return (
            "the optimizer's answer to a lasting change of the gradient is not a geometric series"
        )
    if largest["uneven"] > LARGEST_UNEVENNESS:
        return "the optimizer's state takes up some gradients only (it keeps a maximum, say)"
    if largest["first"] > LARGEST_FIRST:
        return "the optimizer's first step sets its state"
    if largest["weights"] > LARGEST_DEPENDENCE:
        return "the optimizer's updates depend on the weights, beyond a decay"
    return None


class _Trial(NamedTuple):
    """A short training on made-up gradients, and how its end answers to changes at its middle.

    Attributes:
        mean: The gradients' mean.
        signs: Two directions, the entries 1 or −1.
        weights: Weights before each step of the window, leading axis WINDOW.
        state: The optimizer's floating-point state then.
        rest: The rest of it.
        grads: The gradient of each of these steps.
        first: Gradient, state, rest of it and weights of the very first step.
        pushed: How the last weights move, leading axis 4: if all gradients of the window change
            along one direction, along the other; if the weights before it change along the first
            direction, or in proportion to themselves.
        moved: How far the window moved the weights.
    """

    mean: PyTree
    signs: list[PyTree]
    weights: PyTree
    state: PyTree
    rest: PyTree
    grads: PyTree
    first: tuple[PyTree, PyTree, PyTree, PyTree]
    pushed: PyTree
    moved: PyTree


def _trial(update: Update, optimizer: optax.GradientTransformation, shapes: PyTree) -> _Trial:
    # Weights of all sizes, a third of them zero; gradients of all sizes and signs, with noise.
    size = lambda x: jnp.sign(x) * 10 ** (2 * jnp.abs(x) - 2)
    params = jax.tree.map(lambda x: jnp.where(x > 0.4, 0, size(x)), _normal(shapes, 1))
    scale = jax.tree.map(lambda x: 10 ** (-2 * jnp.abs(x)), _normal(shapes, 2))
    mean = jax.tree.map(jnp.multiply, scale, _normal(shapes, 6))
    noise = jax.tree.map(jnp.multiply, scale, _normal(shapes, 3, WARM_UP + WINDOW))
    inexact, rest = tree.partition(optimizer.init(params))

    def walk(change, shift, growth):
        """The weights at the end, if gradients or weights were others from the warm-up's end on."""

        def step(carry, index):
            params, inexact, rest = carry
            late, now = index >= WARM_UP, index == WARM_UP
            params = jax.tree.map(
                lambda p, s: p + jnp.where(now, s + growth.astype(p.dtype) * p, 0), params, shift
            )
            drawn = jax.tree.map(
                lambda m, n, c: m + n[index] + jnp.where(late, c, 0), mean, noise, change
            )
            moved, new = update(drawn, tree.combine(inexact, rest), params)
            new, new_rest = tree.partition(new)
            new_params = tree.cast_like(optax.apply_updates(params, moved), params)
            return (new_params, tree.cast_like(new, inexact), new_rest), (carry, drawn)

        steps = jnp.arange(WARM_UP + WINDOW)
        (end, *_), seen = jax.lax.scan(step, (params, inexact, rest), steps)
        return end, seen

    none, signs = tree.zeros_like(params), [_signs(shapes, seed) for seed in (4, 5)]
    stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
    changes = stack(*signs, none, none), stack(none, none, signs[0], none), jnp.eye(4)[3]
    push = lambda *tangents: jax.jvp(walk, (none, none, jnp.zeros(())), tangents, has_aux=True)
    end, pushed, seen = jax.vmap(push, out_axes=(None, 0, None))(*changes)
    (weights, inexact, rest), grads = jax.tree.map(lambda x: x[WARM_UP:], seen)
    begin, grad = jax.tree.map(lambda x: x[0], seen)
    moved = jax.tree.map(lambda x, all: x - all[0], end, weights)
    return _Trial(
        mean, signs, weights, inexact, rest, grads, (grad, *begin[1:], begin[0]), pushed, moved
    )


def _errors(problem: Problem, hparams: PyTree, shapes: PyTree) -> _Errors:
    update_of, optimizer = optimizer_update(problem, hparams), problem.transformation(hparams)
    loss = jnp.ones((), jnp.result_type(*jax.tree.leaves(shapes)))
    update = lambda g, s, p: update_of(g, s, p, loss)
    trial = _trial(update, optimizer, shapes)
    start = _first_of(trial.weights)

    def at(grads, inexact, rest, params):
        opt_state = tree.combine(inexact, rest)
        return transposed_update(lambda _: update, None, opt_state, grads, params)

    of_start = at(trial.mean, _first_of(trial.state), _first_of(trial.rest), start)
    remembers = memory(of_start, start)

    def respond(later, grads, inexact, rest, params):
        at_mean, at_batch = (at(g, inexact, rest, params) for g in (trial.mean, grads))
        immediate = at_batch(random_signs(tree.widen(params))).grads
        return mean_response(remembers, later, at_mean, at_batch, params), immediate

    later = WINDOW - 1.0 - jnp.arange(WINDOW)
    responses, at_once = jax.vmap(respond)(
        later, trial.grads, trial.state, trial.rest, trial.weights
    )
    decay = jax.tree.map(lambda d: jnp.mean(d, axis=0), responses.to_params)

    # What an entry answers to its own gradient is what the response says, whatever those of others
    # do; a change of the weights leaves of itself what does not decay.
    def expected(response, decay):
        left = (1 - decay) ** later.reshape(-1, *(1,) * decay.ndim)
        return -jnp.sum(response * left, axis=0)

    uneven, of_first = _uptake(trial, at, remembers)
    row = lambda index: jax.tree.map(lambda x: x[index], trial.pushed)
    own = [jax.tree.map(jnp.multiply, row(k), trial.signs[k]) for k in (0, 1)]
    half = jax.tree.map(lambda a, b: (a + b) / 2, *own)
    subtract = lambda a, b: jax.tree.map(jnp.subtract, a, b)
    left_over = lambda pushed, change: jax.tree.map(
        lambda p, x, d: p - x * (1 - d) ** WINDOW, pushed, change, decay
    )
    return _Errors(
        others=_ratio(subtract(*own), half),
        lasting=_ratio(subtract(half, jax.tree.map(expected, responses.to_gradient, decay)), half),
        over_time=_variation(at_once),
        weights=jnp.maximum(
            _ratio(left_over(row(2), trial.signs[0]), trial.signs[0]),
            _ratio(left_over(row(3), start), trial.moved),
        ),
        decay=jax.tree.reduce(jnp.maximum, jax.tree.map(jnp.max, responses.to_params)),
        uneven=uneven,
        first=of_first,
    )


def _uptake(
    trial: _Trial, at: Callable[..., Callable[..., Transposed]], remembers: Memory
) -> tuple[Array, Array]:
    """What each leaf of the state takes up from gradients: `uneven` and `first` of `_Errors`."""
    leaves, structure = jax.tree.flatten(random_signs(tree.widen(_first_of(trial.state))))
    if not leaves:
        return jnp.zeros(()), jnp.zeros(())

    def taken(grads, inexact, rest, params):
        pull = at(grads, inexact, rest, params)

        def by_leaf(index):
            alone = [jnp.where(index == k, x, 0) for k, x in enumerate(leaves)]
            return pull(tree.zeros_like(params), jax.tree.unflatten(structure, alone)).grads

        return jax.vmap(by_leaf)(jnp.arange(len(leaves)))

    def norm(x, others):
        return jnp.sqrt(sum(jnp.sum(jnp.square(y), axis=others(y)) for y in jax.tree.leaves(x)))

    # All in one program: at the states of the window, at their mean, and at the very first one.
    mean = jax.tree.map(lambda x: jnp.broadcast_to(jnp.mean(x, axis=0), x.shape), trial.state)
    window = trial.grads, trial.state, trial.rest, trial.weights
    join = lambda x, y, z: jnp.concatenate([x, y, z[None]])
    places = jax.tree.map(join, window, (window[0], mean, *window[2:]), trial.first)
    found = jax.vmap(taken)(*places)
    each, at_mean = (jax.tree.map(lambda x, k=k: x[k : k + WINDOW], found) for k in (0, WINDOW))
    apart = jax.tree.map(jnp.subtract, each, at_mean)
    whole = lambda x: norm(x, lambda y: (0, *range(2, y.ndim)))
    alone = norm(found, lambda y: tuple(range(2, y.ndim)))
    first = alone[-1] * jnp.stack(jax.tree.leaves(remembers.kept)) ** WARM_UP
    largest = jnp.max(alone[:WINDOW], axis=0)
    # Anything over nothing is much.
    ratio = lambda a, b: jnp.max(jnp.where(a > 0, a / jnp.where(b > 0, b, 1e-3 * a), 0))
    return ratio(whole(apart), whole(each)), ratio(first, largest)


def _first_of(stacked: PyTree) -> PyTree:
    """The first entry of each leaf."""
    return jax.tree.map(lambda x: x[0], stacked)


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


def _signs(shapes: PyTree, seed: int) -> PyTree:
    return jax.tree.map(jnp.sign, _normal(shapes, seed))


def _known(function: Callable[[], Any]) -> Any:
    """A function's value while something else is traced, for each stand-in for what is."""
    # Whatever the caller forbids itself elsewhere.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        closed, shape = jax.make_jaxpr(function, return_shape=True)()
    # One program: `ensure_compile_time_eval` would run the known parts of it one by one.
    with eval_context(), jax.debug_nans(False):
        each = lambda value: with_known_constants(closed, value)()
        run = jax.jit(lambda values: jax.lax.map(each, values), compiler_options=QUICKLY)
        outputs = jax.device_get(run(jnp.array(STAND_INS, jnp.float32)))
    return jax.tree.unflatten(jax.tree.structure(shape), outputs)
