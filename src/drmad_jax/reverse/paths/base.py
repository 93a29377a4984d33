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
from drmad_jax.training.run import Run, forward_loop

Carry = TypeVar("Carry")

# How the state that stands in would look at another step: with that step's counters.
At = Callable[[Array], TrainState]

# (carry, state at which the step is linearised, its weight or None for one, its `At`) -> carry
Visit = Callable[[Carry, TrainState, Array | None, At | None], Carry]

# A leaf without a derivative is recorded step by step up to this many entries. Counters and keys
# are far below; of larger ones only those that do not change in training (a lookup table) are known
# on a stand-in path.
LARGEST_RECORDED_LEAF = 64
# From so many bytes of weights and optimizer state on, memory is scarce and steps are cheap beside
# it: fewer states are kept than time alone would ask for.
LARGE_STATE = 2**28


@runtime_checkable
class Path(Protocol):
    """How training is remembered, and which state stands in for step t on the way back.

    A path is a frozen value. To add one, write a class with `blank` and `revisit`, and those of the
    others whose answer here is not its own.
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

    def resolve(self, state: TrainState) -> "Path":
        """The path for a state like this one, its open choices made."""
        return self

    def lengths(self, run: Run, visits: Visits) -> list[int]:
        """Steps from one note to the next, in order; all of the stretch in one piece by default."""
        return [run.length]

    def blank(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> Any:
        """What travels with training, a pytree of fixed shape around the state, at its start."""
        ...

    def step(self, run: Run, track: Any, hparams: PyTree) -> Any:
        """A step of training."""
        return track._replace(state=run.step(track.state, hparams))

    def note(self, run: Run, track: Any, index: Array, when: Array | bool, visits: Visits) -> Any:
        """What is written down before the steps of `lengths[index]`, where `when` is true."""
        return track

    def ended(self, run: Run, track: Any, visits: Visits) -> Any:
        """What is kept of it for the way back, once training has ended."""
        return track

    def last(self, track: Any) -> TrainState:
        """The state where training stands, or ended."""
        return track.state

    def turn(self, run: Run, track: Any, visits: Visits) -> tuple[Any, Any]:
        """What stays as it is on the way back, and what is handed from visit to visit."""
        return track, None

    def num_visits(self, run: Run, visits: Visits) -> int:
        """How often `revisit` is called."""
        return len(visits.step)

    def again(self, run: Run, visits: Visits, index: int) -> tuple[np.ndarray, int | None]:
        """The steps computed again for visit `index`, and which of `visits` it is, if any."""
        return np.zeros(0, int), index

    def revisit(
        self,
        run: Run,
        track: Any,
        hparams: PyTree,
        visit: Visit[Carry],
        own: Any,
        carry: Carry,
        index: Array,
        visits: Visits,
    ) -> tuple[Any, Carry]:
        """Calls `visit` at visit `index`, the last first; `own` is what is handed on."""
        ...

    def arrived(self, run: Run, track: Any, own: Any, carry: Carry, visits: Visits) -> Carry:
        """After the first visit."""
        return carry

    def advance(
        self,
        run: Run,
        track: Any,
        hparams: PyTree,
        visits: Visits,
        begin: Array | int = 0,
        until: Array | int | None = None,
    ) -> Any:
        """Trains from step `begin` of the stretch to before step `until`, `None` for its end."""
        step = lambda track: self.step(run, track, hparams)
        note = lambda track, index, when: self.note(run, track, index, when, visits)
        lengths = self.lengths(run, visits)
        return forward_loop(step, track, lengths, note=note, begin=begin, until=until)


class Record(NamedTuple):
    """What a stand-in path remembers.

    Attributes:
        state: Where training stands, or ended.
        kept: What was written down on the way.
        counters: Integers and keys in the optimizer's and the model's state, one entry per step:
            4 bytes a step for a step counter. They cannot be interpolated.
    """

    state: TrainState
    kept: PyTree
    counters: PyTree

    def state_at(self, run: Run, step: Array, inexact: TrainState) -> TrainState:
        """A state for `step` from stand-ins for its floating-point leaves and its own counters."""
        _, rest = tree.partition(self.state)
        recorded = tree.row(self.counters, step - run.begin)
        rest = tree.combine(recorded, rest._replace(step=None))
        state = tree.combine(inexact._replace(params=None), rest)
        return state._replace(params=inexact.params, step=step)


def _counters(state: TrainState) -> PyTree:
    _, rest = tree.partition(state._replace(step=None))
    small = lambda x: x if jnp.size(x) <= LARGEST_RECORDED_LEAF else None
    return jax.tree.map(small, rest)


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

    def blank(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> Record:
        """Room for what is kept, and for the counters of each step."""
        kept = self.room(run, state, hparams, visits)
        return Record(state, kept, tree.rows(_counters(state), run.length))

    def room(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> PyTree:
        """Room for what is kept."""
        return None

    def step(self, run: Run, track: Record, hparams: PyTree) -> Record:
        """A step of training, its counters written down."""
        state = track.state
        counters = tree.put(track.counters, state.step - run.begin, _counters(state))
        return track._replace(state=run.step(state, hparams), counters=counters)

    def places(self, run: Run, track: Record, visits: Visits) -> PyTree:
        """Where each visit stands, with a leading axis of visits; handed to `stand_in`."""
        return None

    def stand_in(self, track: Record, place: PyTree) -> TrainState:
        """The floating-point leaves of the state at one of `places`."""
        raise NotImplementedError

    def revisit(
        self,
        run: Run,
        track: Record,
        hparams: PyTree,
        visit: Visit[Carry],
        own: None,
        carry: Carry,
        index: Array,
        visits: Visits,
    ) -> tuple[None, Carry]:
        """Visits a step at its stand-in, with its own counters."""
        visit = visit if visits.static else pass_over_unweighted(visit)
        places = self.places(run, track, visits), visits.step.astype(np.int32), weights_of(visits)
        place, step, weight = tree.row(places, index)
        inexact = self.stand_in(track, place)
        at = lambda step: track.state_at(run, step, inexact)
        return own, visit(carry, at(step), weight, at)


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
