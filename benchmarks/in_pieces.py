"""What the functions of a run in pieces ask for, in training states, without running any.

    python -m benchmarks.in_pieces [PART ...] [--name R]

`drmad()` on the model of `benchmarks.scale`, T = 2000, as `in_chunks` compiles it: what travels is
donated to each. The whole hypergradient in one program stands in
the record of `benchmarks.scale`, without its arguments.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp

import drmad_jax as dj
from benchmarks.pages import Benchmark, Results, table
from benchmarks.records import write_record
from benchmarks.scale import SIZES, gib, total_bytes
from benchmarks.timing import options

NUM_STEPS = 2000
CELLS = {name: name for name in SIZES}


def run_cell(cell: str) -> dict[str, Any]:
    """Bytes of each function: what comes in, temporary, and all together at its peak."""
    model = SIZES[cell]
    problem, hparams, params = model.problem(), model.hparams(), model.params()
    batches, judged, count = (
        model.batch(NUM_STEPS),
        model.batch(),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    pieces = dj.in_pieces(problem, num_steps=NUM_STEPS)(hparams, params, batches, judged)
    tape = jax.eval_shape(pieces.start, hparams, params)
    back = jax.eval_shape(pieces.turn, tape, hparams, batches, judged)
    calls = {
        "advance": (jax.jit(pieces.advance, donate_argnums=0), (tape, hparams, batches, count)),
        "turn": (jax.jit(pieces.turn, donate_argnums=0), (tape, hparams, batches, judged)),
        "retreat": (jax.jit(pieces.retreat, donate_argnums=0), (back, hparams, batches, count)),
    }
    found = {}
    for name, (function, arguments) in calls.items():
        size = function.lower(*arguments).compile().memory_analysis()
        new = size.temp_size_in_bytes + size.output_size_in_bytes - size.alias_size_in_bytes
        found[name] = {
            "travels": total_bytes(arguments[0]),
            "all_bytes": size.argument_size_in_bytes + new,
        }
        print(f"    {name:10s} {found[name]}", flush=True)
    state = jax.eval_shape(lambda h, p: dj.init_state(problem, h, p), hparams, params)
    return {"state_bytes": total_bytes(state), "functions": found}


def main() -> None:
    asked = options("in_pieces", CELLS, (), rounds=1)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0"
    jax.config.update("jax_enable_compilation_cache", False)
    print(write_record(asked.name, {"cells": {cell: run_cell(cell) for cell in asked.cells}}))


def pieces_table(results: Results) -> str:
    """What travels, and all that a function asks for, in GiB and in states."""
    head = "model", "function", "what travels, GiB", "states", "at its peak, GiB", "states"
    lines = []
    for cell, found in results["cells"].items():
        for name, row in found["functions"].items():
            both = row["travels"], row["all_bytes"]
            said = [x for size in both for x in (gib(size), f"{size / found['state_bytes']:.1f}")]
            lines.append((cell, name, *said))
    return table(head, lines)


TABLES = {"pieces": pieces_table}
BENCHMARK = Benchmark("in_pieces", table=pieces_table)

if __name__ == "__main__":
    main()
