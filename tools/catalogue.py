"""The catalogue of methods: what each costs, where it fails, and when to use it.

`methods_table` prints it; what a method takes is asked of the method itself (`probes`).
"""

import dataclasses
from collections.abc import Callable
from math import log2, sqrt

from drmad_jax.methods.choices import segments
from drmad_jax.methods.drmad import drmad, published_drmad
from drmad_jax.methods.exact import checkpointed, reversible, stored, unrolled
from drmad_jax.methods.forward import forward, forward_gradient
from drmad_jax.methods.implicit import implicit
from drmad_jax.methods.truncated import one_step, truncated
from drmad_jax.methods.zero_order import evolution_strategies
from drmad_jax.protocol import Estimator, Method
from drmad_jax.reverse.paths.checkpoints import Checkpoints, planned
from tools.probes import KINDS


def _constant(num_steps: int) -> float:
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What the table says about one method.

    Tests hold what is declared here to the code: `exactness` to `unrolled()`, `growth` to compiled
    programs, `steps` to counted batches.

    Attributes:
        factory: The public function that makes the method.
        arguments: Its arguments as the table prints them.
        example: One such method, at small numbers.
        exactness: "exact", or how it errs.
        memory: The memory law.
        growth: Its part that depends on T, in training states.
        cost: The cost of the way back.
        steps: The same in steps at T, recomputed ones included; `None` where they cannot be
            counted by the batches that they ask for.
        when: When to use it.
    """

    factory: Callable[..., Method | Estimator]
    arguments: str = ""
    example: Method | Estimator
    exactness: str
    memory: str
    growth: Callable[[int], float] = _constant
    cost: str
    steps: Callable[[int], float] | None = None
    when: str

    @property
    def call(self) -> str:
        """How the table prints the method, such as "drmad(knots=n)"."""
        return f"{self.factory.__name__}({self.arguments})"

    @property
    def exact(self) -> bool:
        """Whether it claims to equal `unrolled()` up to rounding."""
        return self.exactness.startswith("exact")


ENTRIES = (
    Entry(
        factory=drmad, example=drmad(),
        exactness="last √(20 T) steps exact, all of short runs; biased before: segments at their "
        "mean states, negative curvature left out",
        memory="~√(2K) states of the last K = √(20 T) steps, 8 others, 5 vectors",
        growth=lambda T: 2**0.5 * (20 * T) ** 0.25,
        cost="K reverse steps, 40 curvature products on 4 batches each (80 below 900 steps)",
        when="long training, many hyperparameters of any kind",
    ),
    Entry(
        factory=drmad, arguments="knots=2",
        example=drmad(knots=2, steps=segments(num_products=3, num_batches=2)),
        exactness="biased: by the line of the paper",
        memory="2 states, and the vectors",
        cost="the same products",
        when="comparison of paths",
    ),
    Entry(
        factory=drmad, arguments='curvature="gauss_newton"',
        example=drmad(curvature="gauss_newton"),
        exactness="biased: by the path and by Gauss–Newton",
        memory="8 states",
        cost="T reverse steps, or S `strided_steps(S)`", steps=lambda T: T,
        when="short training, with a `composite_loss`",
    ),
    Entry(
        factory=published_drmad, arguments="num_reverse_steps=S",
        example=published_drmad(num_reverse_steps=2),
        exactness="biased, may diverge",
        memory="2 states",
        cost="S reverse steps", steps=lambda T: 2,
        when="comparison with the paper",
    ),
    Entry(
        factory=checkpointed, example=checkpointed(),
        exactness="exact",
        memory="~√(2T) states; fewer by `levels`, `budget`", growth=lambda T: sqrt(2 * T),
        cost="T reverse steps, 1 training for each further level",
        steps=lambda T: T + sum(planned(Checkpoints(None, 2), T).ahead),
        when="exact, learning rates and momenta included",
    ),
    Entry(
        factory=reversible, example=reversible(),
        exactness="exact, in fixed point",
        # A state holds two 32-bit numbers for each weight, and γ is that of `KINDS`.
        memory="log₂(1/γ) bits per weight and step",
        growth=lambda T: T * log2(1 / KINDS["momenta"]) / 64,
        cost="T reverse steps, 1 training", steps=lambda T: 2 * T,
        when="very long training with `reversible_sgd`",
    ),
    Entry(
        factory=stored, example=stored(),
        exactness="exact",
        memory="T states", growth=lambda T: T,
        cost="T reverse steps", steps=lambda T: T,
        when="short training",
    ),
    Entry(
        factory=truncated, arguments="num_reverse_steps=K", example=truncated(num_reverse_steps=3),
        exactness="biased: early steps are missing",
        memory="K states",
        cost="K reverse steps", steps=lambda T: 3,
        when="the last steps decide",
    ),
    Entry(
        factory=forward, example=forward(),
        exactness="exact",
        memory="one state per hyperparameter",
        cost="~1.5 trainings per hyperparameter",
        when="few hyperparameters",
    ),
    Entry(
        factory=forward_gradient, arguments="num_directions=n",
        example=forward_gradient(num_directions=2),
        exactness="unbiased, noisy",
        memory="n states",
        cost="~1.5 n trainings",
        when="in between",
    ),
    Entry(
        factory=implicit, arguments="solver=…", example=implicit(),
        exactness="biased off the optimum",
        memory="1 state",
        cost="products of a linear solve",
        when="training converges",
    ),
    Entry(
        factory=one_step, example=one_step(),
        exactness="biased: greedy",
        memory="1 state",
        cost="1 reverse step", steps=lambda T: 1,
        when="cheapest",
    ),
    Entry(
        factory=evolution_strategies, arguments="num_pairs=n",
        example=evolution_strategies(num_pairs=2, sigma=0.1),
        exactness="unbiased for a smoothed loss",
        memory="2n states",
        cost="2n trainings",
        when="nothing to differentiate",
    ),
    Entry(
        factory=unrolled, example=unrolled(),
        exactness="exact",
        memory="all activations of T steps", growth=lambda T: T,
        cost="T double-reverse steps",
        when="the oracle in tests",
    ),
)  # fmt: skip
