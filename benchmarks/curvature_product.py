"""Which form of the curvature product is the cheapest?

    python -m benchmarks.curvature_product

Every form returns Hv and the mixed term of the MNIST MLP, 200 times in one scan, each time on a
fresh minibatch and on the vector that the last product gave. The ratio is over as many plain
gradients in the same run.
"""

import functools

import jax
import jax.numpy as jnp
import optax

import drmad_jax as dj
from benchmarks.pages import Benchmark, Claim, Results, Verdict
from benchmarks.problems import mlp
from benchmarks.records import write_record
from benchmarks.timing import measure, ratios

PRODUCTS = 200
HESSIAN, GAUSS_NEWTON = "forward over reverse (library, hessian)", "library, gauss_newton"


def forms(problem):
    """Name to `(params, hparams, batch, vector) -> (product, mixed)`."""
    loss = problem.inner_loss

    def reverse_over_reverse(w, h, batch, v):
        slope = lambda w, h: optax.tree_utils.tree_vdot(jax.grad(loss)(w, h, batch), v)
        return jax.grad(slope, argnums=(0, 1))(w, h)

    def reverse_over_forward(w, h, batch, v):
        slope = lambda w, h: jax.jvp(lambda w: loss(w, h, batch), (w,), (v,))[1]
        return jax.grad(slope, argnums=(0, 1))(w, h)

    def library(curvature):
        return lambda w, h, batch, v: dj.curvature_product(problem, curvature, w, h, batch, v)

    return {
        "reverse over reverse": reverse_over_reverse,
        "reverse over forward": reverse_over_forward,
        HESSIAN: library("hessian"),
        GAUSS_NEWTON: library("gauss_newton"),
    }


def chain_of_products(product, batches):
    def call(hparams, params):
        def body(carry, t):
            vector, total = carry
            curved, mixed = product(params, hparams, batches(t), vector)
            vector = jax.tree.map(lambda v, c: v - 1e-3 * c, vector, curved)
            return (vector, jax.tree.map(jnp.add, total, mixed)), None

        start = (params, jax.tree.map(jnp.zeros_like, hparams))
        return jax.lax.scan(body, start, jnp.arange(PRODUCTS))[0]

    return jax.jit(call)


def main() -> None:
    problem = mlp.problem()
    hparams, params, data, _ = mlp.arguments()
    gradient = lambda w, h, batch, v: (jax.grad(problem.inner_loss)(v, h, batch), h)
    results = {}
    for batch_size in (50, 500):
        batches = dj.minibatches(data, batch_size, jax.random.key(1))
        calls = {
            name: functools.partial(chain_of_products(product, batches), hparams, params)
            for name, product in {"gradient": gradient, **forms(problem)}.items()
        }
        times = measure(calls)
        results[f"batch {batch_size}"] = {
            "seconds": times,
            "over a gradient": ratios(times, "gradient"),
        }
        print(batch_size, results[f"batch {batch_size}"]["over a gradient"])
    print(write_record("curvature_product", {"products": PRODUCTS, **results}))


def _at_most_two(results: Results) -> Verdict:
    figures, medians = [], []
    for batch, row in results.items():
        for short, name in (("Gauss-Newton", GAUSS_NEWTON), ("Hessian", HESSIAN)):
            if batch != "products":
                medians.append(row["over a gradient"][name]["median"])
                figures.append(f"{batch}: {short} {medians[-1]:.2f}")
    return Verdict("; ".join(figures), max(medians) <= 2)


BENCHMARK = Benchmark(
    "curvature_product",
    claims=(Claim("A curvature product costs at most two gradients", _at_most_two),),
)

if __name__ == "__main__":
    main()
