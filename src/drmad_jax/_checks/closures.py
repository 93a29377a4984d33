"""What a rule for a derivative does not follow: found, or refused when it is differentiated."""

from collections.abc import Callable

import jax
from jaxtyping import PyTree


def refuse_closures(step: Callable[..., PyTree], *inputs: PyTree) -> None:
    """Raises a `ValueError` if a step holds a value that is differentiated, and was not handed in.

    A rule only follows its arguments, and JAX's own word on it comes late.
    """
    held = jax.make_jaxpr(step)(*inputs).consts
    if any(type(value).__name__ in ("JVPTracer", "LinearizeTracer") for value in held):
        raise ValueError(
            "train: a loss or the optimizer holds a value that is differentiated, and a method's "
            "way back only follows what it is given: pass that value in `hparams`, from where "
            "losses and optimizer get it, or use method=drmad_jax.unrolled()"
        )


def constant(name: str, pytree: PyTree) -> PyTree:
    """Passes a pytree through, and raises when somebody differentiates with respect to it."""
    mend = "use a method that goes back to the first step, such as checkpointed()"
    if name == "inner_batches":
        mend = "put the arrays whose gradient you want into `hparams` and let batches index them"

    def refuse(value):
        raise ValueError(f"train is not differentiable in `{name}` with this method: {mend}")

    through = jax.custom_vjp(lambda value: value)
    through.defvjp(refuse, lambda residuals, cotangent: (cotangent,))
    return through(pytree)
