"""The method `reversible`: exact, at a few bits of memory per weight and step."""

import numbers

from drmad_jax._checks.arguments import check_choice, check_count
from drmad_jax.fixed_point.buffer import SMALLEST_RATIO
from drmad_jax.reverse.method import Reverse
from drmad_jax.reverse.paths.reversal import Reversed
from drmad_jax.reverse.steps import AllSteps
from drmad_jax.training.curvature import CURVATURES


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
    return Reverse(Reversed(float(min_momentum), fraction_bits), curvature, AllSteps())
