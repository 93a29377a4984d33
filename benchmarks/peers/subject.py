"""What is measured: one interface for all packages, and the list of all subjects."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

# "exact" subjects must agree with the reference, "implicit" ones assume that training converged.
Kind = Literal["training", "exact", "approximate", "implicit"]


class Answer(NamedTuple):
    """What a call returns.

    Attributes:
        value: Outer loss at the end of training.
        grad: The hypergradient, all layers in one vector; `None` for plain training.
        extra: Further figures for the record.
    """

    value: float
    grad: np.ndarray | None
    extra: dict[str, Any] | None = None


class Prepared(NamedTuple):
    """A subject that is ready to run.

    Attributes:
        call: Runs it once, from the same start, to the end.
        temporary_bytes: Temporary memory that its compiled program asks for, where there is one.
    """

    call: Callable[[], Answer]
    temporary_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Subject:
    """One package's way to the hypergradient.

    Attributes:
        name: Its name in tables; a key of `FORMS` in its module.
        package: Whose it is.
        kind: What its result means.
        module: Where `FORMS` maps its name to a function from the case to `Prepared`.
        note: What must be known to read its figures.
    """

    name: str
    package: str
    kind: Kind
    module: str
    note: str = ""

    @property
    def uses_torch(self) -> bool:
        """Whether it runs on PyTorch."""
        return "torch" in self.module or self.package == "higher"

    def load(self) -> dict[str, Callable[[Any], Prepared]]:
        """Imports its package; called in its worker only."""
        return importlib.import_module(self.module).FORMS

    def prepare(self, case: Any) -> Prepared:
        """Makes it ready for a case."""
        return self.load()[self.name](case)


REFERENCE = "unrolled()"


def _subjects(package: str, module: str, *rows: tuple[str, Kind, str]) -> list[Subject]:
    where = f"benchmarks.peers.{module}"
    return [Subject(name, package, kind, where, note) for name, kind, note in rows]


SUBJECTS = [
    *_subjects(
        "drmad_jax",
        "ours",
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
    *_subjects(
        "JAX",
        "with_jax",
        ("jax.grad of scan", "exact", ""),
        ("jax.checkpoint on steps", "exact", "stores T states"),
        ("jax.checkpoint on intervals", "exact", "~sqrt(T) states, and the steps of one interval"),
    ),
    *_subjects(
        "jaxopt",
        "with_jaxopt",
        ("jaxopt, unrolled", "exact", "`run` takes no minibatches: `update` in a scan"),
        ("jaxopt, implicit", "implicit", "custom_root, normal CG, Hessian of the last minibatch"),
    ),
    *_subjects(
        "optimistix",
        "with_optimistix",
        ("optimistix, log T checkpoints", "exact", "solvers see no step: a fixed point with one"),
        ("optimistix, T checkpoints", "exact", "the same, all states stored"),
        ("optimistix, implicit", "implicit", "ImplicitAdjoint, normal CG, the same Hessian"),
    ),
    *_subjects(
        "PyTorch",
        "with_torch",
        ("torch, plain training", "training", ""),
        ("torch, unrolled", "exact", "autograd.grad(create_graph=True)"),
        ("torch, compiled steps", "exact", "torch.compile of a torch.func step"),
        ("torch, checkpointed", "exact", "by hand: sqrt(T) states, intervals unrolled again"),
        ("torch, compiled, checkpointed", "exact", "the same with compiled steps"),
    ),
    *_subjects(
        "torchopt",
        "with_torchopt",
        ("torchopt, FuncOptimizer", "exact", ""),
        ("torchopt, MetaSGD", "exact", ""),
    ),
    *_subjects("higher", "with_higher", ("higher, innerloop_ctx", "exact", "")),
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
