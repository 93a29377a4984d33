"""The methods: how a hypergradient is computed, each a frozen value with one factory."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from drmad_jax import tree
from drmad_jax.check import check_choice, check_count
from drmad_jax.gradient import CURVATURES, resolve_curvature
from drmad_jax.paths import Frozen, Interpolated, Path, Recomputed
from drmad_jax.paths.interpolated import StateOnPath
from drmad_jax.problem import TrainState
from drmad_jax.step import Cotangent
from drmad_jax.unroll import Run, forward_scan
from drmad_jax.visits import (
    AllSteps,
    LastSteps,
    PublishedStride,
    ReverseSteps,
    Spacing,
    Stride,
    Weighting,
)


class Info(NamedTuple):
    """What happened on the way back; arrays, so that it passes through jit and vmap.

    Attributes:
        finite: Whether the outer loss and every entry of the hypergradient are finite.
        num_reverse_steps: Reverse steps taken.
        cotangent_norm: Largest L2 norm of the weights' cotangent on the way back. Far above
            `cotangent_norm_at_end`, the path expands; the hypergradient is then not to be trusted.
        cotangent_norm_at_end: Its norm where the way back begins, ‖∂E/∂w_T‖.
        cotangent_norm_at_start: Its norm where the way back ends.
        residual_norm: Of a linear solve, relative to its right-hand side; `None` without one.
        num_iterations: Of a linear solve; `None` without one.
        standard_error: Of each entry of a stochastic estimate, like the hypergradient; `None` for
            deterministic methods.
    """

    finite: Bool[Array, ""]
    num_reverse_steps: Int[Array, ""]
    cotangent_norm: Float[Array, ""]
    cotangent_norm_at_end: Float[Array, ""]
    cotangent_norm_at_start: Float[Array, ""]
    residual_norm: Float[Array, ""] | None = None
    num_iterations: Int[Array, ""] | None = None
    standard_error: PyTree = None


@runtime_checkable
class Method(Protocol):
    """Training, and the way from the final state's cotangent back to the hyperparameters.

    A method is a frozen value. To add one, implement these four functions.
    """

    def forward(self, run: Run, state: TrainState) -> tuple[TrainState, Any]:
        """Trains from `state`; returns the final state and whatever `backward` needs."""
        ...

    def backward(self, run: Run, trace: Any, cotangent: Cotangent) -> tuple[Cotangent, Info]:
        """Takes the cotangent of the final state to the one of the initial state."""
        ...

    def reaches_start(self, run: Run) -> bool:
        """Whether the state's cotangent that `backward` returns is the initial state's.

        If not, there is no gradient with respect to the initial weights, and `backward` accounts
        for whatever part of the initial state depends on the hyperparameters (see `Run.start`).
        """
        ...

    def sees(self, run: Run, state: TrainState) -> Callable[[PyTree], PyTree] | None:
        """A function of the hyperparameters that depends on all those the method can see.

        `None` if it sees all. Others are refused by name.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Reverse:
    """A reverse pass, given by its path, its curvature and the steps that it visits."""

    path: Path
    curvature: str
    steps: ReverseSteps

    def forward(self, run: Run, state: TrainState) -> tuple[TrainState, Any]:
        """Trains, remembering what the path needs."""
        resolve_curvature(run.problem, self.curvature)
        return self.path.forward(run, state, self.steps(run.num_steps))

    def backward(self, run: Run, trace: Any, cotangent: Cotangent) -> tuple[Cotangent, Info]:
        """The reverse scan over the path's visits."""
        curvature = resolve_curvature(run.problem, self.curvature)
        visits = self.steps(run.num_steps)
        at_end = jnp.sqrt(tree.squared_norm(cotangent.state.params))

        def visit(carry, state, weight):
            cotangent, _, largest = carry
            cotangent, info = run.reverse_step(state, cotangent, curvature=curvature, weight=weight)
            return cotangent, info.cotangent_norm, jnp.maximum(largest, info.cotangent_norm)

        carry = (cotangent, at_end, at_end)
        cotangent, at_start, largest = self.path.backward(run, trace, visit, carry, visits)
        return cotangent, _info(len(visits.step), largest, at_end, at_start)

    def reaches_start(self, run: Run) -> bool:
        """Unless the visits end before the first steps, or all stand at the last state."""
        if isinstance(self.path, Frozen):
            return False
        return not isinstance(self.steps, LastSteps) or self.steps.count >= run.num_steps

    def sees(self, run: Run, state: TrainState) -> Callable[[PyTree], PyTree] | None:
        """Everything, or what acts in a step where the first steps are not visited."""
        if self.reaches_start(run):
            return None
        return lambda hparams: dataclasses.replace(run, hparams=hparams).step(state)


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """JAX's own reverse mode through the forward scan."""

    def forward(self, run: Run, state: TrainState) -> tuple[TrainState, Any]:
        """Trains under `jax.vjp`."""
        inexact, rest = tree.partition(state)

        def train(inexact, hparams):
            start = tree.combine(inexact, rest)
            step = dataclasses.replace(run, hparams=hparams).step
            final, _ = forward_scan(step, start, [1] * run.num_steps)
            return tree.partition(final)

        final, pullback, final_rest = jax.vjp(train, inexact, run.hparams, has_aux=True)
        return tree.combine(final, final_rest), pullback

    def backward(self, run: Run, trace: Any, cotangent: Cotangent) -> tuple[Cotangent, Info]:
        """The pullback of the whole scan."""
        at_end = jnp.sqrt(tree.squared_norm(cotangent.state.params))
        d_state, d_hparams = trace(cotangent.state)
        at_start = jnp.sqrt(tree.squared_norm(d_state.params))
        result = Cotangent(d_state, tree.add(cotangent.hparams, d_hparams))
        return result, _info(run.num_steps, jnp.maximum(at_end, at_start), at_end, at_start)

    def reaches_start(self, run: Run) -> bool:
        """Always."""
        return True

    def sees(self, run: Run, state: TrainState) -> None:
        """Everything."""
        return None


def unrolled() -> Unrolled:
    """Exact: `jax.vjp` through the whole training scan. The oracle for all other methods.

    Cost:
        Memory: the activations of all T steps. Reverse pass: one reverse-over-reverse step each.
    Bias:
        Exact. `info.cotangent_norm` sees only the two ends.

    Example:
        >>> import drmad_jax as dj
        >>> dj.unrolled()
        Unrolled()
    """
    return Unrolled()


def stored(*, curvature: str = "hessian") -> Reverse:
    """Exact: all T training states are stored, each step is linearised where it was taken.

    Franceschi et al. 2017, Alg. 1 (Reverse-HG).

    Args:
        curvature: "hessian" (exact), or "gauss_newton" for the true trajectory with Gauss–Newton
            curvature.

    Cost:
        Memory: T training states (weights and optimizer state). Reverse pass: T reverse steps.
    Bias:
        Exact with the Hessian.

    Example:
        >>> import drmad_jax as dj
        >>> dj.stored().curvature
        'hessian'
    """
    return _reverse(Recomputed((1,)), curvature, AllSteps())


def checkpointed(
    *, every: int | Sequence[int] | None = None, curvature: str = "hessian"
) -> Reverse:
    """Exact: every `every`-th state is stored, the others are computed again on the way back.

    Args:
        every: Steps between checkpoints; `None` for ⌈√T⌉, which stores about 2√T states. A
            decreasing sequence, each a divisor of the one before, gives as many levels: (100, 10)
            stores every 100th state, then every 10th of one interval, then those of ten steps.
        curvature: "hessian" (exact) or "gauss_newton".

    Cost:
        Memory: T/every + every training states. Reverse pass: T reverse steps and one more
        training for each level.
    Bias:
        Exact with the Hessian.

    Raises:
        ValueError: If the intervals are not positive, or not each a divisor of the one before.

    Example:
        >>> import drmad_jax as dj
        >>> dj.checkpointed(every=50).path.intervals
        (50, 1)
    """
    return _reverse(Recomputed(_intervals(every)), curvature, AllSteps())


def drmad(
    *,
    knots: int | Sequence[int] = 2,
    curvature: str = "auto",
    num_reverse_steps: int | None = None,
    spacing: Spacing = "dense",
    weighting: Weighting = "count",
    optimizer_state: StateOnPath = "auto",
) -> Reverse:
    """Approximate: training is remembered by its two ends (and knots), w_t stands on the line.

    w_t ≈ (1 − t/T) w_0 + (t/T) w_T (Fu et al. 2016). Where the paper takes the Hessian along that
    line, which expands wherever curvature is negative or sharp and training merely steered around
    it, the default takes the Gauss–Newton matrix if the loss has the structure.

    Args:
        knots: 2 for the line; n knots at T(k/(n−1))²; or the knots' steps, increasing from 0 to T.
            T + 1 knots are the true trajectory.
        curvature: "gauss_newton", "hessian", or "auto": Gauss–Newton for a `composite_loss`, the
            Hessian for any other loss.
        num_reverse_steps: Number S of visited steps; `None` for all T.
        spacing: Of visited steps: "dense" near the end of training, or "even".
        weighting: "count" adds each visited step's term as often as it stands for a step; "none"
            adds it once, as published, and the hypergradient shrinks by about S/T.
        optimizer_state: What stands for the optimizer's and the model's state on the path:
            "final", "interpolated", or "auto": final on the line, interpolated on knots.

    Cost:
        Memory: one training state for each knot (and 4 bytes a step for each counter in the
        optimizer state). Reverse pass: S reverse steps.
    Bias:
        Biased unless knots = T + 1 with the Hessian. The mixed terms are taken on the line, and
        Gauss–Newton leaves out the model's own curvature. Hypergradients of learning rates and
        momenta need the true velocity and are wrong here, sign errors included: use
        `checkpointed`. With the Hessian it may diverge: look at `info.cotangent_norm`.

    Raises:
        ValueError: On knots that do not increase from 0, a count below 1, or an unknown name.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad(num_reverse_steps=200).steps
        Stride(count=200, spacing='dense', weighting='count')
    """
    check_choice("drmad", "spacing", spacing, ("dense", "even"))
    check_choice("drmad", "weighting", weighting, ("count", "none"))
    choices = ("auto", "final", "interpolated")
    check_choice("drmad", "optimizer_state", optimizer_state, choices)
    steps: ReverseSteps = AllSteps()
    if num_reverse_steps is not None:
        check_count("drmad", "num_reverse_steps", num_reverse_steps)
        steps = Stride(num_reverse_steps, spacing, weighting)
    return _reverse(Interpolated(_knots(knots), optimizer_state), curvature, steps)


def published_drmad(*, num_reverse_steps: int) -> Reverse:
    """Approximate: DrMAD as its authors ran it (Fu et al. 2016, `cpu_ver`), for comparison.

    The line, the Hessian, and S = `num_reverse_steps` (they took T/10) reverse steps at
    β = linspace(0.001, 0.999, S), with the step sizes and minibatches of the first S training
    steps, each term added once.

    Args:
        num_reverse_steps: Number S of reverse steps.

    Cost:
        Memory: two training states. Reverse pass: S reverse steps.
    Bias:
        Biased: nine tenths of the decay and of the sum are left out (the authors' sign updates
        hide the magnitude), and it diverges outside small step sizes. Prefer `drmad`.

    Raises:
        ValueError: If `num_reverse_steps` is below 1.

    Example:
        >>> import drmad_jax as dj
        >>> dj.published_drmad(num_reverse_steps=200).curvature
        'hessian'
    """
    check_count("published_drmad", "num_reverse_steps", num_reverse_steps)
    return _reverse(Interpolated(2, "final"), "hessian", PublishedStride(num_reverse_steps))


def truncated(
    *, num_reverse_steps: int, frozen: bool = False, curvature: str = "hessian"
) -> Reverse:
    """Approximate: only the last K steps are differentiated (Shaban et al. 2019).

    Args:
        num_reverse_steps: Number K of steps.
        frozen: Linearise them all at the final state. With the Hessian and plain gradient descent
            this is the K-term Neumann series of Lorraine et al. 2020.
        curvature: "hessian", "gauss_newton" or "auto".

    Cost:
        Memory: K training states, or one if frozen. Reverse pass: K reverse steps.
    Bias:
        Biased; the error decays as (1 − γα)^K where the loss is α-strongly convex near the end,
        γ the step size. What acts early in training (initial weights, early learning rates) is
        not seen.

    Raises:
        ValueError: If `num_reverse_steps` is below 1, or on an unknown curvature.

    Example:
        >>> import drmad_jax as dj
        >>> dj.truncated(num_reverse_steps=10).steps
        LastSteps(count=10)
    """
    check_count("truncated", "num_reverse_steps", num_reverse_steps)
    path = Frozen() if frozen else Recomputed((1,))
    return _reverse(path, curvature, LastSteps(num_reverse_steps))


def _reverse(path: Path, curvature: str, steps: ReverseSteps) -> Reverse:
    check_choice("method", "curvature", curvature, ("auto", *CURVATURES))
    return Reverse(path, curvature, steps)


def _knots(knots: int | Sequence[int]) -> int | tuple[int, ...]:
    if isinstance(knots, int):
        check_count("drmad", "knots", knots, least=2)
        return knots
    times = tuple(map(int, knots))
    increasing = all(a < b for a, b in zip(times, times[1:], strict=False))
    if len(times) < 2 or times[0] != 0 or not increasing:
        raise ValueError(
            f"drmad: `knots` must be a number, or steps increasing from 0 to num_steps, got {knots}"
        )
    return times


def _intervals(every: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if every is None:
        return None
    levels = (every,) if isinstance(every, int) else tuple(every)
    for level in levels:
        check_count("checkpointed", "every", level)
    levels = levels if levels[-1] == 1 else (*levels, 1)
    for outer, inner in zip(levels, levels[1:], strict=False):
        if outer % inner or outer == inner:
            raise ValueError(
                f"checkpointed: in `every` each interval must be a divisor of the one before, "
                f"got {inner} after {outer}"
            )
    return levels


def _info(count: int, largest: Array, at_end: Array, at_start: Array) -> Info:
    # `finite` is set by the caller, who has the outer loss too.
    return Info(jnp.array(True), jnp.array(count, jnp.int32), largest, at_end, at_start)
