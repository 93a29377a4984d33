"""Where the time of a training step and of a reverse step goes.

    python -m benchmarks.breakdown

Each part is compiled by itself, as a loop, and all loops of a model are timed in turn. What the
parts do not explain of the whole is called the rest; below zero, XLA fused across parts.
"""

import statistics

import jax

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.cost_problems import SUBJECTS, Subject
from benchmarks.harness import compile_all, measure, write_record
from benchmarks.parts import forward_parts, reverse_parts, segment_parts
from benchmarks.runs import OPTIMIZERS, library_training, with_method

COUNT = 100
# Model, optimizer, batch, and the steps T of the training that the default goes back through.
CELLS = (
    ("mlp", "momentum", 50, 1000),
    ("mlp", "momentum", 500, 1000),
    ("mlp", "adam", 50, 1000),
    ("conv", "momentum", 50, 1000),
    ("transformer", "momentum", 50, 100),
)
TRAINING, RECORDED, DEFAULT = "training", "training that keeps the means", "drmad()"


def programs(subject: Subject, problem: dj.Problem, batch_size: int, num_steps: int) -> dict:
    """Everything that is timed for one model."""
    method = lineup.methods(num_steps)[lineup.DEFAULT]

    def whole(run):
        def call(given, data, key):
            return run(given, dj.minibatches(data, batch_size, key), subject.outer_batch)

        return call

    def recorded(given, batches, outer_batch):
        train = dj.train(problem, num_steps=num_steps, method=method)
        final = train(inner_batches=batches, **given)
        return problem.outer(final.params, given["hparams"], outer_batch, final.model_state)

    made = {
        **forward_parts(problem, batch_size, COUNT),
        **reverse_parts(problem, batch_size, COUNT),
        **segment_parts(problem, batch_size, method.steps),
        TRAINING: whole(library_training(problem, num_steps)),
        RECORDED: whole(recorded),
        DEFAULT: whole(with_method(problem, num_steps, method)),
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
    difference = lambda a, b: (
        1e6
        * statistics.median(
            [x - y for x, y in zip(seconds[a]["rounds_s"], seconds[b]["rounds_s"], strict=True)]
        )
    )
    batches = all_of("batches of all segments")
    parts = {
        "batch gather": batches,
        "curvature product": all_of("products of all segments, batches too") - batches,
    }
    return {
        **_with_rest(difference(DEFAULT, RECORDED), parts),
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
        subject = SUBJECTS[name]()
        problem = subject.problem(OPTIMIZERS[optimizer])
        made = programs(subject, problem, batch_size, num_steps)
        seconds = measure(made, repeats=9, budget_s=40)
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
