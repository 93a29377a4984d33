"""Which method to begin with, by what was measured of problems of the same kind."""

import dataclasses
import math

import jax
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_count
from drmad_jax.fixed_point.sgd import rule_of
from drmad_jax.hypergradient.given import check_problem, given
from drmad_jax.methods.drmad import drmad
from drmad_jax.methods.exact import checkpointed, reversible
from drmad_jax.methods.forward import forward
from drmad_jax.methods.zero_order import evolution_strategies
from drmad_jax.problem import Problem, TrainState
from drmad_jax.protocol import Estimator, Method, named, names_drawn
from drmad_jax.reverse.paths.schedule import MOST_EVALUATIONS, slots_for
from drmad_jax.reverse.stretches import Stretches
from drmad_jax.training.curvature import said_of
from drmad_jax.training.run import Run

# So many tangents cost no more than the exact way back (docs/methods.md).
FEW = 3
# Of evolution strategies: pairs for each hyperparameter, at least so many, and how far apart.
PAIRS_EACH, LEAST_PAIRS, SIGMA = 4, 16, 0.1
# What `drmad()` keeps beside the states of its exact end, in training states (docs/methods.md).
BESIDE = 13


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """A method to begin with; made by `recommend`.

    Attributes:
        method: The method.
        why: One or two sentences.
    """

    method: Method | Estimator
    why: str


def recommend(
    problem: Problem,
    hparams: PyTree,
    params: PyTree,
    *,
    num_steps: int,
    inner_batches: PyTree = None,
    model_state: PyTree = None,
    key: Array | None = None,
    memory: int | None = None,
) -> Recommendation:
    """Which method to begin with on a problem, without training: by what was measured of its kind.

    Looks at the number of hyperparameters, at whether they decide random draws, at the length of
    training, the optimizer, the loss and the model's state; all of it is traced and nothing is
    compiled but a trial of the optimizer. The figures are those of docs/study.md and
    benchmarks/README.md. `compare` measures on the problem itself, and a certificate says what one
    hypergradient is worth.

    Args:
        problem: Inner loss, outer loss and optimizer.
        hparams: Hyperparameters, as of a hypergradient.
        params: Initial weights, or a `TrainState`.
        num_steps: Number of inner steps T.
        inner_batches: As of a hypergradient; `None` for losses that take no batch.
        model_state: Initial model state.
        key: Key of the run, for losses that draw.
        memory: Bytes for training states; the activations of a step come on top. `None` for as
            much as it takes.

    Returns:
        A `Recommendation`: `method`, for `hypergradient` and all that takes one, and `why`.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind, shape or dtype; where no method of a
            few states fits into `memory`.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: jnp.sum(jnp.exp(h) * w**2) + jnp.sum((w - x) ** 2)
        >>> problem = dj.Problem(loss, lambda w, h, x: jnp.sum((w - x) ** 2), optax.sgd(0.1))
        >>> batches, many = jnp.ones((100, 4)), jnp.zeros(4)
        >>> found = dj.recommend(problem, many, many, num_steps=100, inner_batches=batches)
        >>> found.method == dj.checkpointed()
        True
        >>> print(found.why)
        T = 100 is so short that segments would cost more than they save: take all steps back exactly (3 to 5 times training).
    """  # noqa: E501
    check_problem(problem, num_steps)
    if memory is not None:
        check_count("recommend", "memory", memory)
    hparams, params, run = given(
        problem, num_steps, hparams, params, inner_batches, model_state, key
    )
    state = run.start(hparams)
    count = sum(leaf.size for leaf in jax.tree.leaves(hparams))
    states = None if memory is None else memory // max(1, tree.num_bytes(state))
    if names := names_drawn(run, state, hparams):
        return _by_losses(names, count)
    rules = run.rules_in_loss(state, hparams)
    # A rule for the way back alone has no tangent.
    if count <= FEW and not rules and (states is None or states > count):
        return Recommendation(
            forward(),
            f"{count} hyperparameter{'s' * (count != 1)}: forward mode is exact at any length of "
            "training, in a state for each and about one training for each (1.7 to 4.0 times "
            "training for one to three on a small perceptron, the exact way back 3.5 to 4.9).",
        )
    if rules:
        return _exact(num_steps, states, said_of(rules))
    return _by_reverse(run, state, hparams, states)


def _by_losses(names: list[str], count: int) -> Recommendation:
    num_pairs = max(LEAST_PAIRS, PAIRS_EACH * count)
    return Recommendation(
        evolution_strategies(num_pairs=num_pairs, sigma=SIGMA),
        f"{named(names)} decide{'s' * (len(names) == 1)} random draws, which derivatives do not "
        f"see: estimate from the losses of {2 * num_pairs} perturbed runs, with `sigma` of the "
        "order of an outer update; or draw noise that changes smoothly with them, and any method "
        "does.",
    )


def _by_reverse(run: Run, state: TrainState, hparams: PyTree, states: int | None) -> Recommendation:
    """Where a derivative sees all, and there are too many hyperparameters for tangents."""
    num_steps, default = run.num_steps, drmad()
    assert isinstance(default, Stretches)
    if rule_of(run.problem.transformation(hparams)) is not None and not jax.tree.leaves(
        state.model_state
    ):
        return Recommendation(
            reversible(),
            "The optimizer is `reversible_sgd`: training can be undone to the bit, exact at "
            "log2(1/momentum) bits for each weight and step (.152 at momentum .9), 3.4 times "
            "training.",
        )
    border = num_steps - default.length_of_end(num_steps)
    if border == 0 or not default.first.steps.saves(border):
        return _exact(
            num_steps, states, f"T = {num_steps} is so short that segments would cost more than "
            "they save",
        )  # fmt: skip
    unfit = default.first.steps.unfit(run, state, hparams)
    if unfit is not None:
        return _exact(num_steps, states, f"{unfit}: segments do not fit")
    if jax.tree.leaves(state.model_state):
        return _exact(
            num_steps, states, "the model has a state, and on the one network with a state that "
            "was measured tuning by drmad() recovered .79 of the exact method's fall of the "
            "validation loss",
        )  # fmt: skip
    needed = BESIDE + 2 * math.isqrt(default.length_of_end(num_steps))
    if states is not None and states < needed:
        return _exact(num_steps, states, f"`memory` holds {states} training states, and drmad() "
                      f"takes about {needed}")  # fmt: skip
    if default.first.steps.read(run, state, hparams):
        worth = (
            "for hyperparameters that read the steps its cosine with the exact hypergradient was "
            ".97 (learning rates) and .88 (example weights)"
        )
    else:
        worth = (
            "for penalties tuning by it recovered .96 to 1.13 of the exact method's fall of the "
            "validation loss on perceptrons"
        )
    return Recommendation(
        default,
        f"T = {num_steps} is long, and the optimizer suits segments: {worth}, at 1.1 to 1.7 times "
        "training where exact methods cost 3 to 5 (T = 2,000). Ask for a certificate now and then.",
    )


def _exact(num_steps: int, states: int | None, reason: str) -> Recommendation:
    """All steps back, in as many states as there is memory for."""
    reason = f"{reason[0].upper()}{reason[1:]}"
    # One of them is stored for nobody.
    enough, least = (slots_for(num_steps, n) + 1 for n in (2, MOST_EVALUATIONS))
    if states is None or states >= enough:
        why = f"{reason}: take all steps back exactly (3 to 5 times training)."
        return Recommendation(checkpointed(), why)
    if states < least:
        raise ValueError(
            f"recommend: `memory` holds {states} training states, and the exact way back through "
            f"{num_steps} steps takes {least} at least ({reason}): give more, train for fewer "
            "steps, or go back through the last ones alone, truncated(num_reverse_steps=…)"
        )
    return Recommendation(
        checkpointed(budget=states),
        f"{reason}: take all steps back exactly, in the {states} training states that `memory` "
        "holds, each step computed as seldom as fits.",
    )
