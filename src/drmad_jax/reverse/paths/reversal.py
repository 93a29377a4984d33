"""The true trajectory, undone step by step from its end."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, PyTree

from drmad_jax import tree
from drmad_jax.fixed_point.blocks import Layout, layout
from drmad_jax.fixed_point.buffer import forget, overflowed, rows_needed, to_ratio
from drmad_jax.fixed_point.numbers import Fixed, equal, from_float, to_float
from drmad_jax.fixed_point.sgd import ReversibleSGD, ReversibleSGDState, rule_of, spread
from drmad_jax.fixed_point.step import (
    Block,
    BlockRates,
    init_block,
    step_block,
    undo_acceleration,
    undo_move,
)
from drmad_jax.problem import TrainState
from drmad_jax.reverse.paths.base import Carry, Path, Visit
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.curvature import inner_gradient
from drmad_jax.training.run import Run


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReversalTrack:
    """What travels with training, and is undone on the way back.

    Attributes:
        start: The state before the first step.
        blocks: Weights and velocities now. Weights with the same rates share a block.
        step: Number of steps taken.
        first: Weights, then velocities of the blocks before the first visited step, to compare
            with; `None` where that is the first of all, since `start` says it.
        rates: Rates of each block at every step, computed once: both ways must read the same bits.
        valid: Whether every momentum can be undone and every number stayed in range.
        layout: Which leaves of the weights are in which block.
        fraction_bits: As of the path.
    """

    start: TrainState
    blocks: list[Block]
    step: Int[Array, ""]
    first: list[Fixed] | None
    rates: list[BlockRates]
    valid: Bool[Array, ""]
    layout: Layout = dataclasses.field(metadata={"static": True})
    fraction_bits: int = dataclasses.field(metadata={"static": True})

    def params(self, blocks: list[Block]) -> PyTree:
        """The weights in floating point."""
        return self._floats([block.weights for block in blocks])

    def state(self, blocks: list[Block], step: Array) -> TrainState:
        """The training state in floating point."""
        velocity = self._floats([block.velocity for block in blocks])
        opt_state = ReversibleSGDState(step, velocity)
        return TrainState(self.params(blocks), opt_state, self.start.model_state, step)

    def _floats(self, numbers: list[Fixed]) -> PyTree:
        leaves = jax.tree.leaves(self.start.params)
        dtypes = [leaves[members[0]].dtype for members in self.layout.members]
        floats = self.layout.scatter(
            [
                to_float(number, self.fraction_bits, dtype)
                for number, dtype in zip(numbers, dtypes, strict=True)
            ]
        )
        return jax.tree.map(tree.placed_like, floats, self.start.params)


@dataclasses.dataclass(frozen=True)
class Reversal(Path):
    """w_t is the state that training passed through, in fixed point, reversed bit for bit.

    Attributes:
        min_momentum: Lower bound of the momenta that are not known at trace time, for the size of
            the information buffers.
        fraction_bits: Bits behind the binary point of weights and velocity, of 64.
    """

    min_momentum: float = 0.5
    fraction_bits: int = 52

    def is_true(self, num_steps: int) -> bool:
        """Always."""
        return True

    def lengths(self, run: Run, visits: Visits) -> list[int]:
        """Up to the first visited step, and from it on."""
        skipped = int(visits.step[0])
        return [skipped, run.length - skipped] if skipped else [run.length]

    def blank(self, run: Run, state: TrainState, hparams: PyTree, visits: Visits) -> ReversalTrack:
        """The state in fixed point."""
        where, rates, valid = _plan(_rule(run, hparams, state, visits), run.num_steps, state.params)
        skipped = int(visits.step[0])
        blocks, in_range = self._init(state, where, rates, skipped)
        first = _held(blocks) if skipped else None
        valid &= in_range
        return ReversalTrack(
            state, blocks, state.step, first, rates, valid, where, self.fraction_bits
        )

    def step(self, run: Run, track: ReversalTrack, hparams: PyTree) -> ReversalTrack:
        """A step of training in fixed point."""
        params = track.params(track.blocks)
        grads = track.layout.gather(_gradient(run, hparams, params, track.step, track.valid))
        stepped = [
            step_block(*each, fraction_bits=self.fraction_bits)
            for each in zip(track.blocks, grads, _at(track.rates, track.step), strict=True)
        ]
        blocks, in_range = zip(*stepped, strict=True)
        valid = track.valid & jnp.all(jnp.stack(in_range))
        return dataclasses.replace(track, blocks=list(blocks), step=track.step + 1, valid=valid)

    def note(
        self, run: Run, track: ReversalTrack, index: Array, when: Array | bool, visits: Visits
    ) -> ReversalTrack:
        """Where the first visited step begins, its bits; those of the steps before are dropped."""
        if track.first is None:
            return track
        begins = when & (index == 1)
        kept = [block._replace(buffer=forget(block.buffer)) for block in track.blocks]
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(begins, a, b), new, old)
        return dataclasses.replace(
            track, first=pick(_held(track.blocks), track.first), blocks=pick(kept, track.blocks)
        )

    def last(self, track: ReversalTrack) -> TrainState:
        """The state in floating point; NaN if a number left its range."""
        return _nan_unless(track.valid, track.state(track.blocks, track.step))

    def turn(self, run: Run, track: ReversalTrack, visits: Visits) -> tuple[Any, list[Block]]:
        """The blocks are undone."""
        return track, track.blocks

    def revisit(
        self,
        run: Run,
        track: ReversalTrack,
        hparams: PyTree,
        visit: Visit[Carry],
        own: list[Block],
        carry: Carry,
        index: Array,
        visits: Visits,
    ) -> tuple[list[Block], Carry]:
        """Undoes a step, and visits it."""
        bits = {"fraction_bits": self.fraction_bits}
        step = index + int(visits.step[0])
        rates = _at(track.rates, step)
        blocks = [undo_move(*each, **bits) for each in zip(own, rates, strict=True)]
        grads = _gradient(run, hparams, track.params(blocks), step, track.valid)
        undone = zip(blocks, track.layout.gather(grads), rates, strict=True)
        blocks = [undo_acceleration(*each, **bits) for each in undone]
        return blocks, visit(carry, track.state(blocks, step), None, None)

    def arrived(
        self, run: Run, track: ReversalTrack, own: list[Block], carry: Carry, visits: Visits
    ) -> Carry:
        """NaN if undoing the steps does not lead back to the first one."""
        lost = jnp.stack([overflowed(block.buffer) for block in own])
        first = track.first
        if first is None:
            first = self._quantised(track.start, track.layout)
        back = zip(_held(own), first, strict=True)
        same = jnp.stack([jnp.all(equal(*numbers)) for numbers in back])
        return _nan_unless(track.valid & ~jnp.any(lost) & jnp.all(same), carry)

    def _init(
        self, state: TrainState, where: Layout, rates: list[BlockRates], skipped: int
    ) -> tuple[list[Block], Bool[Array, ""]]:
        both = where.gather(state.params), where.gather(state.opt_state.velocity)
        made = [
            init_block(w, v, rows=self._rows(rate, skipped), fraction_bits=self.fraction_bits)
            for w, v, rate in zip(*both, rates, strict=True)
        ]
        return [block for block, _ in made], jnp.all(jnp.stack([fits for _, fits in made]))

    def _rows(self, rates: BlockRates, skipped: int) -> int:
        losses = rates.momentum.loss
        if isinstance(losses, Tracer):
            with jax.ensure_compile_time_eval():
                loss = to_ratio(jnp.float32(self.min_momentum))[0].loss
            losses = np.full(losses.shape, loss)
        # The first visited step may find `pending` almost full.
        return rows_needed(np.asarray(losses)[skipped:]) + bool(skipped)

    def _quantised(self, state: TrainState, where: Layout) -> list[Fixed]:
        floats = where.gather(state.params) + where.gather(state.opt_state.velocity)
        return [from_float(vector, self.fraction_bits)[0] for vector in floats]


def _held(blocks: list[Block]) -> list[Fixed]:
    return [block.weights for block in blocks] + [block.velocity for block in blocks]


def _rule(run: Run, hparams: PyTree, state: TrainState, visits: Visits) -> ReversibleSGD:
    """The optimizer's rule; refuses what cannot be reversed."""
    rule = rule_of(run.problem.transformation(hparams))
    if rule is None:
        raise ValueError(
            "reversible: `optimizer` cannot be undone. Only drmad_jax.reversible_sgd(learning_rate,"
            " momentum) can; for any other optimizer use drmad_jax.checkpointed()"
        )
    if jax.tree.leaves(state.model_state):
        raise ValueError(
            "reversible: `model_state` cannot be undone, since its updates lose bits: "
            "use drmad_jax.checkpointed()"
        )
    last = np.arange(run.num_steps - len(visits.step), run.num_steps)
    if not (visits.static and np.all(visits.step == last) and np.all(visits.weight == 1)):
        raise ValueError(
            f"reversible: the {run.num_steps} steps, or the last of them, must be visited once "
            f"each, got {len(visits.step)} other visits: use all of them, or truncated(...)"
        )
    rule.check_length(run.num_steps)
    return rule


def _plan(
    rule: ReversibleSGD, num_steps: int, params: PyTree
) -> tuple[Layout, list[BlockRates], Bool[Array, ""]]:
    """The blocks, their rates at every step, and whether all momenta can be undone."""
    # What depends on no argument of the compiled function is known while it is traced.
    with jax.ensure_compile_time_eval():
        learning_rate, momentum = jax.vmap(rule.rates)(jnp.arange(num_steps, dtype=jnp.int32))
        ratios, valid = zip(*map(to_ratio, jax.tree.leaves(momentum)), strict=True)
    indices = [
        jax.tree.leaves(spread(name, _numbered(prefix), params))
        for name, prefix in (("learning_rate", learning_rate), ("momentum", momentum))
    ]
    keys = list(zip(*indices, strict=True))
    where, leaves = layout(params, keys), jax.tree.leaves(params)
    rates = []
    for first, *_ in where.members:
        rate = jax.tree.leaves(learning_rate)[keys[first][0]]
        wide = tree.accumulation_dtype(leaves[first].dtype)
        rates.append(BlockRates(rate.astype(wide), ratios[keys[first][1]]))
    return where, rates, jnp.all(jnp.stack(valid))


def _numbered(prefix: PyTree) -> PyTree:
    structure = jax.tree.structure(prefix)
    return jax.tree.unflatten(structure, range(structure.num_leaves))


def _at(rates: list[BlockRates], step: Array) -> list[BlockRates]:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, step, keepdims=False), rates)


def _gradient(
    run: Run, hparams: PyTree, params: PyTree, step: Array, live: Bool[Array, ""]
) -> PyTree:
    """The gradient of one step; to the bit the same in both directions."""

    def gradient(batches, key, params, hparams, step):
        inside = dataclasses.replace(run, inner_batches=batches, key=key)
        batch, own_key = inside.inputs(step)
        return inner_gradient(run.problem, None)(params, hparams, None, batch, own_key)[0]

    return _isolated(gradient, live, run.inner_batches, run.key, params, hparams, step)


def _isolated(function: Callable, live: Bool[Array, ""], *args: PyTree) -> PyTree:
    """Calls a function so that XLA compiles it alike wherever it stands.

    Fused with what surrounds it, the same sum may round differently (a product and a sum become
    one fused multiply-add), and a reversal must not. Barriers stop fusion on accelerators; on CPUs
    XLA drops them before it fuses (`OptimizationBarrierExpander`), but nothing is fused with the
    body of a loop. `live` is its trip count, which XLA cannot know.
    """

    def in_loop(*args):
        zero = lambda x: tree.placed_like(jnp.zeros(x.shape, x.dtype), x)
        zeros = jax.tree.map(zero, jax.eval_shape(function, *args))
        return jax.lax.fori_loop(0, live.astype(jnp.int32), lambda *_: function(*args), zeros)

    def in_barriers(*args):
        result = function(*jax.lax.optimization_barrier(args))
        return jax.lax.optimization_barrier(result)

    return jax.lax.platform_dependent(*args, cpu=in_loop, default=in_barriers)


def _nan_unless(exact: Bool[Array, ""], pytree: PyTree) -> PyTree:
    """NaN in every floating-point leaf unless `exact`: what is wrong must not look right."""
    poison = lambda x: jnp.where(exact, x, jnp.nan) if tree.is_inexact(x) else x
    return jax.tree.map(poison, pytree)
