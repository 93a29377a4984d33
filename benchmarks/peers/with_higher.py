"""higher: a module made stateless, and torch.optim made differentiable."""

import higher
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers.subject import Case, Prepared
from benchmarks.peers.with_torch import MLP, Data, Tensors, penalty, through_graph


def inner_loop(case: Case) -> Prepared:
    """`innerloop_ctx` around `torch.optim.SGD`."""

    def train(data: Data, penalties: Tensors) -> torch.Tensor:
        network = MLP(data)
        optimizer = torch.optim.SGD(network.parameters(), lr=case.step_size, momentum=case.momentum)
        with higher.innerloop_ctx(network, optimizer) as (functional, differentiable):
            for t in range(case.num_steps):
                x, y = data.batch(t)
                loss = cross_entropy(functional(x), y)
                differentiable.step(loss + penalty(list(functional.weights), penalties))
            return cross_entropy(functional(data.valid_x), data.valid_y)

    return through_graph(case, train)


FORMS = {"higher, innerloop_ctx": inner_loop}
