"""A way back in two stretches: the last steps one by one, the others as their own way says."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.protocol import DependsOn, Info, Method
from drmad_jax.reverse.guard import start_guard
from drmad_jax.reverse.method import EXACT, TRUE_PATH, Reverse, ReverseBack, ReverseTape
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent

Serves = Literal["auto", "tuning", "this_run"]
SERVES = ("auto", "tuning", "this_run")


class StretchesTape(NamedTuple):
    """What travels with training, and is left of it: that of both stretches."""

    first: ReverseTape
    last: ReverseTape


class StretchesBack(NamedTuple):
    """What travels back.

    Attributes:
        first: Through the first stretch.
        last: Through the last one.
        share: The share of the cotangent that goes through each of the last states, or `None`.
        before: The hypergradient so far where the way back begins.
        between: The same where the last stretch ends.
    """

    first: ReverseBack
    last: ReverseBack
    share: Any
    before: PyTree
    between: PyTree


@dataclasses.dataclass(frozen=True)
class Stretches(Method):
    """The last steps taken back exactly, those before them by another way.

    Attributes:
        first: The way back through the first stretch.
        num_last: Number K of last steps; `None` for the square nearest to √(20 T), which two
            levels of checkpoints divide.
        serves: "this_run": the outer loss is differentiated at the final state. "tuning": at the
            mean of the last K + 1 states, through each of which goes an equal share of the
            cotangent. "auto": "this_run" for hyperparameters that act inside the optimizer or
            read the batch, and for models with a state, "tuning" for others.
        save: Whether runs so short that segments would cost more than they save are exact as a
            whole.
        last: The way back through the last stretch.
    """

    first: Reverse
    num_last: int | None = None
    serves: Serves = "auto"
    save: bool = True
    last: Reverse = EXACT

    def resolve(self, run: Run, state: TrainState, hparams: PyTree) -> Method:
        """With a length and a purpose; exact as a whole where segments do not fit or save."""
        count = self.length_of_end(run.num_steps)
        border = run.num_steps - count
        if border == 0 or (self.save and not self.first.steps.saves(border)):
            return EXACT.resolve(run, state, hparams)
        first = self.first.resolve(run.stretch(0, border), state, hparams)
        if self.first.steps.takes_stretches and not first.steps.takes_stretches:
            # The optimizer does not suit segments.
            return first
        serves = self.serves
        if serves == "auto":
            # Running statistics are not those of averaged weights.
            has_state = bool(jax.tree.leaves(tree.partition(state.model_state)[0]))
            of_steps = has_state or self.first.steps.read(run, state, hparams)
            serves = "this_run" if of_steps else "tuning"
        path = dataclasses.replace(TRUE_PATH.resolve(state), averages=serves == "tuning")
        last = dataclasses.replace(EXACT, path=path)
        return dataclasses.replace(self, first=first, last=last, num_last=count, serves=serves)

    def begin(self, run: Run, state: TrainState, hparams: PyTree) -> StretchesTape:
        """What both paths remember."""
        first, last = self._runs(run)
        of_first = self.first.begin(first, state, hparams)
        return StretchesTape(of_first, self.last.begin(last, state, hparams))

    def advance(
        self,
        run: Run,
        tape: StretchesTape,
        hparams: PyTree,
        begin: Array | int = 0,
        until: Array | int | None = None,
    ) -> StretchesTape:
        """Trains through the first stretch, then through the last."""
        (first, last), exact = self._runs(run), self.last
        if until is None:
            of_first = self.first.advance(first, tape.first, hparams)
            state = self.first.path.last(of_first.track)
            of_last = exact.begin(last, state, hparams)
            return StretchesTape(of_first, exact.advance(last, of_last, hparams))
        border = first.length
        upto = jnp.minimum(until, border)
        of_first = self.first.advance(first, tape.first, hparams, jnp.minimum(begin, border), upto)
        # Until the border is passed, the last stretch begins anew wherever training stands.
        state = self.first.path.last(of_first.track)
        fresh, track = exact.begin(last, state, hparams).track, tape.last.track
        given = track._replace(slots=None), fresh._replace(slots=None)
        old = jax.tree.map(lambda b, a: jnp.where(begin <= border, a, b), *given)
        of_last = tape.last._replace(track=old._replace(slots=track.slots))
        since = jnp.maximum(begin - border, 0)
        of_last = exact.advance(last, of_last, hparams, since, jnp.maximum(until - border, 0))
        return StretchesTape(of_first, of_last)

    def ended(
        self, run: Run, tape: StretchesTape, hparams: PyTree
    ) -> tuple[TrainState, StretchesTape]:
        """As both stretches do."""
        first, last = self._runs(run)
        _, of_first = self.first.ended(first, tape.first, hparams)
        final, of_last = self.last.ended(last, tape.last, hparams)
        return final, StretchesTape(of_first, of_last)

    def judged(self, final: TrainState, trace: StretchesTape) -> TrainState:
        """The mean of the last states, where tuning is served."""
        mean = trace.last.track.total
        if mean is None:
            return final
        mean = tree.cast_like(mean, tree.partition(final._replace(opt_state=None))[0])
        model_state = tree.combine(mean.model_state, final.model_state)
        return final._replace(params=mean.params, model_state=model_state)

    def turn(
        self, run: Run, trace: StretchesTape, hparams: PyTree, cotangent: Cotangent
    ) -> StretchesBack:
        """The way back begins at the end of the last stretch."""
        first, last = self._runs(run)
        guard, share = start_guard(cotangent), None
        if self.serves == "tuning":
            state = jax.tree.map(lambda x: x / (last.length + 1), cotangent.state)
            share, cotangent = state._replace(opt_state=None), cotangent._replace(state=state)
        back = self.last.turn_with(last, trace.last, cotangent, guard)
        later = self.first.turn_with(first, trace.first, cotangent, guard)
        return StretchesBack(later, back, share, cotangent.hparams, cotangent.hparams)

    def num_visits(self, run: Run) -> int:
        """Of both stretches."""
        return sum(self._num_visits(run))

    def reads(self, run: Run) -> list[np.ndarray]:
        """Of both stretches."""
        first, last = self._runs(run)
        return self.first.reads(first) + self.last.reads(last)[1:]

    def retreat(
        self, run: Run, back: StretchesBack, hparams: PyTree, low: Array | int, high: Array | int
    ) -> StretchesBack:
        """Back through the last stretch, then through the first."""
        (first, last), border = self._runs(run), self._num_visits(run)[0]
        if isinstance(low, int) and isinstance(high, int):
            least, most = min, max
        else:
            least, most = jnp.minimum, jnp.maximum
        of_last = self.last.retreat(
            last, back.last, hparams, most(low - border, 0), most(high - border, 0),
            share=back.share,
        )  # fmt: skip
        # What the last stretch hands over, until the first has begun.
        pick = lambda a, b: jnp.where(high >= border, a, b)
        given = of_last.cotangent, of_last.guard
        mine = back.first.cotangent, back.first.guard
        cotangent, guard = jax.tree.map(pick, given, mine)
        between = jax.tree.map(pick, cotangent.hparams, back.between)
        of_first = back.first._replace(cotangent=cotangent, guard=guard)
        of_first = self.first.retreat(
            first, of_first, hparams, least(low, border), least(high, border), before=last.length
        )
        return back._replace(first=of_first, last=of_last, between=between)

    def arrived(self, run: Run, back: StretchesBack, hparams: PyTree) -> tuple[Cotangent, Info]:
        """With the exact end's share."""
        cotangent, info = self.first.arrived(self._runs(run)[0], back.first, hparams)
        of_end = tree.distance(back.between, back.before)
        of_segments = tree.distance(cotangent.hparams, back.between)
        whole = of_end + of_segments
        return cotangent, info._replace(exact_share=of_end / jnp.where(whole > 0, whole, 1))

    def reaches_start(self, run: Run) -> bool:
        """As the first stretch does."""
        return self.first.reaches_start(self._runs(run)[0])

    def sees(self, run: Run, state: TrainState) -> DependsOn | None:
        """What the first stretch sees."""
        return self.first.sees(self._runs(run)[0], state)

    def distorts(self, run: Run, state: TrainState) -> DependsOn | None:
        """What the first stretch distorts."""
        return self.first.distorts(self._runs(run)[0], state)

    def length_of_end(self, num_steps: int) -> int:
        """K at T = `num_steps`, where the run is not exact as a whole."""
        if self.num_last is not None:
            return min(self.num_last, num_steps)
        return min(num_steps, max(1, round((20 * num_steps) ** 0.25)) ** 2)

    def _num_visits(self, run: Run) -> tuple[int, int]:
        first, last = self._runs(run)
        return self.first.num_visits(first), self.last.num_visits(last)

    def _runs(self, run: Run) -> tuple[Run, Run]:
        border = run.num_steps - self.length_of_end(run.num_steps)
        return run.stretch(0, border), run.stretch(border, run.num_steps)
