"""What a comparison of methods found: plain numbers, a recommendation, and how to write them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Fewer seeds leave the means too uncertain to recommend by.
RECOMMENDED_SEEDS = 8
# From docs/study.md: below this share of right signs tuning by a method leads nowhere, ...
LEAST_SIGNS = 0.65
# ... differences up to this one do not show in where tuning ends, ...
CLOSE_SIGNS = 0.05
# ... and below this metasmoothness the exact hypergradient itself does not tune.
LEAST_SMOOTHNESS = 0.3


class Mean(NamedTuple):
    """A mean over seeds and its standard error; NaN where no seed had a finite value.

    Attributes:
        value: The mean.
        standard_error: Of the mean.
    """

    value: float
    standard_error: float

    @classmethod
    def of(cls, values: ArrayLike) -> "Mean":
        """The mean of the finite values."""
        kept = np.asarray(values, float)
        kept = kept[np.isfinite(kept)]
        if not kept.size:
            return cls(math.nan, math.nan)
        error = kept.std(ddof=1) / math.sqrt(kept.size) if kept.size > 1 else math.nan
        return cls(float(kept.mean()), float(error))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodReport:
    """What was measured of one method. Means are taken over the seeds where it was finite.

    Attributes:
        name: Its name in the comparison.
        method: The method, as text.
        cosine: With the exact hypergradient of the same seed.
        norm_ratio: Its norm over that of the exact one.
        sign_agreement: Share of entries with the sign of the exact one.
        other_seeds: Cosine with the mean exact hypergradient over the other seeds.
        other_signs: Share of entries with the sign of that mean.
        certified: The cosine with the exact hypergradient as its certificate tells it; `None`
            unless asked for.
        finite_share: Share of seeds with a finite hypergradient.
        expansion: Largest norm of the weights' cotangent on the way back over its norm at the end
            of training, the largest of all seeds; `None` for methods that do not go back.
        cotangent_norms: The norm of the weights' cotangent in each of 32 equal parts of training,
            the median of all seeds, NaN in parts that the way back does not visit; `None` for
            methods that do not go back.
        seconds: Median of one call, training included.
        time_ratio: The same over plain training.
        compile_seconds: Time the compiler took.
        temporary_bytes: Memory beside arguments and results that the compiled function asks for;
            `None` where the backend does not tell.
    """

    name: str
    method: str
    cosine: Mean
    norm_ratio: Mean
    sign_agreement: Mean
    other_seeds: Mean
    other_signs: Mean
    certified: Mean | None
    finite_share: float
    expansion: float | None
    cotangent_norms: tuple[float, ...] | None
    seconds: float
    time_ratio: float
    compile_seconds: float
    temporary_bytes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods beside the exact one on the same seeds; made by `compare`.

    Attributes:
        num_steps: Inner steps T.
        num_seeds: Seeds.
        num_hparams: Entries of the hyperparameters.
        reference: Name of the exact method, one of the reports.
        reports: One for each method.
        training_seconds: Median of plain training.
        training_bytes: Temporary memory of plain training.
        compile_seconds: What tracing and compiling all programs took together, apart from all runs.
        step_size: Of the three runs behind `metasmoothness`.
        metasmoothness: Of the trained weights, Ŝ, along the negated signs of the exact
            hypergradient, mean over seeds.
        outer_agreement: The same of the outer loss, in [-1, 1].
    """

    num_steps: int
    num_seeds: int
    num_hparams: int
    reference: str
    reports: tuple[MethodReport, ...]
    training_seconds: float
    training_bytes: int | None
    compile_seconds: float
    step_size: float
    metasmoothness: Mean
    outer_agreement: Mean

    def __getitem__(self, name: str) -> MethodReport:
        """The report of one method."""
        for report in self.reports:
            if report.name == name:
                return report
        raise KeyError(name)

    @property
    def _exact(self) -> MethodReport:
        return self[self.reference]

    def _approximate(self) -> list[MethodReport]:
        """The methods that came out finite on every seed, the exact one apart."""
        others = (report for report in self.reports if report.name != self.reference)
        # Without a finite exact hypergradient there is no agreement either.
        return [r for r in others if r.finite_share == 1 and math.isfinite(r.sign_agreement.value)]

    @property
    def best(self) -> str:
        """Name of the method that agrees best with the exact one, by the signs of its entries.

        Of the approximate methods that were finite on every seed; the exact one where none of them
        has the right sign in at least 65% of the entries. Of all that a comparison measures, the
        signs say most about where tuning with a method ends (docs/study.md): the cosine with other
        seeds favours short-sighted estimates.
        """
        key = lambda report: report.sign_agreement.value
        best = max(self._approximate(), key=key, default=self._exact)
        return best.name if key(best) >= LEAST_SIGNS else self.reference

    @property
    def recommended(self) -> str:
        """Name of the cheapest method, by time, that does about as well as the best.

        About as well: signs right in no more than 5% of the entries fewer, a difference that tuning
        does not show.
        """
        bar = self[self.best].sign_agreement.value - CLOSE_SIGNS
        good = (r for r in self._approximate() if r.sign_agreement.value >= bar)
        return min([*good, self._exact], key=lambda r: r.time_ratio).name

    @property
    def recommendation(self) -> str:
        """One sentence on which method to take, and why."""
        chosen, best, exact = self[self.recommended], self[self.best], self._exact
        if exact.finite_share < 1:
            return (
                f"Nothing to recommend: {exact.name} was not finite on every seed, and there is "
                f"nothing to judge by."
            )
        sentence = f"Take {chosen.name} ({chosen.time_ratio:.2f} times plain training"
        if chosen is exact:
            sentence += "): no approximate method is both cheaper and near enough"
        else:
            sentence += (
                f", {exact.name} {exact.time_ratio:.2f}): the cheapest of those whose entries have "
                f"the sign of the exact ones about as often, {_pm(chosen.sign_agreement)}, as the "
                f"best ({best.name} {_pm(best.sign_agreement)})"
            )
        if not 0.5 < chosen.norm_ratio.value < 2:
            sentence += (
                f"; its norm is {_short(chosen.norm_ratio.value)} of the exact one's, for outer "
                f"updates that do not mind the scale, such as Adam's"
            )
        if self.metasmoothness.value < LEAST_SMOOTHNESS:
            sentence += (
                f"; but training is not metasmooth here ({_pm(self.metasmoothness)}), where "
                f"following even the exact hypergradient may lead nowhere: try smaller inner steps"
            )
        if exact.other_seeds.value < 2 * exact.other_seeds.standard_error:
            sentence += (
                f"; but the exact hypergradients of different seeds have nothing in common here "
                f"({_pm(exact.other_seeds)}): there may be nothing left to learn"
            )
        if self.num_seeds < RECOMMENDED_SEEDS:
            sentence += f"; {self.num_seeds} seeds are few to say so, take {RECOMMENDED_SEEDS}"
        return sentence + "."

    def to_json(self) -> str:
        """Everything as JSON; numbers that are not finite become null."""
        fields = dataclasses.asdict(self)
        fields |= {"recommended": self.recommended, "recommendation": self.recommendation}
        return json.dumps(_plain(fields), indent=2, allow_nan=False)

    def to_markdown(self) -> str:
        """A table with one line for each method, what it means, and the recommendation."""
        certified = any(report.certified is not None for report in self.reports)
        head = (
            "method", "cosine, other seeds", "signs, other seeds", "cosine, same seed",
            "signs, same seed", "norm ratio", *(["certified cosine"] if certified else []),
            "finite", "expansion", "time / training", "memory, MiB", "compiling, s",
        )  # fmt: skip
        lines = [head, ("---",) * len(head), *map(self._line, self.reports)]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        memory = "" if self.training_bytes is None else f" and {_mib(self.training_bytes)} MiB"
        return (
            f"{table}\n"
            f"{self.num_steps} inner steps, {self.num_hparams} hyperparameters, {self.num_seeds} "
            f"seeds; mean ± standard error over the seeds where the method was finite. Signs: "
            f"share of entries with the right one. Same seed, and norm ratio: against the "
            f"hypergradient of {self.reference}. Other seeds: against the mean hypergradient of "
            f"{self.reference} over all other seeds. Expansion: the cotangent's largest norm on "
            f"the way back over the one it starts with. Plain training takes "
            f"{self.training_seconds:.3g} s{memory}. Compiling took {self.compile_seconds:.0f} s "
            f"in all.\n\n"
            f"Metasmoothness along a step of {self.step_size:g} against the signs of the exact "
            f"hypergradient: weights {_pm(self.metasmoothness)}, outer loss "
            f"{_pm(self.outer_agreement)} (1 is smooth; near 0, hypergradients do not predict a "
            f"step of this size).\n\n"
            f"{self.recommendation}\n"
        )

    def _line(self, report: MethodReport) -> tuple[str, ...]:
        exact = report.name == self.reference
        same = (report.cosine, report.sign_agreement, report.norm_ratio)
        bytes_ = report.temporary_bytes
        return (
            f"{report.name} (exact)" if exact else report.name,
            _pm(report.other_seeds),
            _pm(report.other_signs),
            *(("1", "1", "1") if exact else map(_pm, same)),
            *([] if report.certified is None else [_pm(report.certified)]),
            f"{100 * report.finite_share:.0f} %",
            "–" if report.expansion is None else f"{report.expansion:.3g}",
            f"{report.time_ratio:.2f}",
            "?" if bytes_ is None else _mib(bytes_),
            f"{report.compile_seconds:.1f}",
        )


def _pm(mean: Mean) -> str:
    if math.isnan(mean.value):
        return "–"
    error = "" if math.isnan(mean.standard_error) else f" ± {_short(mean.standard_error)}"
    return _short(mean.value) + error


def _short(value: float) -> str:
    return f"{value:.3f}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.1e}"


def _mib(count: int) -> str:
    return f"{count / 2**20:.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, Mean):
        return _plain(value._asdict())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
