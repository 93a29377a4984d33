"""How long each method's program takes to build, and how often it holds the model's forward pass.

    python -m benchmarks.programs [PART ...] [--methods NAME ...] [--rounds N] [--name R]

Nothing is run. Each program is traced, lowered and compiled by itself, one after another, with
neither JAX's caches nor those on disk. A loop's body counts once.

Copies: hyperbolic tangents in the program's text over those of one forward pass. Every copy of the
forward pass holds its own, and neither losses, optimizers nor derivatives add any. As lowered is
before XLA's optimisations; as compiled, fusions may have repeated or dropped some.
Products: matrix products as lowered, over those of one forward pass, with all of the derivatives'.

Takes public names of the package alone: with PYTHONPATH it measures another checkout.
"""

import re
import statistics
from collections.abc import Callable
from typing import Any

import jax

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.pages import Benchmark, Results, mib, table
from benchmarks.problems.random import SUBJECTS
from benchmarks.records import write_record
from benchmarks.timing import Program, compile_calls, options

BATCH_SIZE = 50
LOWERED, COMPILED, PRODUCTS = "copies as lowered", "copies as compiled", "products"
# Model, optimizer, and steps T.
CELLS = {
    "mlp, momentum": ("mlp", "momentum", 1000),
    "mlp, adam": ("mlp", "adam", 1000),
    "transformer, adam": ("transformer", "adam", 1000),
}
METHODS = (
    lineup.PLAIN, lineup.LIBRARY, *lineup.COST, "checkpointed, 10 levels", "forward",
)  # fmt: skip


def build(function: Callable, *arguments: Any) -> Program:
    """A program made from nothing."""
    jax.clear_caches()
    return compile_calls({"": (function, arguments)})[""]


def count(program: Program) -> dict[str, int]:
    """What the text of a program holds."""
    lowered, compiled = program.lowered.as_text(), program.compiled.as_text()
    return {
        LOWERED: lowered.count("stablehlo.tanh"),
        COMPILED: len(re.findall(r" tanh\(", compiled)),
        PRODUCTS: lowered.count("stablehlo.dot_general"),
    }


def describe(programs: list[Program], of_one: dict[str, int]) -> dict[str, Any]:
    """Figures of one method, medians over builds."""
    return {
        "lower_s": round(statistics.median(p.lower_s for p in programs), 2),
        "compile_s": round(statistics.median(p.compile_s for p in programs), 2),
        "n": len(programs),
        **{k: round(each / of_one[k], 2) for k, each in count(programs[0]).items()},
        "temporary_bytes": programs[0].temporary_bytes,
    }


def run_cell(cell: str, names: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Every method on one problem."""
    model, optimizer, num_steps = CELLS[cell]
    subject = SUBJECTS[model]()
    batches = dj.minibatches(subject.data, BATCH_SIZE, jax.random.key(1))
    problem = subject.problem(lineup.OPTIMIZERS["momentum"])
    hparams, params = subject.given["hparams"], subject.given["params"]
    # The outer loss is one forward pass.
    outer_loss = lambda batch: problem.outer(params, hparams, batch, None)
    of_one, found = count(build(outer_loss, subject.outer_batch)), {}
    for name in names:
        if name == lineup.REVERSIBLE and optimizer != "momentum":
            continue
        run = lineup.run(name, subject.problem, optimizer, num_steps)
        given = subject.given, batches, subject.outer_batch
        found[name] = describe([build(run, *given) for _ in range(rounds)], of_one)
        print(f"    {name:32s} {found[name]}", flush=True)
    return found


def main() -> None:
    asked = options("programs", CELLS, METHODS, rounds=1)
    jax.config.update("jax_enable_compilation_cache", False)
    results = {}
    for cell in asked.cells:
        print(cell, flush=True)
        results[cell] = run_cell(cell, list(asked.methods or METHODS), asked.rounds)
    print(write_record(asked.name, {"batch size": BATCH_SIZE, "cells": results}))


def _table(results: Results) -> str:
    """Seconds, copies and MiB of every method, a table for each problem."""
    head = (
        "method", "tracing and lowering, s", "compiling, s", LOWERED, COMPILED, PRODUCTS,
        "temporary MiB",
    )  # fmt: skip
    pieces = []
    for cell, found in results["cells"].items():
        lines = [
            (
                name, f"{row['lower_s']:.2f}", f"{row['compile_s']:.2f}",
                *(f"{row[key]:g}" for key in (LOWERED, COMPILED, PRODUCTS)),
                mib(row["temporary_bytes"]),
            )
            for name, row in found.items()
        ]  # fmt: skip
        pieces.append(f"**{cell}**\n\n{table(head, lines)}")
    return "\n".join(pieces)


BENCHMARK = Benchmark("programs", table=_table)

if __name__ == "__main__":
    main()
