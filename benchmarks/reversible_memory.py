"""What does bit-exact reversal cost in memory and time?

    python -m benchmarks.reversible_memory

Bits: rows of the information buffer that are in use at the end of 20,000 steps on 100 weights, per
weight and step, against log2(1/momentum). Bytes: temporary memory of the compiled hypergradient of
the MNIST MLP at T = 1000 (45,360 weights, batch 50, float32), as XLA reports it. Seconds: the same
call, medians of calls in turn.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import drmad_jax as dj
from benchmarks import mnist_mlp
from benchmarks.harness import measure, ratios, temporary_bytes, write_record
from drmad_jax.fixed_point.buffer import empty_buffer, multiply, to_ratio
from drmad_jax.fixed_point.numbers import Fixed
from drmad_jax.fixed_point.sgd import reversible_sgd
from drmad_jax.methods.reversible import reversible

BUFFER_STEPS = 20_000
NUM_STEPS = 1000
METHODS = {
    "reversible": reversible(),
    "stored": dj.stored(),
    "checkpointed": dj.checkpointed(),
}


def bits_per_step(momentum):
    """Bits that the buffer holds at the end, per weight and step."""
    ratio, _ = to_ratio(jnp.float32(momentum))
    number = Fixed(*jax.random.bits(jax.random.key(0), (2, 100)))
    buffer = empty_buffer((100,), BUFFER_STEPS)
    step = lambda _, carry: multiply(*carry, ratio)
    _, buffer = jax.jit(lambda carry: jax.lax.fori_loop(0, BUFFER_STEPS, step, carry))(
        (number, buffer)
    )
    return (16 * int(buffer.height) + int(buffer.level) / 2**20) / BUFFER_STEPS


def mnist_calls():
    """Method to a compiled hypergradient of the MNIST MLP and its arguments."""
    problem = mnist_mlp.problem(reversible_sgd(0.0025, 0.95))
    hparams, params, data, outer_batch = mnist_mlp.arguments()

    def call(method, hparams, params, data, outer_batch):
        compute = dj.hypergradient(problem, num_steps=NUM_STEPS, method=method)
        return compute(hparams, params, dj.minibatches(data, 50, jax.random.key(1)), outer_batch)

    given = hparams, params, data, outer_batch
    return {
        name: (jax.jit(functools.partial(call, method)).lower(*given).compile(), given)
        for name, method in METHODS.items()
    }


def main() -> None:
    results: dict = {"steps of the buffer": BUFFER_STEPS, "steps of the MLP": NUM_STEPS}
    results["bits per weight and step"] = {
        momentum: {
            "measured": round(bits_per_step(momentum), 5),
            "log2(1/momentum)": round(math.log2(1 / momentum), 5),
        }
        for momentum in (0.5, 0.9, 0.98)
    }
    calls = mnist_calls()
    results["temporary bytes"] = {name: temporary_bytes(call) for name, (call, _) in calls.items()}
    outs = {name: call(*given) for name, (call, given) in calls.items()}
    results["reversed to the bit"] = bool(outs["reversible"].info.finite)
    exact, _ = ravel_pytree(outs["stored"].grad)
    error = jnp.linalg.norm(ravel_pytree(outs["reversible"].grad)[0] - exact)
    results["distance from stored"] = float(error / jnp.linalg.norm(exact))
    times = measure(
        {name: functools.partial(call, *given) for name, (call, given) in calls.items()}, repeats=5
    )
    results["seconds"], results["over stored"] = times, ratios(times, "stored")
    print(results)
    print(write_record("reversible_memory", results))


if __name__ == "__main__":
    main()
