"""Exact methods that go back through training: one factory each, with its cost."""

import numbers
from collections.abc import Sequence

from drmad_jax._checks.arguments import check_choice, check_count
from drmad_jax.fixed_point.buffer import SMALLEST_RATIO
from drmad_jax.reverse.method import Reverse, Unrolled
from drmad_jax.reverse.paths import Checkpoints, Reversal
from drmad_jax.reverse.steps import EveryStep
from drmad_jax.training.curvature import CURVATURES


def unrolled() -> Unrolled:
    """Exact: `jax.vjp` through the whole training scan. The oracle for all other methods.

    Cost:
        Memory: the activations of all T steps. Reverse pass: one reverse-over-reverse step each.
    Bias:
        Exact. `info.cotangent_norm` sees only the two ends.

    Example:
        >>> import drmad_jax as dj
        >>> dj.unrolled()
        Unrolled()
    """
    return Unrolled()


def stored(*, curvature: str = "hessian", on_host: bool = False) -> Reverse:
    """Exact: all T training states are stored, each step is linearised where it was taken.

    Franceschi et al. 2017, Alg. 1 (Reverse-HG).

    Args:
        curvature: "hessian" (exact), or "gauss_newton" for the true trajectory with Gauss–Newton
            curvature.
        on_host: Store the states in the memory of the host (tried on CPUs alone; JAX cannot
            batch that: not under `jax.vmap`).

    Cost:
        Memory: T training states (weights and optimizer state). Reverse pass: T reverse steps.
    Bias:
        Exact with the Hessian.

    Example:
        >>> import drmad_jax as dj
        >>> dj.stored().curvature
        'hessian'
    """
    return Reverse(Checkpoints((1,), on_host=on_host), EveryStep(), curvature)


def checkpointed(
    *,
    every: int | Sequence[int] | None = None,
    levels: int | None = None,
    budget: int | None = None,
    on_host: bool = False,
    curvature: str = "hessian",
) -> Reverse:
    """Exact: some states are stored, the others are computed again on the way back.

    Args:
        every: Steps between checkpoints. A decreasing sequence, each a divisor of the one before,
            gives as many levels: (100, 10) stores every 100th state, then every 10th of one
            interval, then those of ten steps. `None` leaves the choice to `levels` or `budget`.
        levels: How often each step is computed at most, n, training included, in the fewest states
            s that allow it: C(s + n, n) ≥ T, binomial checkpoints (Griewank and Walther 2000,
            revolve). 2 stores about √(2T), 3 about ∛(6T); 32 is the most. 2 if neither `every` nor
            `budget` is given.
        budget: Number of states that may be stored at a time; each step is computed as seldom as
            they allow.
        on_host: Store the states in the memory of the host (tried on CPUs alone; JAX cannot
            batch that: not under `jax.vmap`).
        curvature: "hessian" (exact) or "gauss_newton".

    Cost:
        Memory: T/every + every training states; or √(2T) by default, s by levels (and one for
        what is stored for nobody), or `budget`; three more and two vectors for the way back itself.
        Reverse pass: T reverse steps, and at most n − 1 trainings again: at T = 2000 one in 63
        states, 1.9 in 22, 2.7 in 14, 3.5 in 10.
    Bias:
        Exact with the Hessian.

    Raises:
        ValueError: If a count is not positive, intervals are not each a divisor of the one
            before, more than one of `every`, `levels` and `budget` is given, or the budget is too
            small for T.

    Example:
        >>> import drmad_jax as dj
        >>> dj.checkpointed(every=50).path.intervals
        (50, 1)
    """
    given = {"every": every, "levels": levels, "budget": budget}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"checkpointed: give one of {', '.join(map(repr, given))}")
    for name in given.keys() & {"levels", "budget"}:
        check_count("checkpointed", name, given[name])
    path = Checkpoints(_intervals(every), levels or 2, budget, on_host)
    return Reverse(path, EveryStep(), curvature)


def reversible(
    *, min_momentum: float = 0.5, fraction_bits: int = 52, curvature: str = "hessian"
) -> Reverse:
    """Exact: training runs in fixed point and is undone step by step, bit for bit.

    Maclaurin, Duvenaud, Adams 2015, Alg. 2 and 3, in optax's convention: backwards,
    w ← w + α v, g ← ∇L(w), v ← (v − g)/γ. Weights and velocity are 64-bit integers; the bits that
    γ v loses go into an information buffer. It takes `reversible_sgd` as the optimizer and no
    other. The integers are pairs of 32-bit words, so that all of it works without
    `jax_enable_x64`, too: then only gradients and the steps they cause are float32.

    Args:
        min_momentum: Lower bound of the momentum (in geometric mean over the steps), which sets
            the size of the buffer where the momentum is not known when the function is traced:
            where it is a hyperparameter under `jax.jit`. A known momentum needs none.
        fraction_bits: Number F of bits behind the binary point, out of 64. Weights, velocity and
            gradients must stay below 2^(63−F) in magnitude: 2048 at the published F = 52. Sums
            over large data sets may need fewer bits, or a mean.
        curvature: "hessian" (exact) or "gauss_newton".

    Cost:
        Memory: per weight 22 bytes, and log2(1/γ) bits for each step (by the lower bound where γ
        is not known): .152 at γ = .9, .029 at γ = .98, where `stored` takes 64. Per step about 12
        bytes for each pair of rates. Training: one gradient each step, and integer arithmetic
        that shows on CPUs at small batches. Reverse pass: T reverse steps, and one more gradient
        for each. `truncated(num_reverse_steps=K, method=reversible())` keeps the bits of K steps.
    Bias:
        Exact, for the trajectory in fixed point; it leaves the one in floating point by rounding.
        If a number leaves its range, if the buffer is too small, if a momentum is not in
        [2^−8, 1], or if the reversal does not end at the initial weights (gradients that are not
        deterministic: scatters on GPUs without `--xla_gpu_deterministic_ops=true`), the
        hypergradient is NaN and `info.finite` is false.

    Raises:
        ValueError: If an option is out of range; when called, on any other optimizer, and on
            model state, whose running averages cannot be undone.
        TypeError: If `fraction_bits` is no int or `min_momentum` no number.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, lambda w, l2, x: jnp.sum((w - x) ** 2),
        ...                      dj.reversible_sgd(learning_rate=0.05, momentum=0.5))
        >>> step = jax.jit(dj.hypergradient(problem, num_steps=100, method=dj.reversible()))
        >>> out = step(1.0, jnp.zeros(1), jnp.ones((100, 1)), jnp.ones(1))
        >>> round(float(out.value), 4), round(float(out.grad), 4)  # w = 1/(1+l2)
        (0.25, 0.25)
    """
    check_count("reversible", "fraction_bits", fraction_bits, least=16)
    if fraction_bits > 60:
        raise ValueError(f"reversible: `fraction_bits` must be at most 60, got {fraction_bits}")
    if isinstance(min_momentum, bool) or not isinstance(min_momentum, numbers.Real):
        raise TypeError(
            "reversible: `min_momentum` must be a Python number (it fixes shapes at trace time), "
            f"got {type(min_momentum).__name__} {min_momentum!r}"
        )
    if not SMALLEST_RATIO <= min_momentum <= 1:
        raise ValueError(
            f"reversible: `min_momentum` must be between 2^-8 and 1, got {min_momentum}"
        )
    check_choice("reversible", "curvature", curvature, ("auto", *CURVATURES))
    return Reverse(Reversal(float(min_momentum), fraction_bits), EveryStep(), curvature)


def _intervals(every: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Steps between checkpoints, level by level."""
    if every is None:
        return None
    levels = (every,) if isinstance(every, int | float | str) else tuple(every)
    if not levels:
        raise ValueError("checkpointed: `every` must name at least one interval, got none")
    for level in levels:
        check_count("checkpointed", "every", level)
    levels = levels if levels[-1] == 1 else (*levels, 1)
    for outer, inner in zip(levels, levels[1:], strict=False):
        if outer % inner or outer == inner:
            raise ValueError(
                f"checkpointed: in `every` each interval must be a divisor of the one before, "
                f"got {inner} after {outer}"
            )
    return levels
