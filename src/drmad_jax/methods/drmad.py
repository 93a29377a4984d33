"""DrMAD: training is remembered by a few states, which stand for all the others."""

from collections.abc import Sequence
from typing import Literal

from drmad_jax._checks.arguments import check_choice, check_count
from drmad_jax.methods.choices import every_step, means, segments
from drmad_jax.methods.choices import knots as knots_path
from drmad_jax.protocol import Method
from drmad_jax.reverse.guard import OnExpansion
from drmad_jax.reverse.method import Reverse
from drmad_jax.reverse.paths import Knots, Path
from drmad_jax.reverse.steps import PublishedSteps, ReverseSteps
from drmad_jax.reverse.stretches import SERVES, Serves, Stretches


def drmad(
    *,
    knots: int | Sequence[int] | None = None,
    path: Path | None = None,
    steps: ReverseSteps | None = None,
    curvature: str = "auto",
    batches: Literal["original", "fresh"] = "original",
    on_expansion: OnExpansion = "continue",
    exact_end: int | None = None,
    serves: Serves = "auto",
) -> Method:
    """Approximate: training is remembered by a few states, which stand for all the others.

    w_t ≈ (1 − t/T) w_0 + (t/T) w_T (Fu et al. 2016). The paper goes back along that line step by
    step with the Hessian, which expands wherever curvature is negative or sharp and training merely
    steered around it. The default goes back in two stretches: the last √(20 T) steps exactly, and
    those before them in eight segments, each taken at once at the mean of its states with the
    positive part of the Hessian, which does not expand: 40 curvature products, or 80 below about
    900 steps (the segments of SOURCE, Bae et al. 2024, with an optimizer's state, each step's own
    terms, and an exact end). Where these would cost more than they save (below about 580 steps),
    and where an optimizer does not suit segments, the whole run is taken back exactly. The study
    in docs/study.md says why.

    Args:
        knots: Short for `path=drmad_jax.knots(…)`: 2 is the line of the paper, T + 1 the true
            trajectory.
        path: Which states stand in: `drmad_jax.means()`, `drmad_jax.knots(…)`, or a `Path` of
            your own. `None` for the means with segments, and for 8 knots, or as many as fit, with
            single steps.
        steps: How to go back: `drmad_jax.segments(…)`, `every_step()`, `strided_steps(…)` or
            `measured_steps(cap=…)`. `None` for `segments()` with curvature="auto", and for every
            step with any other curvature.
        curvature: "hessian"; "gauss_newton", for a `composite_loss`; "filtered_hessian", which
            leaves the Hessian product out of single steps where it would expand the cotangent. Of
            each, segments take the positive part. "auto" is the Hessian for segments; for single
            steps Gauss–Newton where the loss has the structure, and the filtered Hessian elsewhere.
        batches: On the way back the "original" batches of each step, or "fresh" ones.
        on_expansion: What to do once the cotangent's norm exceeds ten times its norm at the end
            (the path expands where training did not): "continue" and report it as
            `info.expanded`; "truncate" the way back there; go on with "gauss_newton" curvature.
            The exact end always goes on.
        exact_end: Number K of last steps that are taken back exactly before the segments. `None`
            for √(20 T) by default, and for none where any option above is given.
        serves: What an exact end serves. "this_run": the outer loss is differentiated at the final
            state. "tuning": at the mean of the last K + 1 states, through each of which goes an
            equal share, so that less of one seed's noise comes back. "auto": "this_run" for
            hyperparameters that read the steps (schedules, example weights) and for models with a
            state (running statistics are not those of averaged weights), "tuning" for others
            (penalties, constants). `value` is the final state's either way.

    Cost:
        Memory: one training state for each segment or knot and about √(2K) states of the exact end
        (and 4 bytes a step for each counter in the optimizer's state), three more for the way back
        itself; with segments also `num_products` + 4 vectors like the weights and the activations
        of one batch. Where weights and optimizer state have 256 MiB or more, the means are kept in
        bfloat16 and the exact end in four states, 11.7 in all at any T. Reverse pass: K reverse
        steps, and `count` · `num_products` curvature products, each on `num_batches` batches; or S
        reverse steps. The exact end is trained through once more; for large states more often, at
        T = 2000 its 196 steps 1082 times in all, half a training. Where hyperparameters read the
        batch, 50 evaluations of the model a segment more.
    Bias:
        Biased unless knots = T + 1 with the Hessian, step by step, or the run is exact as a whole.
        Segments take a linear flow for the way back, at one state each, and leave out negative
        curvature; the optimizer is transposed as it is, its state's memory a geometric series.
        Gauss–Newton leaves out the model's own curvature. Single steps beside the trajectory do not
        know the true velocity, which the hypergradients of learning rates and momenta need: sign
        errors included; with the Hessian they may diverge: look at `info.expanded`. Optimizers that
        segments do not fit (those that act at some steps only, mix entries, set weights instead of
        moving them, remember the weights or a maximum, read the loss) are found out by a trial
        while the call is traced, once for each optimizer; then comes a warning that says why, and
        an exact way back.

    Raises:
        ValueError: On an unknown name, both of `knots` and `path`, a path, steps and a curvature
            that do not go together, or an exact end of anything but segments.
        TypeError: If `path` or `steps` is of another kind.

    Warns:
        UserWarning: When called, of an optimizer that segments do not fit; with single steps, of
            hyperparameters that act inside the optimizer, by name.

    Example:
        >>> import drmad_jax as dj
        >>> dj.drmad().first.steps.count
        8
        >>> dj.drmad(steps=dj.strided_steps(200)).steps
        StridedSteps(count=200, spacing='dense', weighting='count')
    """
    check_choice("drmad", "batches", batches, ("original", "fresh"))
    for name, value, kind in (("path", path, Path), ("steps", steps, ReverseSteps)):
        if value is not None and not isinstance(value, kind):
            made_by = "knots(8)" if name == "path" else "segments(5)"
            raise TypeError(
                f"drmad: `{name}` must be a value such as drmad_jax.{made_by}, got {value!r}"
            )
    if knots is not None and path is not None:
        raise ValueError("drmad: `knots` is short for path=drmad_jax.knots(...): give one of them")
    if exact_end is not None:
        check_count("drmad", "exact_end", exact_end, least=0)
    check_choice("drmad", "serves", serves, SERVES)
    others = curvature, batches, on_expansion
    as_given = (knots, path, steps) != (None, None, None)
    as_given |= others != ("auto", "original", "continue")
    save = steps is None
    if steps is None:
        steps = segments() if curvature == "auto" else every_step()
    if knots is not None:
        path = knots_path(knots)
    elif path is None:
        path = means() if steps.takes_stretches else Knots(None)
    method = Reverse(path, steps, curvature, batches == "fresh", on_expansion)
    if exact_end is None and as_given:
        exact_end = 0
    if exact_end == 0:
        if serves != "auto":
            raise ValueError(
                f"drmad: `serves` = {serves!r} says what an exact end serves: give `exact_end`, too"
            )
        return method
    if not steps.takes_stretches:
        raise ValueError(
            f"drmad: `exact_end` is for segments, got {steps}: take steps=drmad_jax.segments(...)"
        )
    return Stretches(method, exact_end, serves, save)


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
    return Reverse(Knots(2, "final"), PublishedSteps(num_reverse_steps), "hessian")
