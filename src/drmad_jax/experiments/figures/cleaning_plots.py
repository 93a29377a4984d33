"""Figures of learned weights of training examples."""

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from drmad_jax.experiments.figures.plots import BLUE, COLUMN_WIDTH, GREY, ORANGE

_ROWS, _COLUMNS = 3, 6


def weights(values: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> Figure:
    """Histograms of the weights, those of clean and of corrupted examples apart.

    Args:
        values: The weights.
        wrong: Which examples have a wrong label.

    Returns:
        A figure.
    """
    figure = Figure(figsize=(COLUMN_WIDTH, 2.2), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max(float(values.max()), 1e-3), 31).tolist()
    for chosen, name, color in ((~wrong, "clean", BLUE), (wrong, "corrupted", ORANGE)):
        label = f"{name} ({chosen.sum()})"
        axes.hist(values[chosen], bins=bins, histtype="stepfilled", color=color, alpha=0.25)
        axes.hist(values[chosen], bins=bins, histtype="step", color=color, label=label)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("learned weight")
    axes.set_ylabel("examples")
    axes.legend(frameon=False)
    return figure


def precision_recall(
    values: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], threshold: float
) -> Figure:
    """Precision and recall of finding wrong labels, as the weight up to which one is found grows.

    The curve begins at the lowest weight: among the examples that share it, as many do at zero,
    there is no order.

    Args:
        values: The weights.
        wrong: Which examples have a wrong label.
        threshold: Weight below which an example counts as found, which is marked.

    Returns:
        A figure.
    """
    figure = Figure(figsize=(COLUMN_WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    hits, num_found = np.cumsum(wrong[order])[ends], ends + 1
    num_wrong = max(wrong.sum(), 1)
    axes.plot(hits / num_wrong, hits / num_found, color=BLUE, label="found up to a weight")
    found = values < threshold
    if found.any():
        hits = (found & wrong).sum()
        point = hits / num_wrong, hits / found.sum()
        label = f"found below {threshold:g} ({found.sum()})"
        axes.plot(*point, "o", markersize=5, color=ORANGE, label=label)
    axes.axhline(wrong.mean(), color=GREY, linestyle="--", linewidth=0.8, label="chance")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall of wrong labels")
    axes.set_ylabel("precision")
    axes.legend(frameon=False, loc="lower left")
    return figure


def found(
    images: Float[np.ndarray, "n h w"],
    values: Float[np.ndarray, " n"],
    given: Int[np.ndarray, " n"],
    true: Int[np.ndarray, " n"],
    threshold: float,
) -> Figure:
    """Examples thrown out, each with the label given to it and the true one.

    Half of the columns show wrong labels that were found, the other half clean examples that were
    thrown out by mistake; the first ones of each.

    Args:
        images: The training images.
        values: Their weights.
        given: The labels they were trained with.
        true: Their true labels.
        threshold: Weight below which an example counts as thrown out.

    Returns:
        A figure.
    """
    figure = Figure(figsize=(COLUMN_WIDTH, 2.4), layout="constrained")
    halves = figure.subfigures(1, 2, squeeze=False, wspace=0.06)
    out, wrong = values < threshold, given != true
    for half, chosen, title in (
        (halves[0, 0], out & wrong, "wrong labels found"),
        (halves[0, 1], out & ~wrong, "clean, thrown out"),
    ):
        half.suptitle(f"{title} ({chosen.sum()})", fontsize=8)
        panels = half.subplots(_ROWS, _COLUMNS // 2).ravel()
        rows = np.flatnonzero(chosen)[: panels.size]
        for axes in panels:
            axes.axis("off")
        for axes, row in zip(panels, rows, strict=False):
            axes.imshow(images[row], cmap="Greys", interpolation="nearest")
            label = f"{given[row]}, not {true[row]}" if wrong[row] else f"{given[row]}"
            axes.set_title(label, fontsize=7, pad=2)
    return figure
