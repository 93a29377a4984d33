"""Plain PyTorch: unrolled in its best forms, and with checkpoints by hand."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks.peers.subject import Answer, Case, Prepared
from benchmarks.peers.torch_problem import (
    Data,
    Tensors,
    answer,
    fresh_hparams,
    inner_loss,
    outer_loss,
    through_graph,
)

State = tuple[Tensors, Tensors]


class Rates(NamedTuple):
    """Step size α and momentum γ: all of the case that a compiled step should see."""

    step_size: float
    momentum: float


def start(data: Data) -> State:
    """Initial weights and velocity."""
    params = [tensor.clone() for tensor in data.weights + data.biases]
    return params, [torch.zeros_like(tensor) for tensor in params]


def move(rates: Rates, state: State, grads: Tensors) -> State:
    """The update v ← γ v + g, w ← w − α v."""
    params, velocity = state
    pairs = zip(grads, velocity, strict=True)
    velocity = [torch.add(g, v, alpha=rates.momentum) for g, v in pairs]
    pairs = zip(params, velocity, strict=True)
    return [torch.add(w, v, alpha=-rates.step_size) for w, v in pairs], velocity


def traced_step(rates: Rates, state: State, penalties: Tensors, batch) -> State:
    """One step with its graph."""
    loss = inner_loss(state[0], penalties, *batch)
    return move(rates, state, torch.autograd.grad(loss, state[0], create_graph=True))


def functional_step(rates: Rates, state: State, penalties: Tensors, batch) -> State:
    """One step that torch.compile can take whole."""
    return move(rates, state, torch.func.grad(inner_loss)(state[0], penalties, *batch))


def compiled_step():
    """The same compiled; a new one for each subject."""
    return torch.compile(functional_step, fullgraph=True, dynamic=False)


def plain_step(rates: Rates, state: State, penalties: Tensors, batch) -> State:
    """One step without a graph beyond itself."""
    params = [tensor.detach().requires_grad_() for tensor in state[0]]
    grads = torch.autograd.grad(inner_loss(params, penalties, *batch), params)
    with torch.no_grad():
        return move(rates, (params, state[1]), grads)


def unrolled(case: Case, *, compiled: bool = False) -> Prepared:
    """Backpropagation through all steps."""
    step, rates = compiled_step() if compiled else traced_step, Rates(case.step_size, case.momentum)

    def train(data: Data, penalties: Tensors) -> torch.Tensor:
        params, velocity = start(data)
        state = [tensor.requires_grad_() for tensor in params], velocity
        for t in range(case.num_steps):
            state = step(rates, state, penalties, data.batch(t))
        return outer_loss(state[0], data)

    return through_graph(case, train)


def plain_training(case: Case) -> Prepared:
    """Training and the outer loss, without a hypergradient."""
    data, rates = Data(case), Rates(case.step_size, case.momentum)
    penalties = [vector.exp() for vector in data.hparams]

    def call() -> Answer:
        state = start(data)
        for t in range(case.num_steps):
            state = plain_step(rates, state, penalties, data.batch(t))
        with torch.no_grad():
            return answer(outer_loss(state[0], data), None)

    return Prepared(call)


def checkpointed(case: Case, *, compiled: bool = False) -> Prepared:
    """The states of √T intervals stored; on the way back each interval is unrolled again.

    By hand: `torch.utils.checkpoint` takes a step's own gradient for the backward pass that it
    waits for, and computes the interval again at every step.
    """
    data, rates = Data(case), Rates(case.step_size, case.momentum)
    steps, length = range(case.num_steps), math.isqrt(case.num_steps)
    intervals = [steps[first : first + length] for first in steps[::length]]
    traced = compiled_step() if compiled else traced_step
    plain = torch.no_grad()(traced) if compiled else plain_step

    def advance(step, interval: range, state: State, penalties: Tensors) -> State:
        for t in interval:
            state = step(rates, state, penalties, data.batch(t))
        return state

    def call() -> Answer:
        hparams, penalties = fresh_hparams(data)
        fixed = [penalty.detach() for penalty in penalties]
        state, kept = start(data), []
        for interval in intervals:
            kept.append((state, functools.partial(advance, traced, interval)))
            state = advance(plain, interval, state, fixed)
        final = [tensor.detach().requires_grad_() for tensor in state[0]]
        value = outer_loss(final, data)
        cotangent = *torch.autograd.grad(value, final), *map(torch.zeros_like, final)
        total = [torch.zeros_like(penalty) for penalty in fixed]
        while kept:
            cotangent, found = _pull_back(*kept.pop(), fixed, cotangent)
            total = [a + b for a, b in zip(total, found, strict=True)]
        return answer(value, list(torch.autograd.grad(penalties, hparams, total)))

    return Prepared(call)


def _pull_back(
    state: State, advance: Callable[..., State], fixed: Tensors, cotangent: tuple[torch.Tensor, ...]
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Cotangents of the state before an interval and of the penalties, from the one after it."""
    count = len(state[0])
    given = [tensor.detach().requires_grad_() for tensor in (*state[0], *state[1], *fixed)]
    params, velocity = advance((given[:count], given[count : 2 * count]), given[2 * count :])
    found = torch.autograd.grad([*params, *velocity], given, cotangent)
    return found[: 2 * count], found[2 * count :]


FORMS = {
    "torch, plain training": plain_training,
    "torch, unrolled": unrolled,
    "torch, compiled steps": functools.partial(unrolled, compiled=True),
    "torch, checkpointed": checkpointed,
    "torch, compiled, checkpointed": functools.partial(checkpointed, compiled=True),
}
