"""The reverse pass: any path, any curvature, any steps; and JAX's own as the oracle."""

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_choice
from drmad_jax._checks.warning import warn
from drmad_jax.problem import TrainState
from drmad_jax.protocol import DependsOn, Info, Method
from drmad_jax.reverse.guard import (
    ON_EXPANSION,
    Guard,
    OnExpansion,
    guarded,
    positions,
    start_guard,
)
from drmad_jax.reverse.paths import Checkpoints, Path
from drmad_jax.reverse.steps import EveryStep, ReverseSteps, Visits
from drmad_jax.training.curvature import (
    STEP_CURVATURES,
    Curvature,
    resolve_curvature,
    said_of,
)
from drmad_jax.training.run import Run, forward_scan, reverse_loop
from drmad_jax.training.step import Cotangent, optimizer_update


class ReverseTape(NamedTuple):
    """What travels with training.

    Attributes:
        track: What the path remembers, around the state.
        start: The initial state, for steps that depend on how far training went; else `None`.
        visits: The visits to make, where the run decides; `None` where its length does.
    """

    track: Any
    start: TrainState | None
    visits: Visits | None = None


class ReverseBack(NamedTuple):
    """What travels back.

    Attributes:
        tape: What stays as it is.
        own: What the path hands from visit to visit.
        cotangent: The cotangent.
        guard: What is watched.
    """

    tape: ReverseTape
    own: Any
    cotangent: Cotangent
    guard: Guard


@dataclasses.dataclass(frozen=True)
class Reverse(Method):
    """A reverse pass, given by its path, its steps and its curvature.

    Attributes:
        path: Where each visited step is linearised.
        steps: Which steps are visited, and what a visit does.
        curvature: "hessian", "gauss_newton", "filtered_hessian", or "auto" for what suits the
            loss, the path and the steps.
        fresh_batches: Whether the way back draws other batches than the way there.
        on_expansion: What to do when the cotangent outgrows the one that the way back began with.

    Raises:
        ValueError: If path, steps and curvature do not go together.
    """

    path: Path
    steps: ReverseSteps
    curvature: str = "hessian"
    fresh_batches: bool = False
    on_expansion: OnExpansion = "continue"

    def __post_init__(self):
        check_choice("method", "curvature", self.curvature, ("auto", *STEP_CURVATURES))
        check_choice("method", "on_expansion", self.on_expansion, ON_EXPANSION)
        if self.path.needs_edges and not self.steps.has_edges:
            raise ValueError(
                f"method: {self.path} stands for whole stretches of training, and {self.steps} "
                "makes none: take steps=drmad_jax.segments(...) or "
                "drmad_jax.strided_steps(...), or a path with a state for each step, such as "
                "drmad_jax.knots(8)"
            )
        if self.steps.takes_stretches and self.curvature == "filtered_hessian":
            raise ValueError(
                "method: segments take the positive part of the curvature; "
                '"filtered_hessian" is for single steps: use curvature="auto"'
            )

    def resolve(self, run: Run, state: TrainState, hparams: PyTree) -> "Reverse":
        """With a curvature chosen, and exact where the optimizer does not suit segments."""
        reason = self.steps.unfit(run, state, hparams)
        unknown = self.path.unknown(run, state, hparams)
        if unknown:
            reason = (
                f"the path does not know what {', '.join(f'`state{x}`' for x in unknown)} was at "
                "each step: large, not floating-point, and changed by training"
            )
        if reason is not None:
            warn(f"{reason}: {_INSTEAD}")
            return EXACT.resolve(run, state, hparams)
        if self.fresh_batches and not callable(run.inner_batches):
            raise ValueError(
                'batches="fresh" needs `inner_batches` that can make more of them, such as '
                "drmad_jax.minibatches(data, batch_size, key); got stacked batches"
            )
        if self.on_expansion == "gauss_newton":
            resolve_curvature(run.problem, "gauss_newton")
        curvature = resolve_curvature(run.problem, self.curvature)
        if self.curvature == "auto":
            curvature = self._suited(run, curvature)
        rules = run.rules_in_loss(state, hparams)
        if rules:
            curvature = "hessian"
            warn(f"{said_of(rules)}: {_AS_WRITTEN}")
        steps, path = self.steps.resolve(run, state, hparams), self.path.resolve(state)
        return dataclasses.replace(self, path=path, steps=steps, curvature=curvature)

    def begin(self, run: Run, state: TrainState, hparams: PyTree) -> ReverseTape:
        """What the path remembers."""
        track = self.path.blank(run, state, hparams, self._visits(run))
        return ReverseTape(track, state if self.steps.measures else None)

    def advance(
        self,
        run: Run,
        tape: ReverseTape,
        hparams: PyTree,
        begin: Array | int = 0,
        until: Array | int | None = None,
    ) -> ReverseTape:
        """Trains, remembering what the path needs."""
        visits = self._visits(run)
        track = self.path.advance(run, tape.track, hparams, visits, begin, until)
        return tape._replace(track=track)

    def ended(self, run: Run, tape: ReverseTape, hparams: PyTree) -> tuple[TrainState, ReverseTape]:
        """With the visits that the run decides on."""
        final, visits = self.path.last(tape.track), self._visits(run)
        track = self.path.ended(run, tape.track, visits)
        measured = None
        if tape.start is not None:
            measured = self.steps.measure(run, hparams, tape.start, final).shifted(run.begin)
        return final, ReverseTape(track, None, measured)

    def turn(
        self, run: Run, trace: ReverseTape, hparams: PyTree, cotangent: Cotangent
    ) -> ReverseBack:
        """The way back begins, watched."""
        return self.turn_with(run, trace, cotangent, start_guard(cotangent))

    def turn_with(
        self, run: Run, trace: ReverseTape, cotangent: Cotangent, guard: Guard
    ) -> ReverseBack:
        """The way back through a stretch begins."""
        track, own = self.path.turn(run, trace.track, self._visits(run))
        return ReverseBack(trace._replace(track=track), own, cotangent, guard)

    def num_visits(self, run: Run) -> int:
        """Those of the path."""
        return self.path.num_visits(run, self._visits(run))

    def reads(self, run: Run) -> list[np.ndarray]:
        """Those computed again, and those of the steps' own."""
        if self.steps.measures:
            raise ValueError(
                f"{self.steps} decides on its visits once training has ended: which batches they "
                "read is not known before"
            )
        visits, found = self._visits(run), [np.zeros(0, int)]
        offset = run.num_steps if self.fresh_batches else 0
        for index in range(self.num_visits(run)):
            again, visit = self.path.again(run, visits, index)
            seen = [] if visit is None else offset + self.steps.reads(run, visits, visit)
            found.append(np.union1d(again, seen).astype(int))
        return found

    def retreat(
        self,
        run: Run,
        back: ReverseBack,
        hparams: PyTree,
        low: Array | int,
        high: Array | int,
        *,
        share: PyTree = None,
        before: int = 0,
    ) -> ReverseBack:
        """The reverse loop over the path's visits in one stretch of the run.

        A `share` is added to the weights' and the model state's cotangent at every visit: what
        arrives there from an outer loss of more states than the last. Visits of another stretch
        are `before` these in the guard's count.
        """
        tape, count = back.tape, self.num_visits(run)
        visits = self._visits(run) if tape.visits is None else tape.visits
        # The path computes again, or undoes, what training did, on its own batches.
        offset = run.num_steps if self.fresh_batches else 0
        seen = dataclasses.replace(run, batch_offset=offset)

        def enter(cotangent: Cotangent) -> Cotangent:
            return self.steps.begin(seen, hparams, self.path.last(tape.track), cotangent)

        def take(state, cotangent, weight, at, *, safe):
            curvature = "gauss_newton" if safe else cast(Curvature, self.curvature)
            return self.steps.take(seen, hparams, state, cotangent, weight, at, curvature=curvature)

        alone = guarded(take, self.on_expansion, positions(visits, run.num_steps, before))

        def visit(carry, *where):
            cotangent, guard = alone(carry, *where)
            if share is not None:
                cotangent = cotangent._replace(state=_with_share(cotangent.state, share))
            return cotangent, guard

        def revisit(carry, index):
            own, watched = carry
            return self.path.revisit(run, tape.track, hparams, visit, own, watched, index, visits)

        first = (high == count) & (low < high)
        if isinstance(first, bool):
            cotangent = enter(back.cotangent) if first else back.cotangent
        else:
            cotangent = jax.lax.cond(first, enter, lambda c: c, back.cotangent)
        own, (cotangent, guard) = reverse_loop(
            revisit, (back.own, (cotangent, back.guard)), low, high
        )
        return ReverseBack(tape, own, cotangent, guard)

    def arrived(self, run: Run, back: ReverseBack, hparams: PyTree) -> tuple[Cotangent, Info]:
        """The cotangent, and what was watched."""
        tape, own, cotangent, guard = back
        carry = cotangent, guard
        cotangent, guard = self.path.arrived(run, tape.track, own, carry, self._visits(run))
        return cotangent, guard.info(of_segments=self.steps.takes_stretches)

    def reaches_start(self, run: Run) -> bool:
        """Unless the visits end before the first steps, or all stand at the last state."""
        return self.path.reaches_start and self.steps.reaches_start(run.length)

    def sees(self, run: Run, state: TrainState) -> DependsOn | None:
        """Everything, or what acts in a step where the first steps are not visited."""
        if self.reaches_start(run):
            return None
        return functools.partial(run.step, state)

    def distorts(self, run: Run, state: TrainState) -> DependsOn | None:
        """What acts inside the optimizer, unless each step or stretch has its own state there."""
        # The mean of a stretch's states knows the mean velocity; a knot that of one step.
        stretches = self.steps.takes_stretches
        if self.path.needs_edges if stretches else self.path.is_true(run.length):
            return None

        def inside_optimizer(hparams):
            update = optimizer_update(run.problem, hparams)
            loss = jnp.zeros((), jnp.result_type(*jax.tree.leaves(state.params)))
            updates, _ = update(state.params, state.opt_state, state.params, loss)
            return updates

        return inside_optimizer

    def _visits(self, run: Run) -> Visits:
        return self.steps(run.length).shifted(run.begin)

    def _suited(self, run: Run, best: Curvature) -> Curvature:
        """The curvature that suits path and steps, from the best that the loss allows."""
        if self.steps.takes_stretches:
            # Of which they take the positive part.
            return "hessian"
        # States beside the trajectory stand in, where curvature can be negative; a path that
        # stands at the end of training alone is where training settled.
        strays = not self.path.is_true(run.length) and self.path.reaches_start
        return "filtered_hessian" if best == "hessian" and strays else best


def _with_share(state: TrainState, share: TrainState) -> TrainState:
    """The optimizer's state has none."""
    return tree.add(state._replace(opt_state=None), share)._replace(opt_state=state.opt_state)


TRUE_PATH = Checkpoints(None, None)
EXACT = Reverse(TRUE_PATH, EveryStep())
_AS_WRITTEN = (
    "each curvature product is taken as they are written, reverse over reverse and with the whole "
    "Hessian, which costs more"
)
_INSTEAD = (
    "the whole run is taken back exactly instead. To ask for that without this warning, use "
    "drmad_jax.checkpointed()"
)


@dataclasses.dataclass(frozen=True)
class Unrolled(Method):
    """JAX's own reverse mode through the forward scan."""

    is_native = True

    def forward(self, run: Run, state: TrainState, hparams: PyTree) -> tuple[TrainState, Any]:
        """Trains under `jax.vjp`."""
        inexact, rest = tree.partition(state)

        def train(inexact, hparams):
            start = tree.combine(inexact, rest)
            step = lambda state: run.step(state, hparams)
            final, _ = forward_scan(step, start, [1] * run.length)
            return tree.partition(final)

        final, pullback, final_rest = jax.vjp(train, inexact, hparams, has_aux=True)
        return tree.combine(final, final_rest), pullback

    def arrived(self, run: Run, back: Any, hparams: PyTree) -> tuple[Cotangent, Info]:
        """The pullback of the whole scan."""
        trace, cotangent = back
        at_end = jnp.sqrt(tree.squared_norm(cotangent.state.params))
        d_state, d_hparams = trace(cotangent.state)
        at_start = jnp.sqrt(tree.squared_norm(d_state.params))
        info = Info(
            num_reverse_steps=jnp.int32(run.num_steps),
            cotangent_norm=jnp.maximum(at_end, at_start),
            cotangent_norm_at_end=at_end,
            cotangent_norm_at_start=at_start,
        )
        return Cotangent(d_state, tree.add(cotangent.hparams, d_hparams)), info
