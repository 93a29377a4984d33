"""The problem in PyTorch, functionally and as a module."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers.subject import Answer, Case, Prepared

Tensors = list[torch.Tensor]


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


def answer(value: torch.Tensor, grads: Tensors | None) -> Answer:
    """Tensors to NumPy."""
    if grads is None:
        return Answer(value.item(), None)
    return Answer(value.item(), torch.cat([grad.detach() for grad in grads]).numpy())


def through_graph(case: Case, train: Callable[[Data, Tensors], torch.Tensor]) -> Prepared:
    """Backpropagation through `(data, penalties) -> outer loss` to the log penalties."""
    data = Data(case)

    def call() -> Answer:
        hparams, penalties = fresh_hparams(data)
        value = train(data, penalties)
        return answer(value, list(torch.autograd.grad(value, hparams)))

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
