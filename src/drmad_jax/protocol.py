"""What a method is, what it reports, and what it has to say about a run before it begins."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from drmad_jax._checks.drawn import drawn_by
from drmad_jax._checks.optimizer import warn_of_infinite_slope
from drmad_jax._checks.precision import warn_of_few_bits
from drmad_jax._checks.unused import unused_leaves, used_leaves
from drmad_jax._checks.warning import warn
from drmad_jax.problem import TrainState
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent

# hparams -> (outer loss at the end of training, final state)
Evaluate = Callable[[PyTree], tuple[Float[Array, ""], TrainState]]

# A function of the hyperparameters; which of them it depends on is read off its trace.
DependsOn = Callable[[PyTree], PyTree]


class Certificate(NamedTuple):
    """What a hypergradient ĝ is worth beside the true g of the same run, which stays unknown.

    Of the outer loss at the final state, by tangents of the true training.

    Attributes:
        slope: The outer loss's derivative along ĝ/‖ĝ‖, exact: positive where a step against ĝ leads
            downhill.
        ratio: `slope`/‖ĝ‖: 1 where ĝ is right, cosine times ‖g‖/‖ĝ‖ elsewhere.
        norm: ‖g‖, estimated from random directions across ĝ; `None` without any.
        cosine: Of ĝ and g, so estimated.
        cosine_error: Its standard error; 0 where the directions are all that there are.
    """

    slope: Float[Array, ""]
    ratio: Float[Array, ""]
    norm: Float[Array, ""] | None = None
    cosine: Float[Array, ""] | None = None
    cosine_error: Float[Array, ""] | None = None


class Info(NamedTuple):
    """What happened on the way back; arrays, so that it passes through jit and vmap.

    Attributes:
        finite: Whether the outer loss and every entry of the hypergradient are finite. Set by
            `hypergradient`, which has both; `None` in what a method returns.
        num_reverse_steps: Reverse steps taken.
        cotangent_norm: Largest L2 norm of the weights' cotangent on the way back. Far above
            `cotangent_norm_at_end`, the path expands; the hypergradient is then not to be trusted.
            `None`, as the next two, for methods that do not go back step by step.
        cotangent_norm_at_end: Its norm where the way back begins, ‖∂E/∂w_T‖.
        cotangent_norm_at_start: Its norm where the way back ends.
        cotangent_norm_profile: Its norm in each of 32 equal parts of training, shape (32,), −1 in
            parts that were not visited.
        expanded: Whether the norm outgrew ten times its value at the end: the path expands where
            training did not.
        residual_norm: Of a linear solve, relative to its right-hand side; `None` without one.
        num_iterations: Of a linear solve; `None` without one.
        segment_residual: What more curvature products would change in a segment, the largest of
            all segments, relative to the cotangent; `None`, as the next, without segments.
        segment_drift: By how much, relative to the larger one, the curvature that the cotangent
            meets changes from one segment to the next, at most; above 1 where it was negative.
        exact_share: Of the hypergradient, by its norm, what comes from the exact end; `None`
            without one.
        standard_error: Of each entry of a stochastic estimate, like the hypergradient; `None` for
            deterministic methods.
        certificate: What the hypergradient is worth; `None` unless asked for.
    """

    finite: Bool[Array, ""] | None = None
    num_reverse_steps: Int[Array, ""] | int = 0
    cotangent_norm: Float[Array, ""] | None = None
    cotangent_norm_at_end: Float[Array, ""] | None = None
    cotangent_norm_at_start: Float[Array, ""] | None = None
    cotangent_norm_profile: Float[Array, "32"] | None = None
    expanded: Bool[Array, ""] | None = None
    residual_norm: Float[Array, ""] | None = None
    num_iterations: Int[Array, ""] | None = None
    segment_residual: Float[Array, ""] | None = None
    segment_drift: Float[Array, ""] | None = None
    exact_share: Float[Array, ""] | None = None
    standard_error: PyTree = None
    certificate: Certificate | None = None


@runtime_checkable
class Method(Protocol):
    """Training, and the way from the final state's cotangent back to the hyperparameters.

    A method is a frozen value. To add one, write a class with `arrived`, and those of the others
    whose answer here is not its own. The way there is `begin`, `advance` (in one go, or a part at
    a time) and `ended`; the way back `turn`, `retreat` (likewise) and `arrived`. What they hand on
    are pytrees of fixed shape, which may be saved in between. A class that writes `forward` and
    `backward` instead goes each way in one go.
    """

    # Whether the optimizer is differentiated, so that its derivative has to be finite.
    differentiates_optimizer: bool = True
    # Whether JAX differentiates `forward` by itself, in either mode.
    is_native: bool = False

    def begin(self, run: Run, state: TrainState, hparams: PyTree) -> Any:
        """What travels with training, around the state: the state alone by default."""
        return state

    def advance(
        self,
        run: Run,
        tape: Any,
        hparams: PyTree,
        begin: Array | int = 0,
        until: Array | int | None = None,
    ) -> Any:
        """Trains from step `begin` of the run to before step `until`, `None` for its end."""
        return run.train(tape, hparams, begin=begin, until=until)

    def ended(self, run: Run, tape: Any, hparams: PyTree) -> tuple[TrainState, Any]:
        """The final state, and whatever the way back needs, once training has ended."""
        return tape, tape

    def judged(self, final: TrainState, trace: Any) -> TrainState:
        """The state at which the outer loss is differentiated; the cotangent handed to `turn`.

        The final state, unless the method says otherwise.
        """
        return final

    def turn(self, run: Run, trace: Any, hparams: PyTree, cotangent: Cotangent) -> Any:
        """What travels back, around the final state's cotangent."""
        return trace, cotangent

    def num_visits(self, run: Run) -> int:
        """Number of visits that `retreat` makes on the whole way back."""
        return 0

    def reads(self, run: Run) -> list[np.ndarray]:
        """The steps whose batches `arrived` reads, then those that each visit does.

        Raises:
            ValueError: If that is known only once training has ended.
        """
        return [np.zeros(0, int)] * (1 + self.num_visits(run))

    def retreat(
        self, run: Run, back: Any, hparams: PyTree, low: Array | int, high: Array | int
    ) -> Any:
        """Goes back from visit `high` − 1 to visit `low`; the last visit comes first."""
        return back

    def arrived(self, run: Run, back: Any, hparams: PyTree) -> tuple[Cotangent, Info]:
        """The cotangent of the initial state, and what happened on the way."""
        raise NotImplementedError

    def forward(self, run: Run, state: TrainState, hparams: PyTree) -> tuple[TrainState, Any]:
        """Trains from `state`; returns the final state and whatever `backward` needs."""
        tape = self.advance(run, self.begin(run, state, hparams), hparams)
        return self.ended(run, tape, hparams)

    def backward(
        self, run: Run, trace: Any, hparams: PyTree, cotangent: Cotangent
    ) -> tuple[Cotangent, Info]:
        """Takes the cotangent of the final state to the one of the initial state."""
        back = self.turn(run, trace, hparams, cotangent)
        back = self.retreat(run, back, hparams, 0, self.num_visits(run))
        return self.arrived(run, back, hparams)

    def resolve(self, run: Run, state: TrainState, hparams: PyTree) -> "Method":
        """The method for this run: open choices made, what does not fit replaced or refused.

        Called once, before anything else, with the initial state; only structures, shapes and
        dtypes of `state` and `hparams` may matter.
        """
        return self

    def reaches_start(self, run: Run) -> bool:
        """Whether the state's cotangent that `backward` returns is the initial state's.

        If not, there is no gradient with respect to the initial weights, and `backward` accounts
        for whatever part of the initial state depends on the hyperparameters (see `Run.start`).
        """
        return True

    def sees(self, run: Run, state: TrainState) -> DependsOn | None:
        """A function that depends on all the hyperparameters that the method can see.

        `None` if it sees all. Others are refused by name.
        """
        return None

    def distorts(self, run: Run, state: TrainState) -> DependsOn | None:
        """A function that depends on the hyperparameters that come back with wrong signs or sizes.

        `None` if there are none. They are warned of by name.
        """
        return None


@runtime_checkable
class Estimator(Protocol):
    """A way to the hypergradient that only asks for the outer losses of whole runs.

    `hypergradient` takes such a frozen value wherever it takes a `Method`. `evaluate` is plain
    JAX, so that an estimator can be vmapped over it, or push tangents through it.
    """

    def estimate(
        self, evaluate: Evaluate, hparams: PyTree, key: Array | None
    ) -> tuple[Float[Array, ""], TrainState, PyTree, Info]:
        """The outer loss, the final state, the hypergradient, and what happened.

        Args:
            evaluate: Trains from the start; `hparams -> (outer loss, final state)`.
            hparams: Where the gradient is wanted.
            key: For whatever is drawn; `None` where the call had none.
        """
        ...


def resolved(
    method: Method,
    run: Run,
    state: TrainState,
    hparams: PyTree,
    outer: DependsOn | None = None,
) -> Method:
    """The method for this run, after what it has to say about it: once, while it is traced.

    Raises:
        ValueError: Of hyperparameters that neither the method nor the outer loss sees: not a zero.
    """
    method = method.resolve(run, state, hparams)
    unseen = _unseen(method, run, state, hparams, outer)
    if unseen:
        raise ValueError(
            f"{method} cannot see {named(unseen)}, whose hypergradient would be zero whatever its "
            "effect: take it out of `hparams`, or use a method that goes back to the first step, "
            "such as checkpointed()"
        )
    distorts = method.distorts(run, state)
    distorted = [] if distorts is None else used_leaves(distorts, hparams)
    if distorted:
        warn(
            f"hyperparameters inside the optimizer, {named(distorted)}: {method} does not go back "
            "through the optimizer's true states, and their hypergradients are biased, wrong signs "
            "included. Use an exact method for them, such as checkpointed()"
        )
    if method.differentiates_optimizer:
        warn_of_infinite_slope(run.problem, hparams, state.params)
    batch, key = run.inputs(state.step)
    loss = lambda params: run.problem.inner(params, hparams, batch, state.model_state, key)[0]
    warn_of_few_bits(state.params, loss)
    drawn = names_drawn(run, state, hparams)
    if drawn:
        warn(
            f"hyperparameters that decide random draws, {named(drawn)} (a dropout rate, the odds "
            "of a category): a derivative only sees what they do besides, such as rescaling, and "
            "wrong signs are possible with any method that differentiates. Use "
            "evolution_strategies(), or noise that changes smoothly with them (Gaussian dropout, a "
            "concrete mask)"
        )
    return method


def names_drawn(run: Run, state: TrainState, hparams: PyTree) -> list[str]:
    """Of the hyperparameters that decide random draws in the inner loss."""
    if run.key is None:
        return []
    batch, key = run.inputs(state.step)

    def loss(params, hparams, key):
        return run.problem.inner(params, hparams, batch, state.model_state, key)[0]

    return drawn_by(loss, state.params, hparams, cast(Array, key))


def _unseen(method: Method, run: Run, state: TrainState, hparams: PyTree, outer) -> list[str]:
    sees = method.sees(run, state)
    if sees is None:
        return []
    if outer is not None:
        return unused_leaves(lambda h: (sees(h), outer(h)), hparams)
    # Without an outer loss, what acts after training alone is the caller's affair.
    training = used_leaves(lambda h: (run.start(h), run.step(state, h)), hparams)
    return [name for name in unused_leaves(sees, hparams) if name in training]


def named(leaves: list[str]) -> str:
    """Leaves of the hyperparameters, in a sentence."""
    return ", ".join(f"`hparams{name}`" for name in leaves)
