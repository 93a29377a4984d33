"""What the records of a run hold, checked wherever one is read."""

from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic

from drmad_jax.experiments.metrics import of_model

Count = Annotated[int, pydantic.Field(ge=0)]
Seconds = Annotated[float, pydantic.Field(ge=0)]
# What was not finite is null.
Value = float | None


class Record(pydantic.BaseModel):
    """A table of plain values; what a later version adds is let pass."""

    model_config = pydantic.ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Step(Record):
    """A line of `metrics.jsonl`: an outer step, or the evaluation after the last.

    Attributes:
        step: Its number, which is that of the line.
        finite: Whether loss and hypergradient were.
        taken: Whether the hyperparameters followed the hypergradient, or went back to the best.
        seconds: What it took.
        outer_loss: The outer loss.
    """

    __pydantic_extra__: dict[str, Value] = pydantic.Field(init=False)  # pyright: ignore

    step: Count
    finite: bool
    taken: bool | None = None
    seconds: Seconds
    outer_loss: Value

    @property
    def place(self) -> tuple[int, set[str]]:
        """The line's number, and the names of the metrics that all lines have."""
        return self.step, set(of_model(self.model_dump()))


class Seed(Record):
    """A line of `judge.jsonl`: two training runs on a fresh seed.

    Attributes:
        seed: Its number, which is that of the line.
        seconds: What both took.
        before: Metrics with the hyperparameters that tuning started from.
        after: The same metrics with those that it ended with.
    """

    seed: Count
    seconds: Seconds
    before: dict[str, Value]
    after: dict[str, Value]

    @property
    def place(self) -> tuple[int, set[str]]:
        """The line's number, and the names of the metrics that all lines have."""
        return self.seed, set(self.before)

    @pydantic.model_validator(mode="after")
    def _is_paired(self) -> Self:
        if set(self.before) != set(self.after):
            raise ValueError("other metrics before than after")
        return self


class Estimate(Record):
    """Values by seed, with their mean and its interval; see `runs.intervals`."""

    values: list[Value]
    mean: Value
    standard_error: Value
    interval: Annotated[list[float], pydantic.Field(min_length=2, max_length=2)] | None

    @pydantic.model_validator(mode="after")
    def _has_a_mean_of_all_or_none(self) -> Self:
        if (self.mean is None) != (not self.values or None in self.values):
            raise ValueError("a mean that is not that of the values")
        return self


class Estimates(Record):
    """One metric on fresh seeds: with the first hyperparameters, with the final ones, paired."""

    before: Estimate
    after: Estimate
    difference: Estimate


class Judged(Record):
    """Section `judge` of a summary."""

    num_seeds: Count
    seconds: Seconds
    metrics: dict[str, Estimates]

    @pydantic.model_validator(mode="after")
    def _has_all_seeds(self) -> Self:
        pairs = [(each.before, each.after) for each in self.metrics.values()]
        found = {len(part.values) for pair in pairs for part in pair}
        if found - {self.num_seeds}:
            raise ValueError(f"other numbers of values than the {self.num_seeds} seeds")
        return self


class Summary(Record):
    """The contents of `summary.json`, as far as a report shows them."""

    status: str
    date: str = ""
    versions: dict[str, str] = {}
    device: dict[str, str | int] = {}
    compile_seconds: Seconds | None = None
    median_seconds_per_step: Seconds | None = None
    num_hparams: Count | None = None
    judge: Judged = Judged(num_seeds=0, seconds=0, metrics={})


class WholeSummary(Summary):
    """The contents of `summary.json`, as far as the run itself takes them up again."""

    num_outer_steps: Count
    outer_loss: dict[Literal["first", "last", "best", "best_step"], Value]


class Spread(Record):
    """A mean over seeds."""

    value: Value
    standard_error: Value


class Report(Record):
    """What a comparison found of one method, as far as figures show it."""

    name: str
    other_seeds: Spread
    time_ratio: Annotated[float, pydantic.Field(gt=0)]
    temporary_bytes: Value
    cotangent_norms: list[Value] | None


class Comparison(Record):
    """The contents of `compare.json`, as far as figures show them."""

    reference: str
    num_steps: Annotated[int, pydantic.Field(gt=0)]
    reports: list[Report]

    @pydantic.model_validator(mode="after")
    def _has_the_reference(self) -> Self:
        shown = [report.name for report in self.reports if report.other_seeds.value is not None]
        if self.reference not in shown:
            raise ValueError(f"no result of the exact method {self.reference!r}")
        return self


R = TypeVar("R", bound=Record)


def check(kind: type[R], value: Any) -> R:
    """Makes sure that a value is a record of some kind.

    Args:
        kind: The kind.
        value: What was read.

    Returns:
        The record.

    Raises:
        ValueError: If something is missing in it, or of another type; says what.
    """
    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
