"""Plain PyTorch: the problem in it, unrolled in its best forms, and with checkpoints by hand."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers.subject import Answer, Case, Prepared

Tensors = list[torch.Tensor]
State = tuple[Tensors, Tensors]


class Data:
    """The arrays of a case as tensors; labels and indices in the integers that PyTorch asks for."""

    def __init__(self, case: Case):
        number = lambda array: torch.tensor(np.asarray(array))
        self.hparams = [number(vector) for vector in case.hparams]
        self.weights = [number(layer["w"]) for layer in case.params]
        self.biases = [number(layer["b"]) for layer in case.params]
        self.train_x, self.train_y = number(case.train["x"]), number(case.train["y"]).long()
        self.valid_x, self.valid_y = number(case.valid["x"]), number(case.valid["y"]).long()
        self.indices = number(case.indices).long()

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The minibatch of a step."""
        return self.train_x[self.indices[step]], self.train_y[self.indices[step]]


def fresh_hparams(data: Data) -> tuple[Tensors, Tensors]:
    """Log penalties that ask for a gradient, and the penalties."""
    hparams = [vector.clone().requires_grad_() for vector in data.hparams]
    return hparams, [vector.exp() for vector in hparams]


def predict(weights: Tensors, biases: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Logits."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.tanh(torch.addmm(bias, x, weight))
    return torch.addmm(biases[-1], x, weights[-1])


def penalty(weights: Tensors, penalties: Tensors) -> torch.Tensor:
    """Of the forms tried (a sum of squares a unit, einsum, a power), the fastest with autograd."""
    pairs = zip(weights, penalties, strict=True)
    return sum((strength[:, None] * weight * weight).sum() for weight, strength in pairs)


def outer_loss(params: Tensors, data: Data) -> torch.Tensor:
    """Cross-entropy on the outer batch."""
    half = len(params) // 2
    return cross_entropy(predict(params[:half], params[half:], data.valid_x), data.valid_y)


def inner_loss(
    params: Tensors, penalties: Tensors, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy with the penalty; `params` are all weights, then all biases."""
    half = len(params) // 2
    logits = predict(params[:half], params[half:], x)
    return cross_entropy(logits, y) + penalty(params[:half], penalties)


def answer(value: torch.Tensor, grads: Sequence[torch.Tensor]) -> Answer:
    """Tensors to NumPy."""
    return Answer(value.item(), torch.cat([grad.detach() for grad in grads]).numpy())


def through_graph(case: Case, train: Callable[[Data, Tensors], torch.Tensor]) -> Prepared:
    """Backpropagation through `(data, penalties) -> outer loss` to the log penalties."""
    data = Data(case)

    def call() -> Answer:
        hparams, penalties = fresh_hparams(data)
        value = train(data, penalties)
        return answer(value, torch.autograd.grad(value, hparams))

    return Prepared(call)


class MLP(torch.nn.Module):
    """The same network for packages that take a module."""

    def __init__(self, data: Data):
        super().__init__()
        parameters = lambda tensors: torch.nn.ParameterList([t.clone() for t in tensors])
        self.weights, self.biases = parameters(data.weights), parameters(data.biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return predict(list(self.weights), list(self.biases), x)


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
            return Answer(outer_loss(state[0], data).item(), None)

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
        return answer(value, torch.autograd.grad(penalties, hparams, total))

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
