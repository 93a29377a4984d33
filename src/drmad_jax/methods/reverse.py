"""The public methods: one factory each, with what it costs and where it fails."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from drmad_jax._checks.arguments import check_choice, check_count
from drmad_jax.methods.method_options import (
    check_segments,
    intervals,
    path_through,
    reverse,
    single_steps,
)
from drmad_jax.reverse.guard import ON_EXPANSION, OnExpansion
from drmad_jax.reverse.method import Reverse, Unrolled
from drmad_jax.reverse.paths import Averaged, Frozen, Interpolated, Recomputed
from drmad_jax.reverse.paths.knots import StateOnPath
from drmad_jax.reverse.steps import (
    AllSteps,
    LastSteps,
    MeasuredStride,
    PublishedStride,
    Segments,
    Spacing,
    Weighting,
)


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


def stored(*, curvature: str = "hessian") -> Reverse:
    """Exact: all T training states are stored, each step is linearised where it was taken.

    Franceschi et al. 2017, Alg. 1 (Reverse-HG).

    Args:
        curvature: "hessian" (exact), or "gauss_newton" for the true trajectory with Gauss–Newton
            curvature.

    Cost:
        Memory: T training states (weights and optimizer state). Reverse pass: T reverse steps.
    Bias:
        Exact with the Hessian.

    Example:
        >>> import drmad_jax as dj
        >>> dj.stored().curvature
        'hessian'
    """
    return reverse(Recomputed((1,)), curvature, AllSteps())


def checkpointed(
    *,
    every: int | Sequence[int] | None = None,
    levels: int = 2,
    budget: int | None = None,
    curvature: str = "hessian",
) -> Reverse:
    """Exact: some states are stored, the others are computed again on the way back.

    Args:
        every: Steps between checkpoints. A decreasing sequence, each a divisor of the one before,
            gives as many levels: (100, 10) stores every 100th state, then every 10th of one
            interval, then those of ten steps. `None` leaves the choice to `levels` or `budget`.
        levels: Number of levels n, each dividing its interval into r = ⌈T^(1/n)⌉ (a tree as
            REPLAY's, arXiv 2503.13751): n·r states. 2 stores about 2√T; log₂ T levels store
            2 log₂ T.
        budget: Number of states that may be stored at a time; takes the fewest levels that fit.
        curvature: "hessian" (exact) or "gauss_newton".

    Cost:
        Memory: T/every + every training states, or n·⌈T^(1/n)⌉. Reverse pass: T reverse steps,
        and n − 1 trainings again.
    Bias:
        Exact with the Hessian.

    Raises:
        ValueError: If a count is not positive, intervals are not each a divisor of the one
            before, `every` and `budget` are both given, or the budget is too small for T.

    Example:
        >>> import drmad_jax as dj
        >>> dj.checkpointed(every=50).path.intervals
        (50, 1)
    """
    check_count("checkpointed", "levels", levels)
    if budget is not None:
        check_count("checkpointed", "budget", budget)
        if every is not None:
            raise ValueError("checkpointed: give `every` or `budget`, not both")
    return reverse(Recomputed(intervals(every), levels, budget), curvature, AllSteps())


def drmad(
    *,
    knots: int | Sequence[int] | Literal["means"] | None = None,
    curvature: str = "auto",
    num_reverse_steps: int | MeasuredStride | None = None,
    num_segments: int | None = None,
    num_products: int = 10,
    batches_per_product: int = 10,
    spacing: Spacing = "dense",
    weighting: Weighting = "count",
    optimizer_state: StateOnPath = "auto",
    batches: Literal["original", "fresh"] = "original",
    on_expansion: OnExpansion = "continue",
) -> Reverse:
    """Approximate: training is remembered by a few states, which stand for all the others.

    w_t ≈ (1 − t/T) w_0 + (t/T) w_T (Fu et al. 2016). The paper goes back along that line step by
    step with the Hessian, which expands wherever curvature is negative or sharp and training merely
    steered around it. The default divides training into ten segments, lets the mean of its states
    stand for each, and takes a segment at once, with the positive part of the Hessian, which cannot
    expand: a hundred curvature products, whatever T is. The study in docs/study.md says why.

    Args:
        knots: "means" puts each segment at the mean of its states; n knots at T(k/(n−1))² make
            straight lines between n states, 2 the line of the paper; or the knots' steps,
            increasing from 0 to T. T + 1 knots are the true trajectory. `None` for "means" with
            segments, and for 8 knots, or as many as fit, with single steps.
        curvature: "hessian"; "gauss_newton", for a `composite_loss`; "filtered_hessian", which
            leaves the Hessian product out of single steps where it would expand the cotangent. Of
            each, segments take the positive part. "auto" is the Hessian for segments; for single
            steps Gauss–Newton where the loss has the structure, and the filtered Hessian elsewhere.
        num_reverse_steps: Single steps back: the number S of visited ones, or
            `measured_steps(cap=…)`, which sets S from the length of the path.
        num_segments: Segments of the path, each a linear flow that Lanczos takes at once (see
            `Segments`). With neither this nor `num_reverse_steps`, curvature="auto" takes 10 of
            them, and any other curvature all T single steps.
        num_products: Curvature products in each segment.
        batches_per_product: Inner batches, spread over the segment, that each product averages.
            Below 1,000 steps fewer do: a hundredth of the steps.
        spacing: Of visited steps or segments: "dense" near the end of training, or "even".
        weighting: "count" adds each visited step's term as often as it stands for a step; "none"
            adds it once, as published, and the hypergradient shrinks by about S/T.
        optimizer_state: What stands for the optimizer's and the model's state on the path:
            "final", "interpolated", or "auto": final on the line, interpolated on knots.
        batches: On the way back the "original" batches of each step, or "fresh" ones.
        on_expansion: What to do once the cotangent's norm exceeds ten times its norm at the end
            (the path expands where training did not): "continue" and report it as
            `info.expanded`; "truncate" the way back there; go on with "gauss_newton" curvature.

    Cost:
        Memory: one training state for each segment or knot (and 4 bytes a step for each counter in
        the optimizer state); with segments also `num_products` + 4 vectors like the weights and the
        activations of `batches_per_product` batches. Reverse pass: `num_segments` · `num_products`
        curvature products, each on `batches_per_product` batches; or S reverse steps. By default
        that is about one training of 1,000 steps: for much shorter runs take fewer batches, or an
        exact method.
    Bias:
        Biased unless knots = T + 1 with the Hessian, step by step. The mixed terms are taken on the
        path. Segments take the optimizer's answer to the gradient as immediate, leave out negative
        curvature, and pass over a cotangent of the optimizer's state (`train`). Gauss–Newton leaves
        out the model's own curvature. Hypergradients of learning rates and momenta need the true
        velocity and are biased here, sign errors included: use `checkpointed`. Single steps with
        the Hessian may diverge: look at `info.expanded`. `optax.MultiSteps` has no answer that
        segments could take: they become single steps, with a warning.

    Raises:
        ValueError: On knots that do not increase from 0, a count below 1, an unknown name, or
            options of single steps together with `num_segments`.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad().steps.num_products
        10
        >>> dj.drmad(num_reverse_steps=200).steps
        Stride(count=200, spacing='dense', weighting='count')
    """
    check_choice("drmad", "spacing", spacing, ("dense", "even"))
    check_choice("drmad", "weighting", weighting, ("count", "none"))
    choices = ("auto", "final", "interpolated")
    check_choice("drmad", "optimizer_state", optimizer_state, choices)
    check_choice("drmad", "batches", batches, ("original", "fresh"))
    check_choice("drmad", "on_expansion", on_expansion, ON_EXPANSION)
    check_count("drmad", "num_products", num_products)
    check_count("drmad", "batches_per_product", batches_per_product)
    if num_segments is None and num_reverse_steps is None and curvature == "auto":
        num_segments = 10
    if num_segments is None:
        steps = single_steps(num_reverse_steps, spacing, weighting)
    else:
        check_segments(num_segments, num_reverse_steps, weighting, curvature)
        steps = Segments(num_segments, num_products, batches_per_product, spacing)
    method = reverse(path_through(knots, optimizer_state, steps), curvature, steps)
    fresh = batches == "fresh"
    return dataclasses.replace(method, fresh_batches=fresh, on_expansion=on_expansion)


def measured_steps(*, cap: int, multiplier: float = 1.0, early: int = 10) -> MeasuredStride:
    """A number of reverse steps for `drmad` that follows the length of the path.

    S = ⌈multiplier · ‖w_T − w_0‖ / mean ‖w_{t+1} − w_t‖ over the first `early` steps⌉, at most
    `cap`: as many steps of the first ones' size as lead from w_0 to w_T.

    Args:
        cap: The largest S; it fixes the compiled program, the steps above S are skipped.
        multiplier: Steps for each early step's length.
        early: Number of first steps that are measured, by taking them a second time.

    Returns:
        A value for `drmad(num_reverse_steps=…)`.

    Raises:
        ValueError: If `cap` or `early` is below 1, or `multiplier` is not positive.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad(num_reverse_steps=dj.measured_steps(cap=200)).steps
        MeasuredStride(cap=200, multiplier=1.0, early=10)
    """
    check_count("measured_steps", "cap", cap)
    check_count("measured_steps", "early", early)
    if not multiplier > 0:
        raise ValueError(f"measured_steps: `multiplier` must be positive, got {multiplier}")
    return MeasuredStride(cap, multiplier, early)


def published_drmad(*, num_reverse_steps: int) -> Reverse:
    """Approximate: DrMAD as its authors ran it (Fu et al. 2016, `cpu_ver`), for comparison.

    The line, the Hessian, and S = `num_reverse_steps` (they took T/10) reverse steps at
    β = linspace(0.001, 0.999, S), with the step sizes and minibatches of the first S training
    steps, each term added once.

    Args:
        num_reverse_steps: Number S of reverse steps.

    Cost:
        Memory: two training states. Reverse pass: S reverse steps.
    Bias:
        Biased: nine tenths of the decay and of the sum are left out (the authors' sign updates
        hide the magnitude), and it diverges outside small step sizes. Prefer `drmad`.

    Raises:
        ValueError: If `num_reverse_steps` is below 1.

    Example:
        >>> import drmad_jax as dj
        >>> dj.published_drmad(num_reverse_steps=200).curvature
        'hessian'
    """
    check_count("published_drmad", "num_reverse_steps", num_reverse_steps)
    return reverse(Interpolated(2, "final"), "hessian", PublishedStride(num_reverse_steps))


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
            given together with `frozen` or `curvature`.
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
        return reverse(Frozen() if frozen else Recomputed((1,)), curvature, steps)
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
    if isinstance(method.path, Averaged):
        raise ValueError(
            "truncated: the means of segments have no single steps: give a path that has, such as "
            f"drmad(knots=8), got {method!r}"
        )
    return dataclasses.replace(method, steps=steps)
