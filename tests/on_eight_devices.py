"""What eight simulated devices do beside one, on explicit and automatic meshes.

Run by `test_devices.py`, since the number of devices is fixed when JAX starts, with the name of one
of `CHECKS`. Prints what that returns, as JSON.
"""

import json
import os
import re
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


def methods():
    """The relative error of each method, weights and batches in eight parts along one axis."""
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

    wanted = {name: call(name, h, weights, batches, judged) for name in METHODS}
    errors = {}
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            given = placed(mesh, h, weights, batches, judged)
            for name in METHODS:
                errors[f"{name}, {kind}"] = error(call(name, *given), wanted[name])
    return errors


def error(got, wanted):
    """The largest relative error of some arrays."""
    return max(float(problems.relative_error(*pair)) for pair in zip(got, wanted, strict=True))


def weighted(w, h, batch):
    """Hyperparameters as the weights of examples, whose numbers come with the batch."""
    return jnp.mean(h[batch[2]][:, None] * (model(w, batch[0]) - batch[1]) ** 2)


def members(name, order, num_rows, inner=inner):
    """A population's outcomes, as a function of `(hparams, keys, weights, data, judged)`."""

    def of_member(h, key, weights, data, judged):
        batches = dj.minibatches(data, num_rows, key, order=order)
        problem = dj.Problem(inner, fit, ADAM)
        if name == "trained":
            state = dj.trained(problem, num_steps=NUM_STEPS)(h, weights, batches)
            return fit(state.params, h, judged), state.params["a"], state.params["b"]
        compute = dj.hypergradient(problem, num_steps=NUM_STEPS, method=METHODS[name][0])
        out = compute(h, weights, batches, judged)
        return out.value, out.grad, out.params["a"], out.params["b"]

    return jax.jit(jax.vmap(of_member, (0, 0, None, None, None)))


def three_axes():
    """Relative errors of a population whose weights and data are in parts on the same mesh."""
    axes = "population", "data", "fsdp"
    given = inputs(4)
    errors = {}
    for name in ("drmad, segments", "checkpointed", "trained"):
        call = members(name, "shuffled", 8)
        wanted = jax.device_get(call(*given))
        for kind in (AxisType.Explicit, AxisType.Auto):
            mesh = jax.make_mesh((2, 2, 2), axes, axis_types=(kind,) * 3)
            with jax.set_mesh(mesh):
                got = call(*in_parts(mesh, given, *axes))
            errors[f"{name}, {kind}"] = error(jax.device_get(got), wanted)
    return errors


def programs():
    """Sizes of batches in the dots of compiled programs, and the collectives there."""
    _, keys, weights, data, judged = inputs(8)
    data = *data, jnp.arange(len(data[0]))
    found = {}
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((8,), ("one",), axis_types=(kind,))
        for what, name, order, loss, h, axes in (
            ("population", "drmad, segments", "shuffled", inner, jnp.zeros(8), ("one", None, None)),
            (
                "population",
                "checkpointed",
                "shuffled",
                weighted,
                jnp.ones((8, len(data[0]))),
                ("one", None, None),
            ),
            ("data", "drmad, segments", "uniform", inner, jnp.zeros(8), (None, "one", None)),
            ("data", "checkpointed", "shuffled", inner, jnp.zeros(8), (None, "one", None)),
            (
                "data and weights",
                "checkpointed",
                "uniform",
                inner,
                jnp.zeros(8),
                (None, "one", "one"),
            ),
        ):
            call = members(name, order, 13 * 8, loss)
            with jax.set_mesh(mesh):
                given = in_parts(mesh, (h, keys, weights, data, judged), *axes)
                text = call.lower(*given).compile().as_text()
            found[f"{what}, {name}, {kind}"] = rows_of_dots(text), collectives(text)
    return found


def rows_of_dots(text):
    """Which of the sizes of batches, whole or in eight parts, operands and results of dots have."""
    sizes = dict(re.findall(r"%?([\w.\-]+)(?: =|:) \w+\[([\d,]*)\]", text))
    dots = re.findall(r"%([\w.\-]+) = \S+ dot\(%([\w.\-]+), %([\w.\-]+)\)", text)
    seen = {int(size) for dot in dots for name in dot for size in sizes[name].split(",") if size}
    return sorted(seen & {11, 13, 8 * 11, 8 * 13})


def collectives(text):
    kinds = r" (all-reduce|all-gather|all-to-all|collective-\w+|reduce-scatter)(?:-start)?\("
    return sorted(set(re.findall(kinds, text)))


def inputs(num_members):
    """Hyperparameters and keys of a population, weights, data, and examples to judge with."""
    keys = iter(jax.random.split(KEY, 8))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    weights = {"a": normal(16, 24) / 4, "b": normal(24, 40) / 5}
    data, judged = (normal(2080, 16), normal(2080, 40)), (normal(8 * 11, 16), normal(8 * 11, 40))
    return (
        jnp.linspace(-5.0, -3.0, num_members),
        jax.random.split(KEY, num_members),
        weights,
        data,
        judged,
    )


def in_parts(mesh, given, population, rows, fsdp):
    """The inputs, each along its axis of the mesh, if any."""
    axes = (population, population, fsdp, rows, rows)
    put = lambda tree, axis: jax.device_put(tree, NamedSharding(mesh, PartitionSpec(axis)))
    return tuple(map(put, given, axes))


CHECKS = {"methods": methods, "three_axes": three_axes, "programs": programs}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(CHECKS[sys.argv[1]]()))
