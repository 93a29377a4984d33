"""What is measured: the problem, without a framework, one interface for all packages, a list."""

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

# "exact" subjects must agree with the reference, "implicit" ones assume that training converged.
Kind = Literal["training", "exact", "approximate", "implicit"]


class Case(NamedTuple):
    """The MLP of `benchmarks.problems.mlp`, one log L2 penalty per input unit of each layer."""

    batch_size: int
    num_steps: int
    step_size: float  # of SGD with momentum, w ← w − step_size · v
    momentum: float  # γ in v ← γ v + g
    hparams: list[np.ndarray]  # log L2 penalties, one float32 vector a layer
    params: list[dict[str, np.ndarray]]  # initial "w" and "b" of each layer, float32
    train: dict[str, np.ndarray]  # "x" [examples, 784] float32, "y" [examples] int32
    valid: dict[str, np.ndarray]  # the one outer batch, likewise
    indices: np.ndarray  # training examples of each minibatch, [num_steps, batch_size] int32
    key: np.ndarray  # from whose data `drmad_jax.minibatches` draws the same minibatches

    def __str__(self) -> str:
        return f"batch {self.batch_size}, T = {self.num_steps}"

    @property
    def num_weights(self) -> int:
        """Number of weights and biases."""
        return sum(leaf.size for layer in self.params for leaf in layer.values())


def make_case(
    batch_size: int,
    num_steps: int,
    *,
    num_outer: int = 5000,
    step_size: float = 0.0025,
    momentum: float = 0.95,
) -> Case:
    """The problem with its minibatches drawn, and at most 5,000 examples in the outer batch."""
    # Imported here, since PyTorch's workers read this module and must not load JAX.
    import jax

    import drmad_jax as dj
    from benchmarks.problems import mlp

    hparams, params, train, valid = mlp.arguments()
    key = jax.random.key(1)
    numbers = jax.numpy.arange(len(train["y"]))
    indices = jax.vmap(dj.minibatches(numbers, batch_size, key))(jax.numpy.arange(num_steps))
    outer_batch = {name: leaf[:num_outer] for name, leaf in valid.items()}
    arrays = hparams, params, train, outer_batch, indices, jax.random.key_data(key)
    return Case(batch_size, num_steps, step_size, momentum, *jax.tree.map(np.asarray, arrays))


class Answer(NamedTuple):
    """What a call returns."""

    value: float  # outer loss at the end of training
    grad: np.ndarray | None  # the hypergradient of all layers in one vector, if there is one
    extra: dict[str, Any] | None = None  # further figures for the record


class Prepared(NamedTuple):
    """A subject that is ready to run."""

    call: Callable[[], Answer]  # once, from the same start, to the end
    temporary_bytes: int | None = None  # that its compiled program asks for, where there is one


class Subject(NamedTuple):
    """One package's way to the hypergradient."""

    name: str  # in tables; a key of `FORMS` in its module
    package: str
    kind: Kind
    module: str  # of benchmarks.peers
    note: str = ""  # what must be known to read its figures

    @property
    def uses_torch(self) -> bool:
        """Whether it runs on PyTorch."""
        return "torch" in self.module or self.package == "higher"

    def load(self) -> Callable[[Case], Prepared]:
        """Imports its package; called in its worker only."""
        return importlib.import_module(f"benchmarks.peers.{self.module}").FORMS[self.name]


REFERENCE = "unrolled()"
# Package and module, then each subject's name, kind and note.
_ROWS: dict[tuple[str, str], tuple[tuple[str, Kind, str], ...]] = {
    ("drmad_jax", "ours"): (
        (REFERENCE, "exact", "the reference"),
        ("plain training", "training", ""),
        ("stored()", "exact", ""),
        ("checkpointed()", "exact", ""),
        ("drmad()", "approximate", "a hundred products, each on ten minibatches"),
        ("drmad, line, Gauss-Newton, 5 x 8", "approximate", "forty products"),
        ("drmad, T/10 steps", "approximate", "8 knots, Gauss-Newton"),
        ("published_drmad, T/10 steps", "approximate", "adds a tenth of the terms, unweighted"),
        ("implicit, CG", "implicit", "Gauss-Newton of the last minibatch"),
    ),
    ("JAX", "with_jax"): (
        ("jax.grad of scan", "exact", ""),
        ("jax.checkpoint on steps", "exact", "stores T states"),
        ("jax.checkpoint on intervals", "exact", "~sqrt(T) states, and the steps of one interval"),
    ),
    ("jaxopt", "with_jaxopt"): (
        ("jaxopt, unrolled", "exact", "`run` takes no minibatches: `update` in a scan"),
        ("jaxopt, implicit", "implicit", "custom_root, normal CG, Hessian of the last minibatch"),
    ),
    ("optimistix", "with_optimistix"): (
        ("optimistix, log T checkpoints", "exact", "solvers see no step: a fixed point with one"),
        ("optimistix, T checkpoints", "exact", "the same, all states stored"),
        ("optimistix, implicit", "implicit", "ImplicitAdjoint, normal CG, the same Hessian"),
    ),
    ("PyTorch", "with_torch"): (
        ("torch, plain training", "training", ""),
        ("torch, unrolled", "exact", "autograd.grad(create_graph=True)"),
        ("torch, compiled steps", "exact", "torch.compile of a torch.func step"),
        ("torch, checkpointed", "exact", "by hand: sqrt(T) states, intervals unrolled again"),
        ("torch, compiled, checkpointed", "exact", "the same with compiled steps"),
    ),
    ("torchopt", "with_torchopt"): (
        ("torchopt, FuncOptimizer", "exact", ""),
        ("torchopt, MetaSGD", "exact", ""),
    ),
    ("higher", "with_higher"): (("higher, innerloop_ctx", "exact", ""),),
}
SUBJECTS = [
    Subject(name, package, kind, module, note)
    for (package, module), rows in _ROWS.items()
    for name, kind, note in rows
]

# Left out of large cases by default, to save time: each has a sibling that is as fast or faster.
HEAVY = ("torch, unrolled", "torch, checkpointed", "torchopt, MetaSGD")

# What was tried, or cannot be tried, and has no row by default.
LEFT_OUT = {
    "jaxopt, implicit; optimistix, implicit": "They assume that training converged, which this "
    "run has not: the Hessian of a minibatch is indefinite, conjugate gradient breaks down on it "
    "(optimistix raises an error), and on the normal equations the answer depends on where the "
    "solver stops. `--subjects implicit` measures them.",
    "jaxopt, OptaxSolver.run; optimistix, OptaxMinimiser": "Their functions see the same data at "
    "every step: no minibatches.",
    "torch.utils.checkpoint": "Each step takes its own gradient, at which it computes the interval "
    "again: quadratic in the interval. The checkpoints are written by hand instead.",
}
