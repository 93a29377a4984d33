"""What a hypergradient costs on the MNIST MLP, over plain training, and the memory it asks for.

    python -m benchmarks.cost

Batch 50 and 500, momentum; times in turn within one run, memory from the compiled programs.
"""

import functools

import jax

import drmad_jax as dj
from benchmarks import mnist_mlp
from benchmarks.harness import measure, ratios, temporary_bytes, write_record

NUM_STEPS = 500
METHODS = {
    "drmad": dj.drmad(),
    "drmad, hessian": dj.drmad(curvature="hessian"),
    "drmad, 8 knots": dj.drmad(knots=8),
    "drmad, T/10 steps": dj.drmad(num_reverse_steps=NUM_STEPS // 10),
    "checkpointed": dj.checkpointed(),
    "stored": dj.stored(),
    "unrolled": dj.unrolled(),
}


def compiled(problem, method, num_steps, arguments, batch_size):
    hparams, params, data, validation = arguments
    compute = dj.hypergradient(problem, num_steps=num_steps, method=method)

    def call(hparams, params, data, validation, key):
        batches = dj.minibatches(data, batch_size, key)
        out = compute(hparams, params, batches, validation)
        return out.value, out.grad

    lowered = jax.jit(call).lower(hparams, params, data, validation, jax.random.key(0))
    return lowered.compile()


def plain_training(problem, num_steps, arguments, batch_size):
    hparams, params, data, validation = arguments
    train = dj.train(problem, num_steps=num_steps, method=dj.unrolled())

    def call(hparams, params, data, validation, key):
        batches = dj.minibatches(data, batch_size, key)
        final = train(hparams, params, batches)
        return problem.outer(final.params, hparams, validation, None)

    return jax.jit(call).lower(hparams, params, data, validation, jax.random.key(0)).compile()


def times(batch_size):
    problem, arguments = mnist_mlp.problem(), mnist_mlp.arguments()
    programs = {
        "plain training": plain_training(problem, NUM_STEPS, arguments, batch_size),
        **{
            name: compiled(problem, method, NUM_STEPS, arguments, batch_size)
            for name, method in METHODS.items()
        },
    }
    key = jax.random.key(1)
    seconds = measure(
        {name: functools.partial(f, *arguments, key) for name, f in programs.items()}, repeats=5
    )
    return {"seconds": seconds, "over plain training": ratios(seconds, "plain training")}


def memory():
    """MiB of temporary memory at two lengths of training."""
    problem, arguments = mnist_mlp.problem(), mnist_mlp.arguments()
    return {
        name: {
            num_steps: round(
                temporary_bytes(compiled(problem, method, num_steps, arguments, 50)) / 2**20, 2
            )
            for num_steps in (100, 1000, 10_000)
        }
        for name, method in METHODS.items()
        if "T/10" not in name
    }


def main() -> None:
    results = {f"batch {size}, {NUM_STEPS} steps": times(size) for size in (50, 500)}
    for name, row in results.items():
        print(name, row["over plain training"])
    results["temporary MiB, batch 50, by number of steps"] = memory()
    print(results["temporary MiB, batch 50, by number of steps"])
    print(write_record("cost", results))


if __name__ == "__main__":
    main()
