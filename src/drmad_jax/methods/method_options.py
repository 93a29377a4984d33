"""What the method factories are asked for, as values on the three axes."""

from collections.abc import Sequence

from drmad_jax._checks.arguments import check_choice, check_count
from drmad_jax.reverse.method import Reverse
from drmad_jax.reverse.paths import Averaged, Interpolated, Path
from drmad_jax.reverse.paths.knots import StateOnPath
from drmad_jax.reverse.steps import (
    AllSteps,
    MeasuredStride,
    ReverseSteps,
    Segments,
    Spacing,
    Stride,
    Weighting,
)
from drmad_jax.training.curvature import STEP_CURVATURES


def reverse(path: Path, curvature: str, steps: ReverseSteps) -> Reverse:
    """A method with a curvature that exists."""
    check_choice("method", "curvature", curvature, ("auto", *STEP_CURVATURES))
    return Reverse(path, curvature, steps)


def path_through(
    knots: int | Sequence[int] | str | None, optimizer_state: StateOnPath, steps: ReverseSteps
) -> Path:
    """The path that `knots` speaks of."""
    if knots is None and isinstance(steps, Segments):
        knots = "means"
    if not isinstance(knots, str):
        return Interpolated(None if knots is None else _knots(knots), optimizer_state)
    check_choice("drmad", "knots", knots, ("means",))
    if not isinstance(steps, Segments):
        raise ValueError(
            'drmad: knots="means" are the means of segments: give `num_segments`, or a number of '
            "knots"
        )
    if optimizer_state != "auto":
        raise ValueError(
            'drmad: with knots="means" the optimizer\'s state is a mean, too: leave '
            f'optimizer_state="auto", got {optimizer_state!r}'
        )
    return Averaged(steps)


def check_segments(
    count: int, num_reverse_steps: object, weighting: Weighting, curvature: str
) -> None:
    """Refuses what segments cannot take."""
    check_count("drmad", "num_segments", count)
    if num_reverse_steps is not None:
        raise ValueError(
            "drmad: give `num_segments` (whole segments at once) or `num_reverse_steps` (single "
            "steps), not both"
        )
    if weighting != "count":
        raise ValueError('drmad: `num_segments` stand for all their steps: leave weighting="count"')
    if curvature == "filtered_hessian":
        raise ValueError(
            'drmad: `num_segments` take the positive part of the curvature; "filtered_hessian" is '
            'for single steps: use curvature="auto"'
        )


def single_steps(
    count: int | MeasuredStride | None, spacing: Spacing, weighting: Weighting
) -> ReverseSteps:
    """All single steps, or the number that is asked for."""
    if count is None:
        return AllSteps()
    if isinstance(count, MeasuredStride):
        return count
    check_count("drmad", "num_reverse_steps", count)
    return Stride(count, spacing, weighting)


def intervals(every: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Steps between checkpoints, level by level."""
    if every is None:
        return None
    levels = (every,) if isinstance(every, int) else tuple(every)
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


def _knots(knots: int | Sequence[int]) -> int | tuple[int, ...]:
    if isinstance(knots, int):
        check_count("drmad", "knots", knots, least=2)
        return knots
    times = tuple(map(int, knots))
    increasing = all(a < b for a, b in zip(times, times[1:], strict=False))
    if len(times) < 2 or times[0] != 0 or not increasing:
        raise ValueError(
            f"drmad: `knots` must be a number, or steps increasing from 0 to num_steps, got {knots}"
        )
    return times
