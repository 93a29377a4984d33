"""What a device of eight holds, and what it says to the others: compiled programs, nothing run.

    python -m benchmarks.on_devices [PART ...] [--methods NAME ...] [--name R]

A network of four matrices of 1024 x 1024 with Adam, batches of 64 examples, T = 2000, on eight
simulated devices and an explicit mesh. States: temporary bytes a device over those of weights and
optimizer state on one device. Words: bytes that the collectives of a program without loops (a
training step, a reverse step, a curvature product) leave on each device, over those of the weights.
"""

import collections
import contextlib
import math
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.pages import Benchmark, Results, mib, table
from benchmarks.programs import build
from benchmarks.records import write_record
from benchmarks.timing import options

WIDTH, LAYERS, ROWS, EXAMPLES, NUM_STEPS, NUM_DEVICES = 1024, 4, 64, 4096, 2000, 8
# Along which axis of the mesh members, weights and examples lie in parts.
CELLS = {
    "one device": (None, None, None),
    "examples in eight parts": (None, None, "devices"),
    "weights and examples in eight parts": (None, "devices", "devices"),
    "a population of eight, one a device": ("devices", None, None),
}
METHODS = (lineup.PLAIN, lineup.DEFAULT, lineup.CHECKPOINTED, lineup.STORED)
STEPS = "training step", "reverse step", "curvature product"
KINDS = "all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}


def predict(params: PyTree, h: PyTree, batch: PyTree) -> jax.Array:
    """Each matrix is put together where it is used, as fully sharded data parallelism does."""
    x = batch[0]
    for w in params:
        whole = jax.sharding.reshard(w, PartitionSpec()) if _on_mesh() else w
        x = jnp.tanh(x @ whole)
    return x


def _on_mesh() -> bool:
    return AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types


def problem() -> dj.Problem:
    """Squared error and a penalty."""
    fit = lambda w, h, batch: jnp.mean((predict(w, h, batch) - batch[1]) ** 2)
    penalty = lambda w, h: jnp.exp(h) * sum(jnp.sum(p**2) for p in w)
    inner = lambda w, h, batch: fit(w, h, batch) + penalty(w, h)
    return dj.Problem(inner, fit, optax.adam(1e-3, eps_root=1e-8))


def run_cell(cell: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Every method, and single steps, with everything where the cell says."""
    of_members, of_weights, of_examples = CELLS[cell]
    mesh = jax.make_mesh((NUM_DEVICES,), ("devices",), axis_types=(AxisType.Explicit,))

    def placed(axis, *shape):
        if cell == "one device":
            return jax.ShapeDtypeStruct(shape, jnp.float32)
        spec = PartitionSpec(axis) if shape else PartitionSpec()
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    count = (NUM_DEVICES,) if of_members else ()
    rows = lambda n: (placed(of_examples, n, WIDTH), placed(of_examples, n, WIDTH))
    h = placed(of_members, *count)
    params = [placed(of_weights, WIDTH, WIDTH)] * LAYERS
    over = lambda f: jax.vmap(f, (0, None, None, None)) if of_members else f
    found: dict[str, Any] = {"methods": {}, "steps": {}}
    with contextlib.nullcontext() if cell == "one device" else jax.set_mesh(mesh):
        for name in names:
            program = build(over(_whole(name)), h, params, rows(EXAMPLES), rows(ROWS))
            row: dict[str, Any] = {"temporary_bytes": program.temporary_bytes}
            row["kinds"] = sorted(words(program.compiled.as_text()))
            found["methods"][name] = row
            print(f"    {name:24s} {row}", flush=True)
        for name in () if of_members or cell == "one device" else STEPS:
            text = build(_STEPS[name], h, params, rows(ROWS)).compiled.as_text()
            found["steps"][name] = words(text)
            print(f"    {name:24s} {found['steps'][name]}", flush=True)
    return found


def _whole(name: str) -> Callable:
    run = lineup.run_of(problem(), name, NUM_STEPS)

    def call(h, params, data, outer_batch):
        batches = dj.minibatches(data, ROWS, jax.random.key(0))
        return run({"hparams": h, "params": params}, batches, outer_batch)

    return call


def _train_step(h, params, batch):
    return dj.train_step(problem(), dj.init_state(problem(), h, params), h, batch)[0]


def _reverse_step(h, params, batch):
    state = dj.init_state(problem(), h, params)
    cotangent = dj.init_cotangent(state, h, params=params)
    return dj.reverse_step(problem(), state, h, batch, cotangent)[0]


def _product(h, params, batch):
    return dj.curvature_product(problem(), "hessian", params, h, batch, params)


_STEPS = dict(zip(STEPS, (_train_step, _reverse_step, _product), strict=True))


def words(text: str) -> dict[str, float]:
    """Of each kind of collective in a program's text, what it leaves on a device, in weights."""
    found: dict[str, float] = collections.defaultdict(float)
    for shapes, kind in re.findall(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(", text):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size = math.prod(int(n) for n in shape.split(",") if n)
            found[kind] += _BYTES[dtype] * size / (4 * LAYERS * WIDTH**2)
    return {kind: round(each, 3) for kind, each in found.items()}


def main() -> None:
    asked = options("on_devices", CELLS, METHODS, rounds=1)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={NUM_DEVICES}"
    jax.config.update("jax_enable_compilation_cache", False)
    results = {"state_bytes": 3 * 4 * LAYERS * WIDTH**2, "cells": {}}
    for cell in asked.cells:
        print(cell, flush=True)
        results["cells"][cell] = run_cell(cell, tuple(asked.methods or METHODS))
    print(write_record(asked.name, results))


def _table(results: Results) -> str:
    """A device's memory, then what single steps say."""
    return f"{memory_table(results)}\n{steps_table(results)}"


def memory_table(results: Results) -> str:
    """A device's memory, and which collectives there are."""
    head = "where things lie", "method", "temporary MiB a device", "states", "collectives"
    lines, state = [], results["state_bytes"]
    for cell, found in results["cells"].items():
        for name, row in found["methods"].items():
            size, kinds = row["temporary_bytes"], ", ".join(row["kinds"]) or "none"
            lines.append((cell, name, mib(size), f"{size / state:.2f}", kinds))
    return table(head, lines)


def steps_table(results: Results) -> str:
    """What single steps say, in weights."""
    head = "where things lie", "program", "bytes left on each device, in copies of the weights"
    lines = [
        (cell, name, ", ".join(f"{kind} {size:g}" for kind, size in said.items()) or "none")
        for cell, found in results["cells"].items()
        for name, said in found["steps"].items()
    ]
    return table(head, lines)


TABLES = {"devices": memory_table, "words": steps_table}
BENCHMARK = Benchmark("on_devices", table=_table)

if __name__ == "__main__":
    main()
