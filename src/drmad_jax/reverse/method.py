"""The reverse pass: any path, any curvature, any visits; and JAX's own as the oracle."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.protocol import Info
from drmad_jax.reverse.guard import OnExpansion, guarded, places, start_guard
from drmad_jax.reverse.paths import Averaged, Frozen, Interpolated, Path
from drmad_jax.reverse.segments import segment_step, settle
from drmad_jax.reverse.steps import AllSteps, LastSteps, MeasuredStride, ReverseSteps, Segments
from drmad_jax.training.curvature import Curvature, resolve_curvature
from drmad_jax.training.run import Run, forward_scan
from drmad_jax.training.step import Cotangent, ReverseInfo

_WAITS = (
    "drmad: optax.MultiSteps moves the weights at some steps only, and has no mean response that "
    "segments could take: all single steps are taken instead. To ask for them without this "
    'warning, give curvature="gauss_newton" or "filtered_hessian"'
)


@dataclasses.dataclass(frozen=True)
class Reverse:
    """A reverse pass, given by its path, its curvature and the steps that it visits.

    Attributes:
        path: Where each visited step is linearised.
        curvature: "auto", "hessian" or "gauss_newton".
        steps: Which steps are visited.
        fresh_batches: Whether the way back draws other batches than the way there.
        on_expansion: What to do when the cotangent outgrows the one that the way back began with.
    """

    path: Path
    curvature: str
    steps: ReverseSteps
    fresh_batches: bool = False
    on_expansion: OnExpansion = "continue"

    def forward(self, run: Run, state: TrainState) -> tuple[TrainState, Any]:
        """Trains, remembering what the path needs."""
        instead = self._instead(state)
        if instead is not self:
            warnings.warn(_WAITS, UserWarning, stacklevel=4)
            return instead.forward(run, state)
        self._curvature(run)
        if self.on_expansion == "gauss_newton":
            resolve_curvature(run.problem, "gauss_newton")
        if self.fresh_batches and not callable(run.inner_batches):
            raise ValueError(
                'batches="fresh" needs `inner_batches` that can make more of them, such as '
                "drmad_jax.minibatches(data, batch_size, key); got stacked batches"
            )
        final, trace = self.path.forward(run, state, self.steps(run.num_steps))
        return final, (trace, final, self._measured_count(run, state, final))

    def backward(self, run: Run, trace: Any, cotangent: Cotangent) -> tuple[Cotangent, Info]:
        """The reverse scan over the path's visits."""
        instead = self._instead(trace[1])
        if instead is not self:
            return instead.backward(run, trace, cotangent)
        run = dataclasses.replace(run, fresh_batches=self.fresh_batches)
        trace, final, count = trace
        visits = self.steps(run.num_steps)
        if isinstance(self.steps, MeasuredStride):
            visits = self.steps.spread(run.num_steps, count)
        if isinstance(self.steps, Segments):
            cotangent = settle(run, final, cotangent)
        place = places(visits, run.num_steps)
        visit = guarded(functools.partial(self._take, run), self.on_expansion, place)
        carry = (cotangent, start_guard(cotangent))
        cotangent, guard = self.path.backward(run, trace, visit, carry, visits)
        return cotangent, guard.info()

    def _instead(self, state: TrainState) -> "Reverse":
        """This method, or single steps where the optimizer has no response to the gradient."""
        if not isinstance(self.steps, Segments) or not _waits(state.opt_state):
            return self
        path = Interpolated(None) if isinstance(self.path, Averaged) else self.path
        return dataclasses.replace(self, path=path, steps=AllSteps())

    def _take(
        self, run: Run, state: TrainState, cotangent: Cotangent, weight: PyTree, *, safe: bool
    ) -> tuple[Cotangent, ReverseInfo]:
        """One visit: a reverse step, or a whole segment of them."""
        curvature = "gauss_newton" if safe else self._curvature(run)
        if isinstance(self.steps, Segments):
            return segment_step(
                run, state, cotangent, weight, curvature=curvature, segments=self.steps
            )
        return run.reverse_step(state, cotangent, weight, curvature=curvature)

    def _curvature(self, run: Run) -> Curvature:
        if self.curvature != "auto":
            return resolve_curvature(run.problem, self.curvature)
        if isinstance(self.steps, Segments):
            # Of which they take the positive part.
            return "hessian"
        curvature = resolve_curvature(run.problem, "auto")
        # On the true trajectory the Hessian is exact.
        stands_in = isinstance(self.path, Interpolated)
        return "filtered_hessian" if curvature == "hessian" and stands_in else curvature

    def _measured_count(self, run: Run, start: TrainState, final: TrainState) -> Array | None:
        if not isinstance(self.steps, MeasuredStride):
            return None
        early = min(self.steps.early, run.num_steps)
        last, kept = forward_scan(run.step, start, [1] * early, keep=lambda state: state.params)
        after = jax.tree.map(lambda x, y: jnp.concatenate([x[1:], y[None]]), kept, last.params)
        distance = lambda a, b: jnp.sqrt(tree.squared_norm(jax.tree.map(jnp.subtract, a, b)))
        early_step = jnp.mean(jax.vmap(distance)(after, kept))
        return self.steps.count(early_step, distance(final.params, start.params))

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


def _waits(opt_state: PyTree) -> bool:
    """Whether an optimizer collects gradients over several steps."""
    is_one = lambda x: isinstance(x, optax.MultiStepsState)
    return any(map(is_one, jax.tree.leaves(opt_state, is_leaf=is_one)))


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
        count, largest = jnp.int32(run.num_steps), jnp.maximum(at_end, at_start)
        # `finite` is set by the caller, who has the outer loss too.
        return result, Info(jnp.array(True), count, largest, at_end, at_start)

    def reaches_start(self, run: Run) -> bool:
        """Always."""
        return True

    def sees(self, run: Run, state: TrainState) -> None:
        """Everything."""
        return None
