"""The measured quantities: what each is called, its unit, and which way is better."""

from collections.abc import Iterable
from typing import NamedTuple

# What speaks of the way back, and not of the trained model.
REVERSE = ("hypergradient_norm", "cotangent_norm", "certified_ratio", "certified_cosine", "taken")
_BOOKKEEPING = ("step", "finite", "seconds")
# Names that no task may give to a metric of its own.
RESERVED = ("outer_loss", *REVERSE, *_BOOKKEEPING)


class Metric(NamedTuple):
    """How a quantity is shown.

    Attributes:
        label: Its name with its unit.
        factor: From the value in the files to the unit of the label.
        more_is_better: Whether the greater of two is the better one.
    """

    label: str
    factor: float = 1
    more_is_better: bool = False


METRICS = {
    "outer_loss": Metric("outer loss"),
    "train_loss": Metric("training loss"),
    "test_loss": Metric("test loss"),
    "test_error": Metric("test error (%)", 100),
    "retrained_error": Metric("test error, retrained (%)", 100),
    "test_accuracy": Metric("test accuracy (%)", 100, more_is_better=True),
    "precision": Metric("precision (%)", 100, more_is_better=True),
    "recall": Metric("recall (%)", 100, more_is_better=True),
    "f1": Metric("F1 (%)", 100, more_is_better=True),
    "mean_iou": Metric("mean IoU (%)", 100, more_is_better=True),
    **{
        f"{score}_{name}": Metric(f"{label}, {name} (%)", 100, more_is_better=True)
        for score, label in (("iou", "IoU"), ("precision", "precision"), ("recall", "recall"))
        for name in ("clear", "shadow", "cloud")
    },
}


def metric(name: str) -> Metric:
    """How a quantity is shown, whether or not it is in the list.

    Args:
        name: Its name in the files.

    Returns:
        The entry of `METRICS`, or one with the plain name.
    """
    return METRICS.get(name, Metric(name.replace("_", " ")))


def headline(declared: str, names: Iterable[str]) -> str:
    """The metric that figures and tables show beside the outer loss.

    Args:
        declared: What the task's section says; empty for tasks that nothing is known of.
        names: The names in a line of metrics.

    Returns:
        What was declared, or else the first of `METRICS` among the names, or else the first name;
        the outer loss where there is nothing beside it.
    """
    if declared:
        return declared
    _, *others = of_model({"outer_loss": None, **dict.fromkeys(names)})
    rank = {name: number for number, name in enumerate(METRICS)}
    others.sort(key=lambda name: (rank.get(name, len(rank)), name))
    return others[0] if others else "outer_loss"


def of_model(names: Iterable[str]) -> list[str]:
    """The quantities that speak of the trained model, the outer loss first.

    Args:
        names: The names in a line of metrics.

    Returns:
        Names.
    """
    found = [name for name in names if name not in (*REVERSE, *_BOOKKEEPING)]
    return sorted(found, key=lambda name: name != "outer_loss")
