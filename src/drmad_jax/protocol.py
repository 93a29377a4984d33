"""What a method is, and what it reports."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, PyTree

from drmad_jax.problem import TrainState
from drmad_jax.training.run import Run
from drmad_jax.training.step import Cotangent

# hparams -> (outer loss at the end of training, final state)
Evaluate = Callable[[PyTree], tuple[Float[Array, ""], TrainState]]


class Info(NamedTuple):
    """What happened on the way back; arrays, so that it passes through jit and vmap.

    Attributes:
        finite: Whether the outer loss and every entry of the hypergradient are finite.
        num_reverse_steps: Reverse steps taken.
        cotangent_norm: Largest L2 norm of the weights' cotangent on the way back. Far above
            `cotangent_norm_at_end`, the path expands; the hypergradient is then not to be trusted.
            `None`, as the next two, for methods that do not go back step by step.
        cotangent_norm_at_end: Its norm where the way back begins, ‖∂E/∂w_T‖.
        cotangent_norm_at_start: Its norm where the way back ends.
        cotangent_norm_profile: Its norm in each of 32 equal parts of training, shape (32,), NaN in
            parts that were not visited.
        expanded: Whether the norm outgrew ten times its value at the end: the path expands where
            training did not.
        residual_norm: Of a linear solve, relative to its right-hand side; `None` without one.
        num_iterations: Of a linear solve; `None` without one.
        standard_error: Of each entry of a stochastic estimate, like the hypergradient; `None` for
            deterministic methods.
    """

    finite: Bool[Array, ""]
    num_reverse_steps: Int[Array, ""]
    cotangent_norm: Float[Array, ""] | None = None
    cotangent_norm_at_end: Float[Array, ""] | None = None
    cotangent_norm_at_start: Float[Array, ""] | None = None
    cotangent_norm_profile: Float[Array, "32"] | None = None
    expanded: Bool[Array, ""] | None = None
    residual_norm: Float[Array, ""] | None = None
    num_iterations: Int[Array, ""] | None = None
    standard_error: PyTree = None


@runtime_checkable
class Method(Protocol):
    """Training, and the way from the final state's cotangent back to the hyperparameters.

    A method is a frozen value. To add one, implement these four functions.
    """

    def forward(self, run: Run, state: TrainState) -> tuple[TrainState, Any]:
        """Trains from `state`; returns the final state and whatever `backward` needs."""
        ...

    def backward(self, run: Run, trace: Any, cotangent: Cotangent) -> tuple[Cotangent, Info]:
        """Takes the cotangent of the final state to the one of the initial state."""
        ...

    def reaches_start(self, run: Run) -> bool:
        """Whether the state's cotangent that `backward` returns is the initial state's.

        If not, there is no gradient with respect to the initial weights, and `backward` accounts
        for whatever part of the initial state depends on the hyperparameters (see `Run.start`).
        """
        ...

    def sees(self, run: Run, state: TrainState) -> Callable[[PyTree], PyTree] | None:
        """A function of the hyperparameters that depends on all those the method can see.

        `None` if it sees all. Others are refused by name.
        """
        ...


@runtime_checkable
class Estimator(Protocol):
    """A way to the hypergradient that only asks for the outer losses of whole runs.

    `hypergradient` takes such a frozen value wherever it takes a `Method`. `evaluate` is plain
    JAX, so that an estimator can be vmapped over it, or push tangents through it.
    """

    def estimate(
        self, evaluate: Evaluate, hparams: PyTree, key: Array | None
    ) -> tuple[Float[Array, ""], TrainState, PyTree, Info]:
        """The outer loss, the final state, the hypergradient, and what happened.

        Args:
            evaluate: Trains from the start; `hparams -> (outer loss, final state)`.
            hparams: Where the gradient is wanted.
            key: For whatever is drawn; `None` where the call had none.
        """
        ...
