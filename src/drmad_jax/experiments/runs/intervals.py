"""Means over seeds, and how sure they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95


def interval(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, standard error and confidence interval, as plain values.

    The interval is mean ± t·s/√n with Student's t of n - 1 degrees of freedom: right for values
    that are spread normally, and nearly so for means of few seeds.

    Args:
        values: One for each seed; `None` where it was not finite.

    Returns:
        `values`, `mean`, `standard_error` and `interval` (lowest and highest at level .95). What
        cannot be known is `None`: everything where a value is `None`, and the last two where
        there is one value alone.

    Example:
        >>> found = interval([1.0, 2.0, 3.0])
        >>> found["mean"], [round(end, 3) for end in found["interval"]]
        (2.0, [-0.484, 4.484])
    """
    found = {"values": list(values), "mean": None, "standard_error": None, "interval": None}
    if values and None not in values:
        found["mean"] = mean = float(np.mean(values))  # pyright: ignore
        if len(values) > 1:
            found["standard_error"] = error = float(stats.sem(values))
            half = error * float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
            found["interval"] = [mean - half, mean + half]
    return found


def paired(before: Sequence[float | None], after: Sequence[float | None]) -> dict[str, Any]:
    """The interval of the differences `after - before`, seed by seed.

    What a seed does to both cancels: where the intervals of both overlap widely, that of their
    differences may still be far from zero.

    Args:
        before: One value for each seed; `None` where it was not finite.
        after: The same for the same seeds.

    Returns:
        As `interval`.

    Example:
        >>> paired([1.0, 3.0, 5.0], [0.5, 2.5, 4.5])["interval"]
        [-0.5, -0.5]
    """
    pairs = zip(before, after, strict=True)
    return interval([None if a is None or b is None else b - a for a, b in pairs])
