"""What a run came to, and on what it ran."""

import datetime
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
from jaxtyping import PyTree

from drmad_jax.experiments.metrics import metric, of_model

# The status of a run that came to its end; that of any other says why it stopped.
COMPLETE = "complete"
_PACKAGES = ("drmad_jax", "jax", "jaxlib", "optax", "flax", "numpy")


def summarise(
    metrics: Sequence[dict[str, Any]], *, status: str, compile_seconds: float, hparams: PyTree
) -> dict[str, Any]:
    """The contents of `summary.json`.

    Args:
        metrics: The lines of `metrics.jsonl`.
        status: "complete", or why the run stopped.
        compile_seconds: Time the compiler took.
        hparams: The final hyperparameters.

    Returns:
        Nested plain values.
    """
    steps = [line for line in metrics if "hypergradient_norm" in line]
    seconds = sorted(line["seconds"] for line in steps)
    return {
        "status": status,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": device(),
        "compile_seconds": compile_seconds,
        "median_seconds_per_step": seconds[len(seconds) // 2] if seconds else None,
        "total_seconds_of_steps": sum(seconds),
        "num_outer_steps": len(steps),
        "num_hparams": sum(leaf.size for leaf in jax.tree.leaves(hparams)),
        **courses(metrics),
    }


def courses(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """First, last and best value of each metric of the trained model.

    Args:
        metrics: The lines of `metrics.jsonl`, at least one.

    Returns:
        By name of the metric; `best_step` beside them is the step of the best one.
    """
    return {name: _course(metrics, name) for name in of_model(metrics[0])}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def device() -> dict[str, Any]:
    """The kind of device that JAX runs on, how many there are, and the cores for this process."""
    device = jax.devices()[0]
    # Not every platform tells of a process.
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "machine": platform.machine(),
        "cores": os.cpu_count() if affinity is None else len(affinity(0)),
    }


def _course(metrics: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    lines = [line for line in metrics if line[name] is not None]
    sign = -1 if metric(name).more_is_better else 1
    best = min(lines, key=lambda line: sign * line[name], default={})
    return {
        "first": metrics[0][name],
        "last": metrics[-1][name],
        "best": best.get(name),
        "best_step": best.get("step"),
    }
