"""Methods that differentiate the last steps alone."""

import dataclasses

from drmad_jax._checks.arguments import check_count
from drmad_jax.reverse.method import Reverse
from drmad_jax.reverse.paths import Checkpoints, Frozen
from drmad_jax.reverse.steps import LastSteps


def truncated(
    *,
    num_reverse_steps: int,
    frozen: bool = False,
    curvature: str = "hessian",
    method: Reverse | None = None,
) -> Reverse:
    """Approximate: only the last K steps are differentiated (Shaban et al. 2019).

    Args:
        num_reverse_steps: Number K of steps.
        frozen: Linearise them all at the final state. With the Hessian and plain gradient descent
            this is the K-term Neumann series of Lorraine et al. 2020.
        curvature: "hessian", "gauss_newton" or "auto".
        method: The method whose path and curvature the K steps take, such as
            `drmad(knots=8)`, `checkpointed()` or `reversible()`; its own choice of steps is
            dropped. `None` stores the last K states.

    Cost:
        Memory: K training states, one if frozen, or that of `method` over K steps (over all of
        them on the line and on knots). Reverse pass: K reverse steps.
    Bias:
        Biased; the error decays as (1 − γα)^K where the loss is α-strongly convex near the end,
        γ the step size. What acts early in training (initial weights, early learning rates) is
        not seen. The bias of `method` comes on top.

    Raises:
        ValueError: If `num_reverse_steps` is below 1, on an unknown curvature, or if `method` is
            given together with `frozen` or `curvature`, or its path has no single steps.
        TypeError: If `method` has no reverse pass step by step.

    Example:
        >>> import drmad_jax as dj
        >>> dj.truncated(num_reverse_steps=10).steps
        LastSteps(count=10)
        >>> dj.truncated(num_reverse_steps=10, method=dj.checkpointed(every=5)).path.intervals
        (5, 1)
    """
    check_count("truncated", "num_reverse_steps", num_reverse_steps)
    steps = LastSteps(num_reverse_steps)
    if method is None:
        return Reverse(Frozen() if frozen else Checkpoints((1,)), steps, curvature)
    if not isinstance(method, Reverse):
        raise TypeError(
            "truncated: `method` must be one that goes back step by step, such as checkpointed(), "
            f"drmad(knots=8) or reversible(), got {method!r}"
        )
    if frozen or curvature != "hessian":
        raise ValueError(
            "truncated: `method` brings its own path and curvature: give it alone, without "
            "`frozen` and `curvature`"
        )
    return dataclasses.replace(method, steps=steps)


def one_step() -> Reverse:
    """Approximate: only the last training step is differentiated (T1–T2, Luketina et al. 2016).

    dE/dλ ≈ ∂E/∂λ + (∂Φ/∂λ)ᵀ ∂E/∂w at the last step Φ; for gradient descent with step size α,
    −α (∂²L/∂λ∂w)ᵀ ∂E/∂w, the inverse Hessian replaced by αI. It is
    `truncated(num_reverse_steps=1)`, and with num_steps=1 and the final weights handed on to the
    next call it is the published algorithm, which updates weights and hyperparameters in turn.

    Cost:
        Memory: one training state. Reverse pass: one reverse step.
    Bias:
        Biased: greedy. What acts in earlier steps is not seen; magnitudes shrink with the step
        size, and directions of low curvature count too little.

    Example:
        >>> import drmad_jax as dj
        >>> dj.one_step() == dj.truncated(num_reverse_steps=1)
        True
    """
    return truncated(num_reverse_steps=1)
