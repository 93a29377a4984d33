"""What programs of large models ask for, in training states, without running any.

    python -m benchmarks.scale [PART ...] [--methods NAME ...] [--rounds N] [--name R]

A decoder-only transformer (`problems/decoder.py`) with Adam, batches of 4 x 256 tokens. Each
program is traced, lowered and compiled from shapes alone, by itself, without any cache. The code
generator's own optimisations are off: they take long, and leave the plan of the memory alone.

States: temporary bytes over those of weights and optimizer state. Vectors: over those of weights.
Copies and products: as in `benchmarks.programs`. Beside them, what one gradient of the inner loss
and one curvature product ask for, their results left out: the activations that laws speak of.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.laws import LAWS, Size
from benchmarks.pages import Benchmark, Results, mib, table
from benchmarks.problems.decoder import Decoder
from benchmarks.programs import COMPILED, LOWERED, PRODUCTS, build, count, describe
from benchmarks.records import write_record
from benchmarks.timing import options

STATES, VECTORS = "states", "vectors"
MOMENTUM = 0.9  # of `reversible`
SIZES = {
    "10 M weights": Decoder(width=320, layers=6, vocabulary=8192),
    "100 M weights": Decoder(width=768, layers=12, vocabulary=16384),
    "1 B weights": Decoder(width=2048, layers=19, vocabulary=16384),
}
FEW_STATES, SEGMENTS = "checkpointed, 10 states", "its segments alone"
LENGTHS = (lineup.PLAIN, lineup.DEFAULT, lineup.CHECKPOINTED, FEW_STATES)
METHODS = (
    *LENGTHS, SEGMENTS, lineup.STORED, "forward", lineup.REVERSIBLE, "implicit",
)  # fmt: skip
# Size, number of steps, methods.
CELLS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    f"{size}, T = 2000": (size, 2000, METHODS) for size in SIZES
}
CELLS["100 M weights, T = 8000"] = ("100 M weights", 8000, LENGTHS)


def total_bytes(tree: Any) -> int:
    """Of all arrays of a pytree, or of what has their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def run_cell(cell: str, names: tuple[str, ...] | None, rounds: int) -> dict[str, Any]:
    """Every method at one size and one number of steps."""
    size, num_steps, own_names = CELLS[cell]
    model = SIZES[size]
    problem, params = model.problem(), model.params()
    given = {"hparams": model.hparams(), "params": params}
    state = jax.eval_shape(lambda h, p: dj.init_state(problem, h, p), *given.values())
    of_weights, of_state = total_bytes(params), total_bytes(state)
    outer_loss = lambda given, batch: problem.outer(given["params"], given["hparams"], batch, None)
    of_one, found = count(build(outer_loss, given, model.batch())), {}
    for name in names or own_names:
        chosen, own = _fitting(name, problem, given)
        program = _of_stacked(lineup.run_of(chosen, name, num_steps))
        arguments = own, model.batch(num_steps), model.batch()
        row = describe([build(program, *arguments) for _ in range(rounds)], of_one)
        row[STATES] = round(row["temporary_bytes"] / of_state, 2)
        row[VECTORS] = round(row["temporary_bytes"] / of_weights, 2)
        found[name] = row
        print(f"    {name:32s} {row}", flush=True)
    return {
        "weights": of_weights // 4,
        "state_bytes": of_state,
        **_of_one_batch(problem, given, model.batch()),
        "methods": found,
    }


def _of_one_batch(problem: dj.Problem, given: dict[str, Any], batch: PyTree) -> dict[str, int]:
    """Temporary bytes of one gradient and of one curvature product."""
    inner = lambda params, h, batch: problem.inner(params, h, batch, None, None)[0]
    gradient = jax.grad(inner)

    def product(given, vector, batch):
        at = lambda params: gradient(params, given["hparams"], batch)
        return jax.jvp(at, (given["params"],), (vector,))[1]

    of_gradient = lambda given, batch: gradient(given["params"], given["hparams"], batch)
    return {
        "gradient_bytes": build(of_gradient, given, batch).temporary_bytes,
        "product_bytes": build(product, given, given["params"], batch).temporary_bytes,
    }


def _fitting(name: str, problem: dj.Problem, given: dict[str, Any]) -> tuple[dj.Problem, Any]:
    """The problem as the method takes it: another optimizer, or penalties alone."""
    with_optimizer = lambda optimizer: dataclasses.replace(problem, optimizer=optimizer)
    if name == lineup.REVERSIBLE:
        by = lambda h: dj.reversible_sgd(jnp.exp(h["log_lr"]), MOMENTUM)
        return with_optimizer(by), given
    if name == "implicit":
        penalties = {"log_decay": given["hparams"]["log_decay"]}
        return with_optimizer(lineup.OPTIMIZERS["adam"]), given | {"hparams": penalties}
    return problem, given


def _of_stacked(run: lineup.Run) -> lineup.Run:
    """The same with all batches as one array."""

    def stacked(given, tokens, outer_batch):
        return run(given, lambda t: jax.tree.map(lambda x: x[t], tokens), outer_batch)

    return stacked


def main() -> None:
    asked = options("scale", CELLS, METHODS, rounds=1)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0"
    jax.config.update("jax_enable_compilation_cache", False)
    results = {}
    for cell in asked.cells:
        print(cell, flush=True)
        results[cell] = run_cell(cell, asked.methods, asked.rounds)
    print(write_record(asked.name, {"cells": results}))


def _table(results: Results) -> str:
    """Memory, copies and seconds of every method, a table for each size and number of steps."""
    head = (
        "method", "temporary MiB", STATES, VECTORS, LOWERED, COMPILED, PRODUCTS,
        "tracing and lowering, s", "compiling, s",
    )  # fmt: skip
    pieces = []
    for cell, found in results["cells"].items():
        lines = [
            (
                name, mib(row["temporary_bytes"]),
                *(f"{row[key]:g}" for key in (STATES, VECTORS, LOWERED, COMPILED, PRODUCTS)),
                f"{row['lower_s']:.2f}", f"{row['compile_s']:.2f}",
            )
            for name, row in found["methods"].items()
        ]  # fmt: skip
        of_state = f"one state {mib(found['state_bytes'])} MiB"
        pieces.append(f"**{cell}**, {of_state}\n\n{table(head, lines)}")
    return "\n".join(pieces)


def laws_table(results: Results) -> str:
    """Compiled bytes in GiB, and by how much the law of each method is off."""
    cells = results["cells"]
    head = ("method", *cells)
    names = dict.fromkeys(name for found in cells.values() for name in found["methods"])
    lines = [(name, *(_beside_law(name, cell, results) for cell in cells)) for name in names]
    sizes = ("one state", *(gib(found["state_bytes"]) for found in cells.values()))
    return table(head, [sizes, *lines])


def _beside_law(name: str, cell: str, results: Results) -> str:
    row = results["cells"][cell]["methods"].get(name)
    if row is None:
        return "–"
    return f"{gib(row['temporary_bytes'])} ({round(100 * off(name, cell, results)):+d}%)"


def off(name: str, cell: str, results: Results) -> float:
    """By which part of the compiled bytes the law of a method is off."""
    found = results["cells"][cell]
    size = Size(
        state=found["state_bytes"],
        weights=4 * found["weights"],
        gradient=found["gradient_bytes"],
        product=found["product_bytes"],
        num_steps=CELLS[cell][1],
        num_hparams=1 + len(SIZES[CELLS[cell][0]].params()),
    )
    return LAWS[name](size) / found["methods"][name]["temporary_bytes"] - 1


def gib(count: int) -> str:
    """Bytes as GiB."""
    return f"{count / 2**30:,.3g}" if count < 1000 * 2**30 else f"{count / 2**30:,.0f}"


def batch_table(results: Results) -> str:
    """What one gradient and one curvature product ask for."""
    cells = {CELLS[cell][0]: found for cell, found in results["cells"].items()}
    head = ("temporary GiB of", *cells)
    kinds = {"weights": "the weights", "gradient_bytes": "one gradient, G"}
    kinds["product_bytes"] = "one curvature product, P"
    size = lambda found, key: found[key] * (4 if key == "weights" else 1)
    lines = [
        (said, *(gib(size(found, key)) for found in cells.values())) for key, said in kinds.items()
    ]
    return table(head, lines)


TABLES = {"laws": laws_table, "batch": batch_table}
BENCHMARK = Benchmark("scale", table=_table)

if __name__ == "__main__":
    main()
