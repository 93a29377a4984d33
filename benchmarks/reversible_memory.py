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
from benchmarks import lineup
from benchmarks.pages import Benchmark, Claim, Results, Verdict
from benchmarks.problems import mlp
from benchmarks.records import write_record
from benchmarks.timing import compile_all, measure, ratios
from drmad_jax.fixed_point.buffer import empty_buffer, multiply, to_ratio
from drmad_jax.fixed_point.numbers import Fixed

BUFFER_STEPS = 20_000
NUM_STEPS = 1000
BITS, THEORY = "bits per weight and step", "log2(1/momentum)"


def bits_per_step(momentum):
    """Bits that the buffer holds at the end, per weight and step."""
    ratio, _ = to_ratio(jnp.float32(momentum))
    number = Fixed(*jax.random.bits(jax.random.key(0), (2, 100)))
    buffer = empty_buffer((100,), BUFFER_STEPS)
    step = lambda _, carry: multiply(carry[0], carry[1], ratio)
    _, buffer = jax.jit(lambda carry: jax.lax.fori_loop(0, BUFFER_STEPS, step, carry))(
        (number, buffer)
    )
    return (16 * int(buffer.height) + int(buffer.level) / 2**20) / BUFFER_STEPS


def programs():
    """Compiled hypergradients of the MNIST MLP, all under the rule in fixed point."""
    problem = mlp.problem(lineup.OPTIMIZERS["reversible momentum"])
    methods = lineup.methods((lineup.REVERSIBLE, lineup.STORED, lineup.CHECKPOINTED), NUM_STEPS)
    compute = functools.partial(dj.hypergradient, problem, num_steps=NUM_STEPS)
    hparams, params, data, outer_batch = mlp.arguments()
    given = hparams, params, dj.minibatches(data, 50, jax.random.key(1)), outer_batch
    return compile_all({name: compute(method=each) for name, each in methods.items()}, *given)


def main() -> None:
    results: dict = {"steps of the buffer": BUFFER_STEPS, "steps of the MLP": NUM_STEPS}
    results[BITS] = {
        momentum: {
            "measured": round(bits_per_step(momentum), 5),
            THEORY: round(math.log2(1 / momentum), 5),
        }
        for momentum in (0.5, 0.9, 0.98)
    }
    made = programs()
    results["temporary bytes"] = {name: made[name].temporary_bytes for name in made}
    outs = {name: program() for name, program in made.items()}
    results["reversed to the bit"] = bool(outs[lineup.REVERSIBLE].info.finite)
    flat = {name: ravel_pytree(out.grad)[0] for name, out in outs.items()}
    exact = flat[lineup.STORED]
    error = jnp.linalg.norm(flat[lineup.REVERSIBLE] - exact)
    results["distance from stored"] = float(error / jnp.linalg.norm(exact))
    times = measure(made, repeats=5)
    results["seconds"], results["over stored"] = times, ratios(times, lineup.STORED)
    print(results)
    print(write_record("reversible_memory", results))


def _near_theory(results: Results) -> Verdict:
    rows = results[BITS]
    over = {g: row["measured"] / row[THEORY] for g, row in rows.items()}
    figure = "; ".join(f"γ = {g}: {rows[g]['measured']:.5f}, {over[g] - 1:+.2%}" for g in rows)
    return Verdict(figure, max(over.values()) <= 1.01)


def _headline(results: Results) -> str:
    row = results[BITS]["0.9"]
    return f"{row['measured']:.5f} (theory {row[THEORY]:.5f})"


BENCHMARK = Benchmark(
    "reversible_memory",
    claims=(
        Claim("`reversible` keeps log₂(1/γ) bits per weight and step, within 1%", _near_theory),
    ),
    headline=("`reversible`: bits per weight and step at γ = .9", _headline),
)

if __name__ == "__main__":
    main()
