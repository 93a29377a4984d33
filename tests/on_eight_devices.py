"""Every method on an explicit and an automatic mesh of eight devices beside one device.

Run by `test_devices.py`, since the number of devices is fixed when JAX starts. Prints, as JSON, the
relative error of each.
"""

import json
import os
import sys
import warnings

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import drmad_jax as dj
import problems

NUM_STEPS = 24
SGD, ADAM = optax.sgd(0.1, momentum=0.5), optax.adam(0.1, eps_root=1e-8)
SEGMENTS = dj.segments(3, num_products=3, num_batches=2)
KEY = jax.random.key(0)
METHODS = {
    "drmad, segments": (dj.drmad(steps=SEGMENTS, exact_end=4), ADAM),
    "drmad, knots": (dj.drmad(knots=5, curvature="hessian"), ADAM),
    "checkpointed": (dj.checkpointed(levels=3), ADAM),
    "stored": (dj.stored(), SGD),
    "truncated": (dj.truncated(num_reverse_steps=5), SGD),
    "frozen": (dj.truncated(num_reverse_steps=5, frozen=True), SGD),
    "forward": (dj.forward(), SGD),
    "evolution_strategies": (dj.evolution_strategies(num_pairs=2, sigma=0.1, key=KEY), SGD),
    "implicit": (dj.implicit(), SGD),
    "neumann": (dj.implicit(solver="neumann", key=KEY), SGD),
    "nystrom": (dj.implicit(solver=dj.nystrom(rank=3), key=KEY), SGD),
    "reversible": (dj.reversible(), dj.reversible_sgd(0.1, 0.9)),
}


def model(w, x):
    """Weights gathered to be used, as in fully sharded data parallelism."""
    mesh = jax.sharding.get_abstract_mesh()
    explicit = AxisType.Explicit in mesh.axis_types
    w = jax.tree.map(lambda x: jax.sharding.reshard(x, PartitionSpec()), w) if explicit else w
    return jnp.tanh(x @ w["a"]) @ w["b"]


def fit(w, h, batch):
    return jnp.mean((model(w, batch[0]) - batch[1]) ** 2)


def inner(w, h, batch):
    return fit(w, h, batch) + jnp.exp(h) * sum(jnp.sum(x**2) for x in jax.tree.leaves(w))


def placed(mesh, h, weights, batches, judged):
    """Weights and examples in eight parts."""

    def put(tree, *spec):
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*spec)))

    return put(h), put(weights, "fsdp"), put(batches, None, "fsdp"), put(judged, "fsdp")


def main(names):
    keys = iter(jax.random.split(KEY, 8))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    weights = {"a": normal(16, 8) / 4, "b": normal(8, 8) / 3}
    batches = normal(NUM_STEPS, 16, 16), normal(NUM_STEPS, 16, 8)
    judged = normal(16, 16), normal(16, 8)
    h = jnp.asarray(-4.0)

    def call(name, *given):
        method, optimizer = METHODS[name]
        compute = dj.hypergradient(
            dj.Problem(inner, fit, optimizer), num_steps=NUM_STEPS, method=method
        )
        out = jax.jit(compute)(*given)
        return jax.device_get((out.value, out.grad, out.params))

    error = lambda pair: problems.relative_error(*pair)
    wanted = {name: call(name, h, weights, batches, judged) for name in names}
    errors = {}
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            given = placed(mesh, h, weights, batches, judged)
            for name in names:
                parts = zip(call(name, *given), wanted[name], strict=True)
                errors[f"{name}, {kind}"] = max(map(float, map(error, parts)))
    print(json.dumps(errors))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:] or list(METHODS))
