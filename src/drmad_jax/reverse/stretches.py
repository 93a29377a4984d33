"""A way back in two stretches: the last steps one by one, the others as their own way says."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.protocol import DependsOn, Info, Method
from drmad_jax.reverse.guard import start_guard
from drmad_jax.reverse.method import EXACT, TRUE_PATH, Reverse, ReverseTrace
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent

Serves = Literal["auto", "tuning", "this_run"]
SERVES = ("auto", "tuning", "this_run")


class StretchesTrace(NamedTuple):
    """What the way there leaves: that of both stretches, and the mean of the last one's states."""

    first: ReverseTrace
    last: ReverseTrace
    mean: Any


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
    """

    first: Reverse
    num_last: int | None = None
    serves: Serves = "auto"
    save: bool = True

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
        return dataclasses.replace(self, first=first, num_last=count, serves=serves)

    def forward(
        self, run: Run, state: TrainState, hparams: PyTree
    ) -> tuple[TrainState, StretchesTrace]:
        """Trains through both stretches."""
        first, last = self._runs(run)
        state, of_first = self.first.forward(first, state, hparams)
        if self.serves != "tuning":
            final, of_last = EXACT.forward(last, state, hparams)
            return final, StretchesTrace(of_first, of_last, None)
        final, of_last, mean = TRUE_PATH.remember_with_mean(last, state, hparams)
        return final, StretchesTrace(of_first, ReverseTrace(of_last, final, None), mean)

    def judged(self, final: TrainState, trace: StretchesTrace) -> TrainState:
        """The mean of the last states, where tuning is served."""
        if trace.mean is None:
            return final
        mean = tree.cast_like(trace.mean, tree.partition(final._replace(opt_state=None))[0])
        model_state = tree.combine(mean.model_state, final.model_state)
        return final._replace(params=mean.params, model_state=model_state)

    def backward(
        self, run: Run, trace: StretchesTrace, hparams: PyTree, cotangent: Cotangent
    ) -> tuple[Cotangent, Info]:
        """Back through the last stretch, then through the first."""
        first, last = self._runs(run)
        guard, share = start_guard(cotangent), None
        if self.serves == "tuning":
            part = lambda x: x / (last.length + 1)
            share = jax.tree.map(part, cotangent.state)
            cotangent = cotangent._replace(state=share)
        before = cotangent.hparams
        cotangent, guard = EXACT.go_back(last, trace.last, hparams, cotangent, guard, share)
        between = cotangent.hparams
        cotangent, guard = self.first.go_back(first, trace.first, hparams, cotangent, guard)
        of_end = tree.distance(between, before)
        of_segments = tree.distance(cotangent.hparams, between)
        whole = of_end + of_segments
        info = guard.info(of_segments=self.first.steps.takes_stretches)
        share = of_end / jnp.where(whole > 0, whole, 1)
        return cotangent, info._replace(exact_share=share)

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

    def _runs(self, run: Run) -> tuple[Run, Run]:
        border = run.num_steps - self.length_of_end(run.num_steps)
        return run.stretch(0, border), run.stretch(border, run.num_steps)
