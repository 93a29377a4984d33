"""One point of `benchmarks.memory`, in a process of its own.

    python -m benchmarks.memory.point JSON

Prints the compiled program's bytes, and then, if it is to run, the same with the peak.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import drmad_jax as dj
from benchmarks import lineup, resident
from benchmarks.problems import mlp
from benchmarks.timing import Program, compile_all

MEMORY_LIMIT = 4 * 2**30


def program(point: dict[str, Any]) -> tuple[Program, int]:
    """The compiled hypergradient of the MLP with the given layers, and the number of weights."""
    hparams, params, data, outer_batch = _arguments(tuple(point["layers"]))
    run = lineup.run(point["label"], mlp.problem, "momentum", point["num_steps"])
    key = jax.random.key(1)
    given = {"hparams": hparams, "params": params, "key": key}
    batches = dj.minibatches(data, point["batch_size"], key)
    made = compile_all({"call": run}, given, batches, outer_batch)["call"]
    return made, sum(leaf.size for leaf in jax.tree.leaves(params))


def _arguments(layers: tuple[int, ...]):
    """What `mlp.arguments` returns, drawn without compiling anything."""
    shapes = jax.eval_shape(lambda: mlp.arguments(2000, layers=layers))
    draw = np.random.default_rng(0)
    scaled = lambda s: jnp.asarray(0.03 * draw.standard_normal(s.shape), s.dtype)
    return jax.tree.map(scaled, shapes)


def peak_growth(call: Callable[[], Any]) -> int | None:
    """Bytes by which running it raises the memory in use, at most at any time."""
    device = jax.devices()[0]
    stats = device.memory_stats()
    if stats:
        # The peak counts from the start of the process; nothing before was as large.
        jax.block_until_ready(call())
        return device.memory_stats()["peak_bytes_in_use"] - stats["bytes_in_use"]
    if not resident.KNOWN:
        return None
    resident.release()
    return resident.growth(lambda: jax.block_until_ready(call()))[1]


def main(given: str) -> None:
    point = json.loads(given)
    made, weights = program(point)
    found = {
        "weights": weights,
        "temporary_bytes": made.temporary_bytes,
        "argument_bytes": made.compiled.memory_analysis().argument_size_in_bytes,
    }
    print(json.dumps(found), flush=True)
    if point["run"] and made.temporary_bytes <= MEMORY_LIMIT:
        print(json.dumps(found | {"peak_bytes": peak_growth(made)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
