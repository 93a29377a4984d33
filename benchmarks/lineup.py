"""The methods that the benchmarks compare, by the names that records, tables and figures give them.

All methods are made here, and all line-ups are lists of names. Nothing but public names of the
package is used, so that a benchmark can be run on another checkout of it.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj

OPTIMIZERS: dict[str, optax.GradientTransformation] = {
    "momentum": optax.sgd(0.0025, momentum=0.95),
    "adam": optax.adam(5e-4, eps_root=1e-8),
    "reversible momentum": dj.reversible_sgd(0.0025, 0.95),
}
PLAIN, LIBRARY = "plain training", "training as the package does it"
DEFAULT = "drmad()"
LINE_SEGMENTS = "line, Gauss-Newton, 5 x 8"
LINE_ALL = "line, Gauss-Newton, all steps"
LINE_HESSIAN = "line, Hessian, all steps"
LINE_TENTH = "line, Gauss-Newton, T/10 steps"
CHECKPOINTED, STORED, UNROLLED = "checkpointed", "stored", "unrolled"
REVERSIBLE = "reversible"
MEANS = "means, Hessian, 10 x 10"
THIS_RUN, TUNING = "drmad(), for this run", "drmad(), for tuning"
# Its knots come from a run: `accuracy` makes it.
BY_DISTANCE = "8 knots, even in distance"

Method = dj.Method | dj.Estimator
Run = Callable[[dict[str, PyTree], Callable, PyTree], PyTree]
_tenth = lambda num_steps: max(1, num_steps // 10)


def _end(num_steps: int) -> int:
    default: Any = dj.drmad()
    return default.length_of_end(num_steps)


# Name to a function of the number of steps T; all other names are put together from `_words`.
METHODS: dict[str, Callable[[int], Method]] = {
    DEFAULT: lambda T: dj.drmad(),
    THIS_RUN: lambda T: dj.drmad(serves="this_run"),
    TUNING: lambda T: dj.drmad(serves="tuning"),
    "its segments alone": lambda T: dj.drmad(path=dj.means()),
    "its exact end alone": lambda T: dj.truncated(num_reverse_steps=_end(T)),
    # Bae et al. 2024, with Lanczos' method in place of the Kronecker factors.
    "SOURCE": lambda T: dj.drmad(
        path=dj.means(),
        curvature="gauss_newton",
        steps=dj.segments(3, num_products=10, num_batches=10, spacing="even", num_terms=1),
    ),
    "line, progress by leaf": lambda T: _progress_by_leaf(dj.drmad(knots=2)),
    "published, T/10 steps": lambda T: dj.published_drmad(num_reverse_steps=_tenth(T)),
    "published, T steps": lambda T: dj.published_drmad(num_reverse_steps=T),
    "truncated, T/10 steps": lambda T: dj.truncated(num_reverse_steps=_tenth(T)),
    "one_step": lambda T: dj.one_step(),
    "implicit": lambda T: dj.implicit(curvature="gauss_newton", damping=1e-3),
    "implicit, 20 batches": lambda T: dj.implicit(
        curvature="gauss_newton", num_batches=min(20, T), damping=1e-3
    ),
    "implicit, CG": lambda T: dj.implicit(curvature="gauss_newton"),
    CHECKPOINTED: lambda T: dj.checkpointed(),
    "checkpointed, 10 levels": lambda T: dj.checkpointed(levels=10),
    "checkpointed, 10 states": lambda T: dj.checkpointed(budget=10),
    STORED: lambda T: dj.stored(),
    REVERSIBLE: lambda T: dj.reversible(),
    UNROLLED: lambda T: dj.unrolled(),
    "forward": lambda T: dj.forward(),
    "forward_gradient, 1 direction": lambda T: dj.forward_gradient(num_directions=1),
    "evolution_strategies, 1 pair": lambda T: dj.evolution_strategies(num_pairs=1, sigma=0.1),
}


def _words(num_steps: int) -> dict[str, dict[str, Any]]:
    """What each word of a name such as "8 knots, Hessian, 5 x 8" asks of `drmad`."""
    return {
        "line": {"knots": 2},
        "means": {"path": dj.means()},
        **{f"{count} knots": {"knots": count} for count in (4, 8, 16, 32)},
        "every tenth step a knot": {"knots": tuple(range(0, num_steps + 1, 10))},
        "even in time": {"knots": [round(num_steps * k / 7) for k in range(8)]},
        "interpolated state": {"optimizer_state": "interpolated"},
        "final state": {"optimizer_state": "final"},
        "Gauss-Newton": {"curvature": "gauss_newton"},
        "Hessian": {"curvature": "hessian"},
        "all steps": {"steps": dj.every_step()},
        "T/10 steps": {"steps": dj.strided_steps(_tenth(num_steps))},
        "5 x 8": {"count": 5, "num_products": 8, "num_batches": 10},
        "10 x 10": {"count": 10, "num_products": 10, "num_batches": 10},
    }


# The exact ones last.
COST = (
    DEFAULT, LINE_SEGMENTS, LINE_ALL, LINE_HESSIAN, LINE_TENTH, "published, T/10 steps",
    "truncated, T/10 steps", "one_step", "implicit", CHECKPOINTED, STORED, REVERSIBLE, UNROLLED,
)  # fmt: skip
# What a sweep over many sizes can afford.
SWEPT = (DEFAULT, LINE_SEGMENTS, LINE_ALL, LINE_TENTH, CHECKPOINTED, UNROLLED)
LONG = (DEFAULT, LINE_SEGMENTS, LINE_ALL, LINE_TENTH)
# Those whose cost grows with the number of hyperparameters or draws.
FURTHER = ("forward", "forward_gradient, 1 direction", "evolution_strategies, 1 pair")
# What the study's tables call what has another name here.
_STUDY_NAMES = {
    "published": "published, T/10 steps",
    "last T/10 steps": "truncated, T/10 steps",
    "last step": "one_step",
    "201 knots, Hessian, all steps": "every tenth step a knot, Hessian, all steps",
    "exact": CHECKPOINTED,
}
STUDY = (
    "published", LINE_HESSIAN, LINE_ALL, LINE_TENTH, "8 knots, Hessian, 10 x 10", "SOURCE", MEANS,
    "its segments alone", "its exact end alone", DEFAULT, THIS_RUN, "last T/10 steps", "last step",
    "implicit, 20 batches",
)  # fmt: skip
# Of hyperparameters for which `drmad()` serves this run by itself.
OF_STEPS = tuple(TUNING if name == THIS_RUN else name for name in STUDY)
LEARNING_RATES = (
    *(name for name in OF_STEPS if not name.startswith("implicit")),
    "201 knots, Hessian, all steps",
)
# Where the exact hypergradient leads nowhere, agreement with it says little: a few methods do.
ROUGH = ("published", MEANS, DEFAULT, THIS_RUN, "last T/10 steps")
PATHS = (
    "line", "line, interpolated state", "line, progress by leaf", "4 knots", "8 knots",
    "8 knots, final state", "8 knots, even in time", BY_DISTANCE, "16 knots",
    "32 knots", "means",
)  # fmt: skip
# Good ones and bad ones, to be told apart.
CERTIFIED = ("published", LINE_TENTH, "SOURCE", MEANS, DEFAULT, "last T/10 steps")
TUNERS = (
    "exact", DEFAULT, THIS_RUN, "its segments alone", MEANS, "SOURCE", "published", LINE_TENTH,
    "last T/10 steps",
)  # fmt: skip


def method(name: str, num_steps: int) -> Method:
    """One method at T inner steps, by its name or by the study's."""
    name = _STUDY_NAMES.get(name, name)
    if name in METHODS:
        return METHODS[name](num_steps)
    words, options = _words(num_steps), dict[str, Any]()
    for word in name.split(", "):
        options |= words[word]
    taken = lambda *names: {name: options.pop(name) for name in names if name in options}
    knots, segments = (
        taken("knots", "optimizer_state"),
        taken("count", "num_products", "num_batches"),
    )
    if knots:
        options["path"] = dj.knots(**knots)
    if segments:
        options["steps"] = dj.segments(**segments)
    return dj.drmad(**options)


def methods(names: Iterable[str], num_steps: int) -> dict[str, Method]:
    """Name to method at T inner steps."""
    return {name: method(name, num_steps) for name in names}


def _progress_by_leaf(method: Any) -> Any:
    # A path of the benchmarks' own, from parts of the package that are not public.
    from benchmarks.accuracy.profiled_path import ProfiledLine

    return dataclasses.replace(method, path=ProfiledLine())


def run(name: str, problem: Callable[..., dj.Problem], optimizer: str, num_steps: int) -> Run:
    """What is timed and weighed: training, `PLAIN` or `LIBRARY`, or a method's hypergradient too.

    Returns `(given, batches, outer_batch) -> result`, to be jitted by the caller; `given` holds
    `hparams`, `params` and, where the model has them, `model_state` and `key`. The reversible
    method takes the same optimizer in fixed point.
    """
    chosen = problem(OPTIMIZERS[f"reversible {optimizer}" if name == REVERSIBLE else optimizer])
    return run_of(chosen, name, num_steps)


def run_of(problem: dj.Problem, name: str, num_steps: int) -> Run:
    """The same of a problem that has its optimizer."""
    if name == PLAIN:
        return _plain_training(problem, num_steps)
    if name == LIBRARY:
        return then_outer_loss(problem, dj.trained(problem, num_steps=num_steps))
    compute = dj.hypergradient(problem, num_steps=num_steps, method=method(name, num_steps))

    def run(given: dict[str, PyTree], batches: Callable, outer_batch: PyTree):
        out = compute(inner_batches=batches, outer_batch=outer_batch, **given)
        return out.value, out.grad

    return run


def then_outer_loss(problem: dj.Problem, train: Callable[..., dj.TrainState]) -> Run:
    """The outer loss after training by the package."""

    def run(given: dict[str, PyTree], batches: Callable, outer_batch: PyTree) -> Array:
        final = train(inner_batches=batches, **given)
        return problem.outer(final.params, given["hparams"], outer_batch, final.model_state)

    return run


def _plain_training(problem: dj.Problem, num_steps: int) -> Run:
    """Training by optax in a loop, and the outer loss after it: nothing of the package in it."""

    def run(given: dict[str, PyTree], batches: Callable, outer_batch: PyTree) -> Array:
        hparams, key = given["hparams"], given.get("key")
        optimizer = problem.transformation(hparams)

        def step(t, state):
            params, opt_state, model_state = state
            step_key = None if key is None else jax.random.fold_in(key, t)
            loss = lambda p: problem.inner(p, hparams, batches(t), model_state, step_key)
            grads, model_state = jax.grad(loss, has_aux=True)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, model_state

        start = given["params"], optimizer.init(given["params"]), given.get("model_state")
        params, _, model_state = jax.lax.fori_loop(0, num_steps, step, start)
        return problem.outer(params, hparams, outer_batch, model_state)

    return run
