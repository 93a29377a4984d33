"""What every path offers, and the record of counters that stand-in paths share."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.run import Run, forward_scan, reverse_scan

Carry = TypeVar("Carry")

# How the state that stands in would look at another step: with that step's counters.
At = Callable[[Array], TrainState]

# (carry, state at which the step is linearised, its weight or None for one, its `At`) -> carry
Visit = Callable[[Carry, TrainState, Array | None, At | None], Carry]

# A leaf without a derivative is recorded step by step up to this many entries. Counters and keys
# are far below; of larger ones only those that do not change in training (a lookup table) are known
# on a stand-in path.
LARGEST_RECORDED_LEAF = 64


@runtime_checkable
class Path(Protocol):
    """How training is remembered, and which state stands in for step t on the way back.

    A path is a frozen value. To add one, write a class with `remember` and `revisit`, and those of
    the others whose answer here is not its own.
    """

    # Whether its visits reach back to the initial state.
    reaches_start: bool = True
    # Whether it only knows states for whole stretches of steps (`Visits.edges`).
    needs_edges: bool = False

    def is_true(self, num_steps: int) -> bool:
        """Whether each step is linearised at the state that training passed through."""
        return False

    def unknown(self, run: Run, state: TrainState, hparams: PyTree) -> list[str]:
        """Names of leaves of the state that it would need, and does not know at each step."""
        return []

    def remember(
        self, run: Run, state: TrainState, hparams: PyTree, visits: Visits
    ) -> tuple[TrainState, Any]:
        """Trains from `state`; returns the final state and a trace, a pytree of arrays."""
        ...

    def revisit(
        self,
        run: Run,
        trace: Any,
        hparams: PyTree,
        visit: Visit[Carry],
        carry: Carry,
        visits: Visits,
    ) -> Carry:
        """Calls `visit` at every visited step, from the last to the first."""
        ...


class Record(NamedTuple):
    """What a stand-in path remembers.

    Attributes:
        final: The state at the end of training.
        kept: What was kept at the start of each segment, stacked.
        counters: Integers and keys in the optimizer's and the model's state, one entry per step:
            4 bytes a step for a step counter. They cannot be interpolated.
    """

    final: TrainState
    kept: PyTree
    counters: PyTree

    def state_at(self, run: Run, step: Array, inexact: TrainState) -> TrainState:
        """A state for `step` from stand-ins for its floating-point leaves and its own counters."""
        _, rest = tree.partition(self.final)
        recorded = jax.tree.map(
            lambda buffer: jax.lax.dynamic_index_in_dim(buffer, step - run.begin, keepdims=False),
            self.counters,
        )
        rest = tree.combine(recorded, rest._replace(step=None))
        state = tree.combine(inexact._replace(params=None), rest)
        return state._replace(params=inexact.params, step=step)


def record(
    run: Run,
    state: TrainState,
    hparams: PyTree,
    lengths: list[int],
    *,
    keep: Callable[[TrainState], PyTree] = lambda state: None,
    start: PyTree = None,
    follow: Callable[[Any, TrainState], PyTree] = lambda followed, state: followed,
) -> tuple[Record, PyTree]:
    """Trains from `state`, keeping something at the start of each segment, and all counters.

    Args:
        run: The run.
        state: Where training starts.
        hparams: Hyperparameters.
        lengths: Steps in each segment.
        keep: `state -> pytree`, evaluated at the start of each segment.
        start: What is carried beside the state.
        follow: `(followed, state) -> followed`, called at the start of each segment.

    Returns:
        A `Record`, and what was carried.
    """
    _, rest = tree.partition(state)
    small = jax.tree.map(
        lambda x: x if jnp.size(x) <= LARGEST_RECORDED_LEAF else None, rest._replace(step=None)
    )
    repeat = lambda x: jnp.broadcast_to(x[None], (run.length, *jnp.shape(x)))
    buffers = jax.tree.map(repeat, small)

    def step(carry):
        state, buffers, followed = carry
        write = lambda leaf, buffer: (
            None
            if buffer is None
            else jax.lax.dynamic_update_index_in_dim(buffer, leaf, state.step - run.begin, 0)
        )
        none = lambda x: x is None
        buffers = jax.tree.map(
            write, tree.partition(state)[1]._replace(step=None), buffers, is_leaf=none
        )
        return run.step(state, hparams), buffers, followed

    def note(carry):
        state, buffers, followed = carry
        return state, buffers, follow(followed, state)

    carry = (state, buffers, start)
    (final, buffers, followed), kept = forward_scan(
        step, carry, lengths, keep=lambda carry: keep(carry[0]), note=note
    )
    return Record(final, kept, buffers), followed


class StandIn(Path):
    """A path that remembers a `Record`, and makes of it a state for each visit."""

    def unknown(self, run: Run, state: TrainState, hparams: PyTree) -> list[str]:
        """Large leaves without a derivative that a step of training changes."""
        name = jax.tree_util.keystr
        named = lambda state: {name(p): x for p, x in jax.tree_util.tree_leaves_with_path(state)}
        rest = named(tree.partition(state._replace(step=None))[1])
        large = [name for name, x in rest.items() if jnp.size(x) > LARGEST_RECORDED_LEAF]
        if not large:
            return []
        jaxpr, new = jax.make_jaxpr(
            lambda state: named(run.step(state, hparams)), return_shape=True
        )(state)
        before = dict(zip(named(state), jaxpr.jaxpr.invars, strict=True))
        after = dict(zip(sorted(new), jaxpr.jaxpr.outvars, strict=True))
        return [name for name in large if after[name] is not before[name]]

    def places(self, run: Run, trace: Record, visits: Visits) -> PyTree:
        """Where each visit stands, with a leading axis of visits; handed to `stand_in`."""
        return None

    def stand_in(self, trace: Record, place: PyTree) -> TrainState:
        """The floating-point leaves of the state at one of `places`."""
        raise NotImplementedError

    def revisit(
        self,
        run: Run,
        trace: Record,
        hparams: PyTree,
        visit: Visit[Carry],
        carry: Carry,
        visits: Visits,
    ) -> Carry:
        """Visits the steps, each at its stand-in with its own counters."""
        visit = visit if visits.static else pass_over_unweighted(visit)

        def visit_stand_in(carry, x):
            place, step, weight = x
            inexact = self.stand_in(trace, place)
            at = lambda step: trace.state_at(run, step, inexact)
            return visit(carry, at(step), weight, at)

        xs = (self.places(run, trace, visits), visits.step.astype(np.int32), weights_of(visits))
        return reverse_scan(visit_stand_in, carry, xs)


def divided(count: int, piece: int) -> list[int]:
    """Lengths of the pieces of `count` steps: all of one length, what is left over last."""
    return [piece] * (count // piece) + ([count % piece] if count % piece else [])


def weights_of(visits: Visits) -> np.ndarray | Array | None:
    """The weights, or `None` where every visited step stands for itself."""
    if visits.static and np.all(visits.weight == 1):
        return None
    return visits.weight.astype(np.float32)


def pass_over_unweighted(visit: Visit[Carry]) -> Visit[Carry]:
    """A visit that leaves the carry alone where the weight is zero."""

    def visit_if_weighted(
        carry: Carry, state: TrainState, weight: Array | None, at: At | None = None
    ) -> Carry:
        if weight is None:
            return visit(carry, state, weight, at)
        return jax.lax.cond(weight > 0, lambda c: visit(c, state, weight, at), lambda c: c, carry)

    return visit_if_weighted
