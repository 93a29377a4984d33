"""What `drmad` is made of: the paths and the steps that it takes, one factory each."""

from collections.abc import Sequence
from typing import cast

from drmad_jax._checks.arguments import check_choice, check_count, check_number, check_whole
from drmad_jax.reverse.paths import Knots, Means
from drmad_jax.reverse.paths.knots import STATES_ON_PATH, StateOnPath
from drmad_jax.reverse.segments import Segments
from drmad_jax.reverse.steps import (
    SPACINGS,
    WEIGHTINGS,
    EveryStep,
    MeasuredSteps,
    Spacing,
    StridedSteps,
    Weighting,
)


def knots(knots: int | Sequence[int] = 8, *, optimizer_state: StateOnPath = "auto") -> Knots:
    """A path of straight lines between the states at some steps, the knots.

    Args:
        knots: Their number n, placed at T(k/(n−1))², dense where training moves fast: 2 for the
            line of the paper (Fu et al. 2016), T + 1 for the true trajectory; or the steps
            themselves, increasing from 0 to T.
        optimizer_state: What stands for the optimizer's and the model's state: "final", their
            last value; "interpolated", as the weights; "auto": final on the line, interpolated on
            knots.

    Returns:
        A value for `drmad(path=…)`, called with the number n of knots or their steps.

    Raises:
        ValueError: On fewer than two knots, steps that do not increase from 0, or an unknown name.
        TypeError: If the number of knots, or a step, is no int.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad(path=dj.knots(2)) == dj.drmad(knots=2)
        True
    """
    check_choice("knots", "optimizer_state", optimizer_state, STATES_ON_PATH)
    if not isinstance(knots, int | float | str):
        times = check_whole("drmad", "knots", knots)
        increasing = all(a < b for a, b in zip(times, times[1:], strict=False))
        if len(times) < 2 or times[0] != 0 or not increasing:
            raise ValueError(
                "drmad: `knots` must be a number, or steps increasing from 0 to num_steps, got "
                f"{knots}"
            )
        return Knots(times, optimizer_state)
    check_count("drmad", "knots", knots, least=2)
    return Knots(cast(int, knots), optimizer_state)


def means(*, on_host: bool = False) -> Means:
    """A path of means: of all the states in each stretch that the steps divide training into.

    Args:
        on_host: Keep them in the memory of the host (tried on CPUs alone; JAX cannot
            batch that: not under `jax.vmap`).

    Returns:
        A value for `drmad(path=…)`, with `steps` from `segments` or `strided_steps`.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad().first.path == dj.means()
        True
    """
    return Means(on_host=on_host)


def segments(
    count: int = 8,
    *,
    num_products: int | None = None,
    num_batches: int = 4,
    spacing: Spacing = "dense",
    num_terms: int | None = None,
) -> Segments:
    """Whole segments of training, each a linear flow that Lanczos' method takes at once.

    Args:
        count: Number of segments; that of steps where the run is shorter.
        num_products: Curvature products in each segment; `None` for ten where the segments take
            fewer than 800 steps together, five elsewhere.
        num_batches: Inner batches, spread over the segment, that each product averages.
        spacing: "dense" near the end of training, or "even".
        num_terms: At how many of a segment's steps the terms of the hypergradient are taken, each
            with its own batch, key and counters; 0 for every step. `None` for one where the
            hyperparameters read nothing of a step (penalties), every step where they read the
            optimizer's counters or the key alone (schedules), 50 where the model has to be
            evaluated on the step's batch (example weights: a forward pass and a tangent each).

    Returns:
        A value for `drmad(steps=…)`.

    Raises:
        ValueError, TypeError: If a count is no positive Python int; on an unknown spacing.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad(steps=dj.segments(6), exact_end=0).steps.count
        6
    """
    counts = {"count": count, "num_products": num_products, "num_batches": num_batches}
    for name, value in counts.items():
        if value is not None or name != "num_products":
            check_count("segments", name, value)
    check_choice("segments", "spacing", spacing, SPACINGS)
    if num_terms is not None:
        check_count("segments", "num_terms", num_terms, least=0)
    return Segments(count, num_products, num_batches, spacing, num_terms)


def every_step() -> EveryStep:
    """All T reverse steps, one by one.

    Returns:
        A value for `drmad(steps=…)`.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad(curvature="gauss_newton").steps == dj.every_step()
        True
    """
    return EveryStep()


def strided_steps(
    count: int, *, spacing: Spacing = "dense", weighting: Weighting = "count"
) -> StridedSteps:
    """Single reverse steps, each in the middle of the stretch of training that it stands for.

    Args:
        count: Number S of steps; all where the run is shorter.
        spacing: "dense" near the end of training, or "even".
        weighting: "count" adds each visited step's term as often as it stands for a step; "none"
            adds it once, as published, and the hypergradient shrinks by about S/T.

    Returns:
        A value for `drmad(steps=…)`.

    Raises:
        ValueError, TypeError: If `count` is no positive Python int; on an unknown name.

    Example:
        >>> import drmad_jax as dj
        >>> dj.strided_steps(3, spacing="even")(12).step.tolist()
        [1, 5, 9]
    """
    check_count("strided_steps", "count", count)
    check_choice("strided_steps", "spacing", spacing, SPACINGS)
    check_choice("strided_steps", "weighting", weighting, WEIGHTINGS)
    return StridedSteps(count, spacing, weighting)


def measured_steps(*, cap: int, multiplier: float = 1.0, early: int = 10) -> MeasuredSteps:
    """A number of reverse steps for `drmad` that follows the length of the path.

    S = ⌈multiplier · ‖w_T − w_0‖ / mean ‖w_{t+1} − w_t‖ over the first `early` steps⌉, at most
    `cap`: as many steps of the first ones' size as lead from w_0 to w_T.

    Args:
        cap: The largest S; it fixes the compiled program, the steps above S are skipped.
        multiplier: Steps for each early step's length.
        early: Number of first steps that are measured, by taking them a second time.

    Returns:
        A value for `drmad(steps=…)`.

    Raises:
        ValueError: If `cap` or `early` is below 1, or `multiplier` is not positive and finite.
        TypeError: If they are no Python numbers.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad(steps=dj.measured_steps(cap=200)).steps
        MeasuredSteps(cap=200, multiplier=1.0, early=10)
    """
    check_count("measured_steps", "cap", cap)
    check_count("measured_steps", "early", early)
    check_number("measured_steps", "multiplier", multiplier, above=0.0)
    return MeasuredSteps(cap, multiplier, early)
