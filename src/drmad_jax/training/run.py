"""The one forward loop and the one reverse loop, and what a whole run consists of."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import Problem, TrainState, init_state
from drmad_jax.training.batches import batch_at
from drmad_jax.training.curvature import Curvature, curvature_product, rules_in
from drmad_jax.training.step import Cotangent, ReverseInfo, pull_back, push_forward, step_key

Carry = TypeVar("Carry")
Steps = Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training run reads and does not change; hyperparameters are handed to each step.

    Attributes:
        problem: The problem.
        num_steps: Number of inner steps T, a Python int.
        inner_batches: The batch source (see `hypergradient`).
        key: Key of the run, or `None`.
        start: `hparams -> TrainState`, how the initial state depends on the hyperparameters.
        first: The step that the run goes on from, which may be traced: step t of the run, counted
            from 0, takes the key of step `first` + t, and its batch from sources that are called.
        batch_offset: Step t takes batch t + offset: how a way back draws fresh ones.
        begin: The first step t of the stretch of the run that is meant.
        stop: The step before which that stretch ends; `None` for the end of the run.
    """

    problem: Problem
    num_steps: int
    inner_batches: PyTree
    key: Array | None
    start: Callable[[PyTree], TrainState]
    first: Array | int = 0
    batch_offset: Array | int = 0
    begin: int = 0
    stop: int | None = None

    @property
    def end(self) -> int:
        """The step before which the stretch ends."""
        return self.num_steps if self.stop is None else self.stop

    @property
    def length(self) -> int:
        """Number of steps of the stretch."""
        return self.end - self.begin

    def stretch(self, begin: int, end: int) -> "Run":
        """A part of the run, from step `begin` to before step `end`."""
        return dataclasses.replace(self, begin=begin, stop=end)

    def inputs(self, step: Array) -> tuple[PyTree, Array | None]:
        """What the loss of one step takes: its batch, and the step's own key."""
        place, source = step + self.batch_offset, self.inner_batches
        batch = batch_at(source, place + self.first if callable(source) else place)
        return batch, step_key(self.key, step + self.first)

    def counted(self, state: TrainState) -> TrainState:
        """A state of the run as seen from outside, its step counted from where training began."""
        return state._replace(step=state.step + self.first)

    def step(
        self, state: TrainState, hparams: PyTree, *, curvature: Curvature | None = None
    ) -> TrainState:
        """One train step, on the inputs of the state's own step counter."""
        inputs = self.inputs(state.step)
        return push_forward(self.problem, state, hparams, *inputs, curvature=curvature)[0]

    def mean(self, of_step: Callable[[Array], PyTree], steps: Steps, like: PyTree) -> PyTree:
        """The mean of something over some steps, shaped like `like`, in at least float32.

        One step after another, so that one batch's activations are held at a time.
        """
        add = lambda total, step: (tree.add(total, of_step(step)), None)
        total, _ = jax.lax.scan(add, tree.widen(tree.zeros_like(like)), steps)
        return jax.tree.map(lambda x: x / len(steps), total)

    def curved(
        self,
        at: Callable[[Array], TrainState],
        hparams: PyTree,
        vector: PyTree,
        steps: Steps,
        *,
        curvature: Curvature,
    ) -> tuple[PyTree, PyTree]:
        """B v and (∂²L/∂λ∂w)ᵀ v, means over the batches of some steps, each at its state."""

        def of_step(step):
            state, (batch, key) = at(step), self.inputs(step)
            return curvature_product(
                self.problem, curvature, state.params, hparams, batch,
                tree.cast_like(vector, state.params), model_state=state.model_state, key=key,
            )  # fmt: skip

        return self.mean(of_step, steps, (vector, hparams))

    def rules_in_loss(self, state: TrainState, hparams: PyTree) -> list[str]:
        """Names of the functions in the inner loss that have a derivative rule of their own."""
        batch, key = self.inputs(state.step)
        return rules_in(self.problem, state.params, hparams, state.model_state, batch, key)

    def train(
        self,
        state: TrainState,
        hparams: PyTree,
        *,
        begin: Array | int = 0,
        until: Array | int | None = None,
    ) -> TrainState:
        """Plain training from step `begin` of the stretch to before `until`, `None` for its end."""
        step = lambda state: self.step(state, hparams)
        return forward_loop(step, state, [self.length], begin=begin, until=until)

    def reverse_step(
        self,
        state: TrainState,
        hparams: PyTree,
        cotangent: Cotangent,
        weight: PyTree,
        *,
        curvature: Curvature,
    ) -> tuple[Cotangent, ReverseInfo]:
        """One reverse step linearised at `state`, on the inputs of its own step counter."""
        step = lambda state, hparams: self.step(state, hparams, curvature=curvature)
        return pull_back(step, state, hparams, cotangent, weight)

    def draw_key(self) -> Array:
        """Key of whatever a method draws by itself; a fixed one if the call passed none."""
        # No step of training takes it: their keys are folded from 0 to T − 1.
        key = step_key(self.key, self.num_steps)
        return jax.random.key(0) if key is None else key


class Start(NamedTuple):
    """The initial state, and the way from its cotangent to what it was made of.

    Attributes:
        state: The state.
        pull: `cotangent -> (d_hparams, d_params, d_model_state)`, the first added to the
            hypergradient so far.
    """

    state: TrainState
    pull: Callable[[Cotangent], tuple[PyTree, PyTree, PyTree]]


def initial_state(
    problem: Problem, hparams: PyTree, params: PyTree, model_state: PyTree
) -> TrainState:
    """The state before the run's step 0: made of weights, or the `TrainState` given for them."""
    if isinstance(params, TrainState):
        state = params._replace(step=jnp.zeros((), jnp.int32))
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)
    return init_state(problem, hparams, params, model_state=model_state)


def started(run: Run, hparams: PyTree, params: PyTree, model_state: PyTree) -> Start:
    """The initial state of a run, differentiated.

    Args:
        run: The run.
        hparams: Hyperparameters.
        params: Initial weights, or a `TrainState` to go on from.
        model_state: Initial model state.

    Returns:
        A `Start`.
    """
    inexact, rest = tree.partition((params, model_state))

    def init(hparams, inexact):
        given = tree.combine(inexact, rest)
        return tree.partition(initial_state(run.problem, hparams, *given))

    state, pullback, state_rest = jax.vjp(init, hparams, inexact, has_aux=True)

    def pull(cotangent: Cotangent):
        d_hparams, (d_params, d_model_state) = pullback(cotangent.state)
        return tree.add(cotangent.hparams, d_hparams), d_params, d_model_state

    return Start(tree.combine(state, state_rest), pull)


def forward_scan(
    step: Callable[[Carry], Carry],
    carry: Carry,
    lengths: Sequence[int],
    *,
    keep: Callable[[Carry], PyTree] = lambda carry: None,
) -> tuple[Carry, PyTree]:
    """Repeats a step through segments of given lengths, keeping something at each segment's start.

    The steps inside a segment pay nothing for what is kept between segments.

    Args:
        step: `carry -> carry`.
        carry: What the steps carry; a `TrainState`, or a pytree around one.
        lengths: Steps in each segment, n Python ints, zeros allowed.
        keep: `carry -> pytree`, evaluated at the start of each segment.

    Returns:
        The final carry, and what was kept, stacked along a leading axis of size n.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> start = jnp.int32(0)
        >>> final, kept = dj.forward_scan(lambda x: x + 1, start, [2, 3, 0], keep=lambda x: x)
        >>> int(final), kept.tolist()
        (5, [0, 2, 5])
    """

    def note(both, index, is_start):
        return both[0], tree.put(both[1], index, keep(both[0]))

    both = carry, tree.rows(keep(carry), len(lengths))
    return forward_loop(lambda both: (step(both[0]), both[1]), both, lengths, note=note)


def forward_loop(
    step: Callable[[Carry], Carry],
    carry: Carry,
    lengths: Sequence[int],
    *,
    note: Callable[[Carry, Array, Array | bool], Carry] = lambda carry, index, is_start: carry,
    begin: Array | int = 0,
    until: Array | int | None = None,
) -> Carry:
    """The one loop of training: through segments, with a note where each of them starts.

    Args:
        step: `carry -> carry`.
        carry: What the steps carry.
        lengths: Steps in each segment, Python ints.
        note: `(carry, index, is_start) -> carry`, called before the first step that is taken in
            segment `index`; `is_start` tells whether it is the segment's own first. It must leave
            the carry alone where it is not.
        begin: Steps taken before, which may be traced.
        until: How many there are to be in the end, which may be traced; `None` for all.

    Returns:
        The carry after `until` steps.
    """
    edges = np.concatenate([[0], np.cumsum(np.asarray(lengths, int))]).astype(np.int32)
    first = lengths[0] if len(lengths) else 0
    uniform = all(length == first for length in lengths)

    def whole(index: Array | int, carry: Carry) -> Carry:
        carry = note(carry, jnp.asarray(index, jnp.int32), True)
        if uniform and first == 1:
            return step(carry)
        count = first if uniform else jnp.asarray(np.diff(edges))[index]
        return jax.lax.fori_loop(0, count, lambda _, c: step(c), carry)

    if until is None:
        if len(lengths) == 1:
            return whole(0, carry)
        return jax.lax.fori_loop(0, len(lengths), whole, carry)

    low, high = jnp.asarray(edges[:-1]), jnp.asarray(edges[1:])

    def part(index: Array, carry: Carry) -> Carry:
        start, end = jnp.maximum(low[index], begin), jnp.minimum(high[index], until)
        carry = note(carry, index, low[index] >= begin)
        return jax.lax.fori_loop(0, end - start, lambda _, c: step(c), carry)

    # Of empty segments the last one is gone through.
    index = jnp.searchsorted(low, begin, side="right") - 1
    last = jnp.searchsorted(low, until, side="left")
    return jax.lax.fori_loop(index.astype(jnp.int32), last.astype(jnp.int32), part, carry)


def reverse_scan(visit: Callable[[Carry, PyTree], Carry], carry: Carry, visits: PyTree) -> Carry:
    """Goes through `visits` from last to first, carrying the cotangent and stacking nothing.

    Args:
        visit: `(carry, visit) -> carry`.
        carry: The cotangent at the end of training, and whatever travels with it.
        visits: A pytree with a leading axis, one entry per visited step, in the order of training.

    Returns:
        The carry after the first entry.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp
        >>> int(dj.reverse_scan(lambda c, x: 10 * c + x, jnp.int32(0), jnp.arange(1, 4)))
        321
    """
    count = jnp.shape(jax.tree.leaves(visits)[0])[0]
    return reverse_loop(lambda carry, i: visit(carry, tree.row(visits, i)), carry, 0, count)


def reverse_loop(
    visit: Callable[[Carry, Any], Carry], carry: Carry, low: Array | int, high: Array | int
) -> Carry:
    """The one loop of the way back: from visit `high` − 1 to visit `low`, which may be traced."""
    if isinstance(low, int) and isinstance(high, int):
        steps = np.arange(low, high, dtype=np.int32)
        return jax.lax.scan(lambda c, i: (visit(c, i), None), carry, steps, reverse=True)[0]
    back = lambda i, carry: visit(carry, jnp.asarray(high - 1 - i, jnp.int32))
    return jax.lax.fori_loop(0, high - low, back, carry)
