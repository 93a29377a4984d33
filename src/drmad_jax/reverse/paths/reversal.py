"""The true trajectory, undone step by step from its end."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, PyTree

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
from drmad_jax.training.run import Run, forward_scan, reverse_scan


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReversalTrace:
    """What the way back starts from.

    Attributes:
        start: The state before the first step.
        blocks: The end of training. Weights with the same rates share a block.
        first: Weights, then velocities of the blocks before the first visited step, to compare
            with; `None` where that is the first of all, since `start` says it.
        rates: Rates of each block at every step, computed once: both ways must read the same bits.
        valid: Whether every momentum can be undone and every number stayed in range.
        layout: Which leaves of the weights are in which block.
    """

    start: TrainState
    blocks: list[Block]
    first: list[Fixed] | None
    rates: list[BlockRates]
    valid: Bool[Array, ""]
    layout: Layout = dataclasses.field(metadata={"static": True})


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

    def remember(
        self, run: Run, state: TrainState, hparams: PyTree, visits: Visits
    ) -> tuple[TrainState, ReversalTrace]:
        """Trains in fixed point; NaN if a number leaves its range."""
        where, rates, valid = _plan(_rule(run, hparams, state, visits), run.num_steps, state.params)
        skipped, first = int(visits.step[0]), None
        blocks, in_range = self._init(state, where, rates, skipped)

        def advance(carry):
            blocks, step, valid = carry
            grads = _gradient(run, hparams, self._params(blocks, state, where), step, valid)
            stepped = [
                step_block(*each, fraction_bits=self.fraction_bits)
                for each in zip(blocks, where.gather(grads), _at(rates, step), strict=True)
            ]
            in_range = jnp.stack([in_range for _, in_range in stepped])
            return [block for block, _ in stepped], step + 1, valid & jnp.all(in_range)

        carry = (blocks, state.step, valid & in_range)
        if skipped:
            (blocks, step, valid), _ = forward_scan(advance, carry, [skipped])
            first = _held(blocks)
            blocks = [block._replace(buffer=forget(block.buffer)) for block in blocks]
            carry = (blocks, step, valid)
        (blocks, step, valid), _ = forward_scan(advance, carry, [run.num_steps - skipped])
        final = self._state(blocks, state, where, step)
        return _nan_unless(valid, final), ReversalTrace(state, blocks, first, rates, valid, where)

    def revisit(
        self,
        run: Run,
        trace: ReversalTrace,
        hparams: PyTree,
        visit: Visit[Carry],
        carry: Carry,
        visits: Visits,
    ) -> Carry:
        """Visits the steps as it undoes them; NaN if that does not lead back to the first one."""
        start, where, bits = trace.start, trace.layout, {"fraction_bits": self.fraction_bits}

        def undo(carry, step):
            blocks, inner = carry
            rates = _at(trace.rates, step)
            blocks = [undo_move(*each, **bits) for each in zip(blocks, rates, strict=True)]
            grads = _gradient(run, hparams, self._params(blocks, start, where), step, trace.valid)
            undone = zip(blocks, where.gather(grads), rates, strict=True)
            blocks = [undo_acceleration(*each, **bits) for each in undone]
            return blocks, visit(inner, self._state(blocks, start, where, step), None, None)

        steps = visits.step.astype(np.int32)
        blocks, carry = reverse_scan(undo, (trace.blocks, carry), steps)
        lost = jnp.stack([overflowed(block.buffer) for block in trace.blocks])
        first = self._quantised(start, where) if trace.first is None else trace.first
        back = zip(_held(blocks), first, strict=True)
        same = jnp.stack([jnp.all(equal(*numbers)) for numbers in back])
        return _nan_unless(trace.valid & ~jnp.any(lost) & jnp.all(same), carry)

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

    def _params(self, blocks: list[Block], like: TrainState, where: Layout) -> PyTree:
        return self._floats([block.weights for block in blocks], like, where)

    def _state(
        self, blocks: list[Block], start: TrainState, where: Layout, step: Array
    ) -> TrainState:
        velocity = self._floats([block.velocity for block in blocks], start, where)
        opt_state = ReversibleSGDState(step, velocity)
        params = self._params(blocks, start, where)
        return TrainState(params, opt_state, start.model_state, step)

    def _floats(self, numbers: list[Fixed], like: TrainState, where: Layout) -> PyTree:
        leaves = jax.tree.leaves(like.params)
        dtypes = [leaves[members[0]].dtype for members in where.members]
        bits = self.fraction_bits
        floats = where.scatter(
            [to_float(number, bits, dtype) for number, dtype in zip(numbers, dtypes, strict=True)]
        )
        return jax.tree.map(tree.placed_like, floats, like.params)

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
