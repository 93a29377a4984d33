"""Where the time of a training step and of a reverse step goes.

    python -m benchmarks.breakdown

Each part is compiled by itself, as a loop, and all loops of a model are timed in turn. What the
parts do not explain of the whole is called the rest; below zero, XLA fused across parts.
"""

import statistics
from typing import Any

import jax

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.breakdown.parts import forward_parts, reverse_parts, segment_parts
from benchmarks.problems.random import SUBJECTS, Subject
from benchmarks.records import write_record
from benchmarks.timing import Program, compile_all, measure

COUNT = 100
# Model, optimizer, batch, and the steps T of the training that the default goes back through.
CELLS = (
    ("mlp", "momentum", 50, 1000),
    ("mlp", "momentum", 500, 1000),
    ("mlp", "adam", 50, 1000),
    ("conv", "momentum", 50, 1000),
    ("transformer", "momentum", 50, 100),
)
TRAINING, RECORDED = "training", "training that keeps the means"


def programs(
    subject: Subject, optimizer: str, batch_size: int, num_steps: int
) -> dict[str, Program]:
    """Everything that is timed for one model."""
    problem = subject.problem(lineup.OPTIMIZERS[optimizer])
    method: Any = lineup.method(lineup.DEFAULT, num_steps)

    def whole(run):
        def call(given, data, key):
            return run(given, dj.minibatches(data, batch_size, key), subject.outer_batch)

        return call

    named = lambda name: whole(lineup.run(name, subject.problem, optimizer, num_steps))
    keeping = dj.train(problem, num_steps=num_steps, method=method)
    made = {
        **forward_parts(problem, batch_size, COUNT),
        **reverse_parts(problem, batch_size, COUNT),
        **segment_parts(problem, batch_size, method.steps),
        TRAINING: named(lineup.LIBRARY),
        RECORDED: whole(lineup.then_outer_loss(problem, keeping)),
        lineup.DEFAULT: named(lineup.DEFAULT),
    }
    return compile_all(made, subject.given, subject.data, jax.random.key(1))


def shares(seconds: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Microseconds of each part of a step, the rest included, from medians over rounds."""
    each = lambda name: 1e6 * seconds[name]["median_s"] / COUNT
    batch = {
        "random indices": each("random indices"),
        "batch gather": each("batch") - each("random indices"),
    }
    found = {
        "training step": _with_rest(
            each("training step"),
            batch | {name: each(name) for name in ("gradient", "optimizer update")},
        )
    }
    for curvature in ("gauss_newton", "hessian"):
        parts = batch | {
            "curvature product": each(f"product, {curvature}"),
            "optimizer update": each("optimizer update, backwards"),
            "path": each("path"),
        }
        whole = each(f"reverse step, {curvature}")
        found[f"reverse step, {curvature}"] = _with_rest(whole, parts)
    found["way back of drmad(), all of it"] = _way_back(seconds)
    return found


def _way_back(seconds: dict[str, dict]) -> dict[str, float]:
    """The default's way back, whole and not per step, with the cost of its record beside it."""
    all_of = lambda name: 1e6 * seconds[name]["median_s"]

    def difference(a: str, b: str) -> float:
        rounds = zip(seconds[a]["rounds_s"], seconds[b]["rounds_s"], strict=True)
        return 1e6 * statistics.median(x - y for x, y in rounds)

    batches = all_of("batches of all segments")
    parts = {
        "batch gather": batches,
        "curvature product": all_of("products of all segments, batches too") - batches,
    }
    return {
        **_with_rest(difference(lineup.DEFAULT, RECORDED), parts),
        "record on the way there": round(difference(RECORDED, TRAINING), 1),
    }


def _with_rest(whole: float, parts: dict[str, float]) -> dict[str, float]:
    found = {"whole": whole, **parts, "rest": whole - sum(parts.values())}
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    results = {}
    for name, optimizer, batch_size, num_steps in CELLS:
        label = f"{name}, {optimizer}, batch {batch_size}"
        print(label, flush=True)
        made = programs(SUBJECTS[name](), optimizer, batch_size, num_steps)
        seconds = measure(made, budget_s=40)
        results[label] = {
            "steps of drmad()": num_steps,
            "microseconds": shares(seconds),
            "seconds": seconds,
        }
        for what, row in results[label]["microseconds"].items():
            print("   ", what, row, flush=True)
    print(write_record("breakdown", {"repetitions in a loop": COUNT, "cells": results}))


if __name__ == "__main__":
    main()
