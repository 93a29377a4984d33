"""torchopt: its functional optimizer, and its differentiable one for modules."""

import torch
import torchopt
from torch.nn.functional import cross_entropy

from benchmarks.peers.subject import Case, Prepared
from benchmarks.peers.with_torch import (
    MLP,
    Data,
    Tensors,
    inner_loss,
    outer_loss,
    penalty,
    through_graph,
)


def functional(case: Case) -> Prepared:
    """`FuncOptimizer` of `torchopt.sgd`."""

    def train(data: Data, penalties: Tensors) -> torch.Tensor:
        # A new rule each time: torchopt's momentum keeps in a closure whether it has been called.
        rule = torchopt.sgd(case.step_size, momentum=case.momentum, moment_requires_grad=False)
        optimizer = torchopt.FuncOptimizer(rule)
        params = tuple(t.clone().requires_grad_() for t in data.weights + data.biases)
        for t in range(case.num_steps):
            params = optimizer.step(inner_loss(params, penalties, *data.batch(t)), params)
        return outer_loss(params, data)

    return through_graph(case, train)


def module(case: Case) -> Prepared:
    """`MetaSGD` on a module."""

    def train(data: Data, penalties: Tensors) -> torch.Tensor:
        network = MLP(data)
        optimizer = torchopt.MetaSGD(network, lr=case.step_size, momentum=case.momentum)
        for t in range(case.num_steps):
            x, y = data.batch(t)
            loss = cross_entropy(network(x), y) + penalty(list(network.weights), penalties)
            optimizer.step(loss)
        return cross_entropy(network(data.valid_x), data.valid_y)

    return through_graph(case, train)


FORMS = {"torchopt, FuncOptimizer": functional, "torchopt, MetaSGD": module}
