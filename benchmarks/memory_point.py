"""One point of `benchmarks.memory`, in a process of its own.

    python -m benchmarks.memory_point JSON

Prints the compiled program's bytes, and then, if it is to run, the same with the peak.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import drmad_jax as dj
from benchmarks import lineup, mnist_mlp
from benchmarks.harness import compile_all
from benchmarks.runs import OPTIMIZERS, plain_training, with_method

MEMORY_LIMIT = 4 * 2**30
STATUS = Path("/proc/self/status")


def program(point: dict[str, Any]):
    """The compiled hypergradient of the MLP with the given layers, and the number of weights."""
    hparams, params, data, outer_batch = _arguments(tuple(point["layers"]))
    label, num_steps = point["label"], point["num_steps"]
    optimizer = OPTIMIZERS["reversible momentum" if label == lineup.REVERSIBLE else "momentum"]
    problem = mnist_mlp.problem(optimizer)
    if label == lineup.PLAIN:
        run = plain_training(problem, num_steps)
    else:
        run = with_method(problem, num_steps, (lineup.methods(num_steps) | lineup.further())[label])

    def call(hparams, params, data, outer_batch, key):
        batches = dj.minibatches(data, point["batch_size"], key)
        return run({"hparams": hparams, "params": params, "key": key}, batches, outer_batch)

    given = hparams, params, data, outer_batch, jax.random.key(1)
    made = compile_all({"call": call}, *given)["call"]
    return made, sum(leaf.size for leaf in jax.tree.leaves(params))


def _arguments(layers: tuple[int, ...]):
    """What `mnist_mlp.arguments` returns, drawn without compiling anything."""
    shapes = jax.eval_shape(lambda: mnist_mlp.arguments(2000, layers=layers))
    draw = np.random.default_rng(0)
    scaled = lambda s: jnp.asarray(0.03 * draw.standard_normal(s.shape), s.dtype)
    return jax.tree.map(scaled, shapes)


def peak_growth(call) -> int | None:
    """Bytes by which running it raises the memory in use, at most at any time."""
    device = jax.devices()[0]
    stats = device.memory_stats()
    if stats:
        # The peak counts from the start of the process; nothing before was as large.
        before = stats["bytes_in_use"]
        jax.block_until_ready(call())
        return device.memory_stats()["peak_bytes_in_use"] - before
    if not STATUS.exists():
        return None
    gc.collect()
    # What compiling has freed would be taken again without a trace.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    jax.block_until_ready(call())
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    return 1024 * int(line.split()[1])


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
