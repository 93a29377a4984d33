"""Memory against the number of steps: the catalogue's law fitted, and where it meets a limit."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tools.catalogue import ENTRIES

LIMIT = 16 * 2**30
# A slope that adds less than this share over the last decade is that of counters and rounding.
FLAT = 0.02


def growth(label: str) -> Callable[[Any], float]:
    """How the catalogue says that the method's memory grows with T, up to a factor."""
    laws = {name: e.growth for e in ENTRIES for name in (e.factory.__name__, e.call)}
    grow = laws.get(label)
    # What should not grow is fitted by a line, which finds out whether it does.
    return float if grow is None or grow(10**6) == grow(1) else grow


def fitted(by_steps: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The law of each method that has two points against the number of steps."""
    enough = lambda points: len([p for p in points if p.get("temporary_bytes")]) >= 2
    return {label: fit(label, points) for label, points in by_steps.items() if enough(points)}


def fit(label: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Bytes = a + b · g(T), arguments included, through the two points with most steps.

    Where short runs need less than the law (fewer batches, fewer knots) they would bend it; how far
    they are off is said. `None` stands for a memory that does not grow.
    """
    sized = [p for p in points if p.get("temporary_bytes")]
    grow = growth(label)
    grown = np.array([grow(p["num_steps"]) for p in sized])
    given = np.array([p["temporary_bytes"] + p["argument_bytes"] for p in sized], float)
    slope = float((given[-1] - given[-2]) / (grown[-1] - grown[-2]))
    base = float(given[-1] - slope * grown[-1])
    error = float(np.max(np.abs((base + slope * grown) / given - 1)))
    flat = given[-1] - given[-2] < FLAT * given[-2]
    return {
        "slope": slope,
        "bytes for each further step at T = 1000": (
            None if flat else float(f"{slope * (grow(1001) - grow(1000)):.4g}")
        ),
        "worst relative error": round(error, 4),
        "steps in 16 GiB": None if flat else _meets(grow, (LIMIT - base) / slope),
    }


def _meets(grow: Callable[[Any], float], wanted: float) -> float:
    """The T with grow(T) = wanted, by bisection, to two digits."""
    low, high = 1.0, 1e18
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if grow(middle) < wanted else (low, middle)
    return float(f"{low:.2g}")
