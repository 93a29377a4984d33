"""The outer loop: hyperparameters follow their hypergradient where it can be followed."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_count, check_inexact, check_key
from drmad_jax.hypergradient import Hypergradient, hypergradient
from drmad_jax.loops.outer import OuterOptimizer
from drmad_jax.problem import Problem, TrainState
from drmad_jax.protocol import Estimator, Info, Method

# key -> what a hypergradient is called with besides the hyperparameters, by name
Sample = Callable[[Array], Mapping[str, PyTree]]
Measure = Callable[[TrainState, PyTree], Mapping[str, Array]]

# After a step that is not taken the next ones are half as long, ...
SHORTER = 0.5
# ... four steps that are taken make up for it, ...
LONGER = 2**0.25
# ... and below this there is no going on.
SHORTEST = 2.0**-10


class OuterState(NamedTuple):
    """Where the outer loop stands: all that the next step needs, a pytree of arrays.

    Attributes:
        hparams: The hyperparameters.
        outer_state: State of the outer optimizer.
        step: Outer steps done, int32 scalar.
        best: The hyperparameters of the lowest outer loss so far.
        best_value: That loss; infinite before the first step.
        since_best: Steps since then.
        length: How long steps are, of what the outer optimizer wants; 1 unless it backed off.
    """

    hparams: PyTree
    outer_state: PyTree
    step: Int[Array, ""]
    best: PyTree
    best_value: Float[Array, ""]
    since_best: Int[Array, ""]
    length: Float[Array, ""]


class OuterInfo(NamedTuple):
    """What one outer step found, at the hyperparameters that it came with.

    Attributes:
        value: The outer loss, mean over seeds.
        grad: The hypergradient, mean over seeds, like the hyperparameters.
        values: The outer loss of each seed, shape (num_seeds,).
        finite: Whether both are finite for every seed.
        trusted: Whether the step was taken: finite, and downhill where certificates say so.
        slope: The outer loss's derivative along the hypergradient, by certificates; `None` without.
        cosine: With the true hypergradient, by certificates; `None` without.
        measured: What `measure` returned, mean over seeds.
        infos: What happened on each seed's way back, leading axis num_seeds.
        state: The trained state of the first seed.
    """

    value: Float[Array, ""]
    grad: PyTree
    values: Float[Array, " num_seeds"]
    finite: Bool[Array, ""]
    trusted: Bool[Array, ""]
    slope: Float[Array, ""] | None
    cosine: Float[Array, ""] | None
    measured: Mapping[str, Array]
    infos: Info
    state: TrainState


class OuterLoop(NamedTuple):
    """A pair of pure functions; made by `outer_loop`.

    Attributes:
        init: `hparams -> OuterState`.
        step: `(state, key) -> (OuterState, OuterInfo)`.
    """

    init: Callable[[PyTree], OuterState]
    step: Callable[[OuterState, Array], tuple[OuterState, OuterInfo]]


def outer_loop(
    problem: Problem,
    sample: Sample,
    outer_optimizer: OuterOptimizer,
    *,
    num_steps: int,
    method: Method | Estimator | None = None,
    num_seeds: int = 1,
    certify: int | None = None,
    measure: Measure | None = None,
) -> OuterLoop:
    """Steps of hyperparameters against the mean hypergradient of some fresh training runs.

    A step is not taken where a loss or a hypergradient is not finite, or, with `certify`, where the
    certificates' slopes say that it leads uphill: the hyperparameters go back to the best so far,
    the outer optimizer begins anew, and the next steps are half as long until some have been taken.

    Args:
        problem: Inner loss, outer loss and optimizer.
        sample: `key -> {"params": …, "inner_batches": …, "outer_batch": …}`, what one training run
            starts from and sees, with "model_state" and "key" where there are such; pure JAX.
        outer_optimizer: Of the hyperparameters, such as `outer_optimizer(optax.adam(1e-2))`.
        num_steps: Number of inner steps T.
        method: How to differentiate; `drmad()` if `None`.
        num_seeds: Training runs for each outer step, all in one `vmap`.
        certify: With a certificate of each hypergradient from this number of further directions
            (see `hypergradient`); `None` for without.
        measure: `(state, hparams) -> {name: scalar}`, of each trained state.

    Returns:
        An `OuterLoop` pair of `init` and `step`, to be jitted and scanned by the caller; `tune`
        does so.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> fit = lambda w, h, x: jnp.sum((w - x) ** 2)
        >>> problem = dj.Problem(lambda w, h, x: fit(w, h, x) + h * jnp.sum(w**2), fit,
        ...                      optax.sgd(0.1))
        >>> def sample(key):
        ...     batches = 1 + 0.1 * jax.random.normal(key, (20, 1))
        ...     return {"params": jnp.zeros(1), "inner_batches": batches, "outer_batch": 0.5}
        >>> loop = dj.outer_loop(problem, sample, dj.outer_optimizer(optax.sgd(1.0)), num_steps=20)
        >>> state, info = jax.jit(loop.step)(loop.init(0.0), jax.random.key(0))
        >>> bool(info.trusted), bool(state.hparams > 0), int(state.step)
        (True, True, 1)
    """
    if not isinstance(outer_optimizer, OuterOptimizer):
        raise TypeError(
            "outer_loop: `outer_optimizer` must come from drmad_jax.outer_optimizer(...), got "
            f"{type(outer_optimizer).__name__}: wrap your optax optimizer in it"
        )
    check_count("outer_loop", "num_seeds", num_seeds)
    compute = hypergradient(problem, num_steps=num_steps, method=method, certify=certify)

    def init(hparams: PyTree) -> OuterState:
        hparams = check_inexact("hparams", hparams)
        zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
        outer_state = outer_optimizer.init(hparams)
        worst = jnp.asarray(jnp.inf, jnp.result_type(float))
        return OuterState(hparams, outer_state, zero, hparams, worst, zero, one)

    def run(hparams: PyTree, key: Array) -> tuple[Hypergradient, Mapping[str, Array]]:
        out = compute(hparams, **sample(key))
        return out, {} if measure is None else measure(out.state, hparams)

    def step(state: OuterState, key: Array) -> tuple[OuterState, OuterInfo]:
        check_key("outer_loop", key)
        found: Any
        if num_seeds == 1:
            # A vmap over one run costs more than the run.
            found = jax.tree.map(lambda x: jnp.asarray(x)[None], run(state.hparams, key))
        else:
            found = jax.vmap(run, (None, 0))(state.hparams, jax.random.split(key, num_seeds))
        info = _info(*found)
        return moved(state, info), info

    def moved(state: OuterState, info: OuterInfo) -> OuterState:
        at, length = state.hparams, state.length
        is_best = info.finite & (info.value < state.best_value)
        best = _where(is_best, at, state.best)
        wanted, outer_state = outer_optimizer.update(
            info.grad, state.outer_state, at, value=info.value
        )
        # A whole step is what the optimizer wants to the bit: what it projected stays so.
        part = lambda old, new: jnp.where(
            length < 1, old + length.astype(old.dtype) * (new - old), new
        )
        taken = jax.tree.map(part, at, wanted), outer_state
        back = best, outer_optimizer.init(best)
        hparams, outer_state = _where(info.trusted, taken, back)
        return OuterState(
            hparams,
            outer_state,
            state.step + 1,
            best,
            jnp.where(is_best, info.value, state.best_value).astype(state.best_value.dtype),
            jnp.where(is_best, 0, state.since_best + 1),
            jnp.where(info.trusted, jnp.minimum(LONGER * length, 1), SHORTER * length),
        )

    return OuterLoop(init, step)


def _info(out: Hypergradient, measured: Mapping[str, Array]) -> OuterInfo:
    """Means over the leading axis of seeds."""
    mean = lambda x: jnp.mean(x, axis=0)
    grad = jax.tree.map(mean, out.grad)
    finite = jnp.all(jnp.asarray(out.info.finite)) & tree.all_finite(grad)
    certificate, slope, cosine = out.info.certificate, None, None
    trusted = finite
    if certificate is not None:
        slope = mean(certificate.slope)
        trusted = finite & (slope > 0)
        cosine = None if certificate.cosine is None else mean(certificate.cosine)
    measured = {name: mean(x) for name, x in measured.items()}
    state = jax.tree.map(lambda x: x[0], out.state)
    return OuterInfo(
        mean(out.value), grad, out.value, finite, trusted, slope, cosine, measured, out.info, state
    )


def _where(condition: Array, first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), first, second)


class Tuned(NamedTuple):
    """The outcome of `tune`.

    Attributes:
        hparams: The hyperparameters of the lowest outer loss that was met.
        value: That loss; where runs are fresh, the lowest of noisy ones: judge it on others.
        history: A line for each outer step: its number, the outer loss, whether the step was taken,
            what was measured, as Python numbers.
        stopped: Why it ended.
        state: Where the loop stands, to go on from.
    """

    hparams: PyTree
    value: float
    history: list[dict[str, Any]]
    stopped: str
    state: OuterState


def tune(
    loop: OuterLoop,
    hparams: PyTree,
    *,
    num_outer_steps: int,
    key: Array,
    patience: int | None = None,
    log: Callable[[dict[str, Any]], Any] | None = None,
    callback: Callable[[OuterState, OuterInfo], Any] | None = None,
    state: OuterState | None = None,
) -> Tuned:
    """Takes outer steps until there is a reason to stop; compiles the step once.

    Step i draws from `jax.random.fold_in(key, i)`: a loop that goes on from a saved `state` does
    what one would have done that was never stopped.

    Args:
        loop: Made by `outer_loop`.
        hparams: Where to start.
        num_outer_steps: The largest number of outer steps, those done before `state` included.
        key: Key of all runs.
        patience: Stop after so many steps without a new lowest outer loss; `None` for never.
        log: Gets each line of the history when it is there: a function that prints it, or hands it
            on to TensorBoard or another service (see docs/methods.md).
        callback: `(state, info)` after each step, to save the state or to look at it; stops the
            loop where it returns True.
        state: Where an earlier loop stood; `None` to begin at `hparams`.

    Returns:
        A `Tuned`.

    Raises:
        FloatingPointError: If the loss or the hypergradient is not finite at the very start.
        ValueError, TypeError: On arguments of the wrong kind.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> fit = lambda w, h, x: jnp.sum((w - x) ** 2)
        >>> problem = dj.Problem(lambda w, h, x: fit(w, h, x) + h * jnp.sum(w**2), fit,
        ...                      optax.sgd(0.1))
        >>> sample = lambda key: {
        ...     "params": jnp.zeros(1), "inner_batches": jnp.ones((40, 1)), "outer_batch": 0.5}
        >>> loop = dj.outer_loop(problem, sample, dj.outer_optimizer(optax.adam(0.1)), num_steps=40)
        >>> tuned = dj.tune(loop, 0.0, num_outer_steps=40, key=jax.random.key(0))
        >>> round(float(tuned.hparams), 1), tuned.stopped  # w = 1/(1 + h) comes to be 0.5
        (1.0, '40 outer steps')

        Saved after each step, and gone on with in another process:

        >>> import numpy as np, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "outer.npz"
        >>> save = lambda state, info: np.savez(file, *jax.tree.leaves(state))
        >>> half = dj.tune(
        ...     loop, 0.0, num_outer_steps=20, key=jax.random.key(0), callback=save)
        >>> structure = jax.tree.structure(loop.init(0.0))
        >>> state = jax.tree.unflatten(structure, map(jnp.asarray, np.load(file).values()))
        >>> rest = dj.tune(loop, 0.0, num_outer_steps=40, key=jax.random.key(0), state=state)
        >>> len(rest.history), bool(rest.hparams == tuned.hparams)
        (20, True)
    """
    check_count("tune", "num_outer_steps", num_outer_steps)
    check_key("tune", key)
    if patience is not None:
        check_count("tune", "patience", patience)
    at: OuterState = loop.init(hparams) if state is None else state
    step, history = jax.jit(loop.step), list[dict[str, Any]]()
    for index in range(int(at.step), num_outer_steps):
        at, info = step(at, jax.random.fold_in(key, index))
        line = _line(index, info)
        history.append(line)
        if log is not None:
            log(line)
        stop = callback is not None and callback(at, info)
        why = "the callback said so" if stop else _reason(at, info, patience)
        if why:
            break
    else:
        why = f"{num_outer_steps} outer steps"
    return Tuned(at.best, float(at.best_value), history, why, at)


def _line(index: int, info: OuterInfo) -> dict[str, Any]:
    line = {"step": index, "outer_loss": info.value, "taken": info.trusted}
    named = {"certified_slope": info.slope, "certified_cosine": info.cosine, **info.measured}
    line |= {name: value for name, value in named.items() if value is not None}
    return {name: x.item() if hasattr(x, "item") else x for name, x in line.items()}


def _reason(state: OuterState, info: OuterInfo, patience: int | None) -> str:
    """Why not to go on; empty where there is none."""
    if not jnp.isfinite(state.best_value):
        raise FloatingPointError(
            f"tune: at the start the outer loss is {float(info.value)} and the hypergradient "
            f"{'finite' if bool(tree.all_finite(info.grad)) else 'not finite'}: there is nothing "
            "to go back to. Start elsewhere, or take smaller inner steps"
        )
    if patience is not None and int(state.since_best) >= patience:
        return f"no lower outer loss in {patience} steps"
    return why_stuck(state)


def why_stuck(state: OuterState) -> str:
    """Why a loop cannot go on from where it stands.

    Args:
        state: After a step.

    Returns:
        The reason; empty where it can.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> from drmad_jax.loops.tuning import why_stuck
        >>> zero, one = jnp.int32(0), jnp.float32(1)
        >>> why_stuck(dj.OuterState(one, (), zero, one, jnp.float32(jnp.inf), zero, one))
        'nothing to go back to'
    """
    if not jnp.isfinite(state.best_value):
        return "nothing to go back to"
    if float(state.length) < SHORTEST:
        return "no hypergradient to trust however short the step"
    return ""
