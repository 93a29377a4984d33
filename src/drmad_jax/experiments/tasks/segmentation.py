"""Segmentation: losses and scores of one label for each pixel, those without a value left out."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int


def weighted_cross_entropy(
    logits: Float[Array, "*pixels k"],
    labels: Int[Array | np.ndarray, "*pixels"],
    log_weights: Float[Array, " k"] | None = None,
) -> Float[Array, ""]:
    """Mean cross entropy in which each pixel weighs as much as its class.

    Σ_i w(y_i)·ce_i / Σ_i w(y_i), so that a common factor of the weights changes nothing.

    Args:
        logits: The model's outputs.
        labels: Class numbers; below 0 for pixels without a value.
        log_weights: Natural logs of the classes' weights; all equal if `None`.

    Returns:
        A scalar.
    """
    weights = (labels >= 0).astype(logits.dtype)
    labels = jnp.maximum(labels, 0)
    if log_weights is not None:
        weights = weights * jnp.exp(log_weights)[labels]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(weights * losses) / jnp.maximum(jnp.sum(weights), 1e-12)


def soft_iou_loss(
    logits: Float[Array, "*pixels k"], labels: Int[Array | np.ndarray, "*pixels"]
) -> Float[Array, ""]:
    """1 - mean over classes of intersection over union, with probabilities for predictions.

    Args:
        logits: The model's outputs.
        labels: Class numbers; below 0 for pixels without a value.

    Returns:
        A scalar from 0 to 1.
    """
    known = (labels >= 0)[..., None]
    predicted = jnp.where(known, jax.nn.softmax(logits), 0)
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    pixels = tuple(range(labels.ndim))
    intersection = jnp.sum(predicted * true, pixels)
    union = jnp.sum(predicted + true, pixels) - intersection
    return 1 - jnp.mean(intersection / jnp.maximum(union, 1e-12))


def scores(
    logits: Float[Array, "*pixels k"],
    labels: Int[Array | np.ndarray, "*pixels"],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Precision, recall and intersection over union of each class, 0 where nothing is there.

    Args:
        logits: The model's outputs.
        labels: Class numbers; below 0 for pixels without a value.
        classes: Names of the classes.

    Returns:
        Scalars `mean_iou`, and `iou_*`, `precision_*` and `recall_*` for each class.
    """
    found = jnp.where(labels >= 0, jnp.argmax(logits, axis=-1), -1)
    share = lambda part, whole: part / jnp.maximum(whole, 1)
    result = {}
    for index, name in enumerate(classes):
        predicted, true = (jnp.sum(x == index).astype(jnp.float32) for x in (found, labels))
        both = jnp.sum((found == index) & (labels == index)).astype(jnp.float32)
        result[f"iou_{name}"] = share(both, predicted + true - both)
        result[f"precision_{name}"] = share(both, predicted)
        result[f"recall_{name}"] = share(both, true)
    mean = sum(result[f"iou_{name}"] for name in classes) / len(classes)
    return {"mean_iou": mean, **result}
