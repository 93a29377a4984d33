"""What a population of hyperparameter settings costs by `jax.vmap`, against a loop of single runs.

    python -m benchmarks.population

The job of configs/digits_l2.toml with its method. "shared": all members train on the same split,
weights and minibatches, only the hyperparameters differ. "own": each has its own. "own, by device":
the same on as many JAX devices as cores, each taking its members one after another. The loop
calls the compiled single run as often as there are members, and waits at the end.
The profile says what each part of a step costs a member, alone and in a population.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

import drmad_jax as dj
from benchmarks.breakdown.parts import forward_parts, products, segment_parts
from benchmarks.population.page import BY_DEVICE, CLAIMED, OWN, SHARED, SINGLE
from benchmarks.records import usable_cores, write_record
from benchmarks.timing import Program, compile_calls, measure, ratios
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.tasks import make_task

CONFIG = Path(__file__).parents[2] / "configs" / "digits_l2.toml"
SIZES, LARGEST = (1, 8, CLAIMED), 256
PROFILED = 200
LOOP, WAITING = f"loop, {CLAIMED}", f"loop that waits for each, {CLAIMED}"


def runs(config: Any, task: Any) -> dict[str, Callable]:
    """Outer loss and hypergradient `(hparams, key, data)`, alone and for populations."""
    method = config.method.build()
    compute = dj.hypergradient(task.problem, num_steps=config.inner.num_steps, method=method)

    def on(hparams: PyTree, inputs: Any) -> tuple[Array, PyTree]:
        out = compute(hparams, **inputs._asdict())
        return out.value, out.grad

    def single(hparams, key, data):
        return on(hparams, task.sample(key, data))

    def shared(hparams, keys, data):
        return jax.vmap(on, (0, None))(hparams, task.sample(keys[0], data))

    def one_after_another(hparams, keys, data):
        return jax.lax.map(lambda each: single(each[0], each[1], data), (hparams, keys))

    over = PartitionSpec("members")
    by_device = jax.shard_map(
        one_after_another, mesh=_mesh(), in_specs=(over, over, PartitionSpec()), out_specs=over,
        check_vma=False,
    )  # fmt: skip
    own = jax.vmap(single, (0, 0, None))
    return {SINGLE: single, SHARED: shared, OWN: own, BY_DEVICE: by_device}


def programs(config: Any, task: Any, data: PyTree) -> dict[str, Program]:
    """Every form at every size, compiled."""
    forms, start, key = runs(config, task), task.init_hparams(), jax.random.key(0)
    calls: dict[str, tuple[Callable, tuple]] = {SINGLE: (forms[SINGLE], (start, key, data))}
    near = lambda key: lambda x: x + 0.1 * jax.random.normal(key, x.shape, x.dtype)
    for size in (*SIZES, LARGEST):
        keys = jax.random.split(key, size)
        given = jax.vmap(lambda key: jax.tree.map(near(key), start))(keys), keys
        for form in (SHARED, OWN):
            calls[f"{form}, {size}"] = forms[form], (*given, data)
        if len(jax.devices()) > 1 and size % len(jax.devices()) == 0:
            placed = jax.device_put(given, NamedSharding(_mesh(), PartitionSpec("members")))
            calls[f"{BY_DEVICE}, {size}"] = forms[BY_DEVICE], (*placed, data)
    return compile_calls(calls)


def loops(single: Program, population: Program) -> dict[str, Callable]:
    """The single run once for each member, waiting at the end or after each."""
    hparams, keys, data = population.arguments
    each = [jax.tree.map(lambda x, i=i: x[i], (hparams, keys)) for i in range(CLAIMED)]

    call = lambda member: single.compiled(*member, data)
    return {
        LOOP: lambda: [call(member) for member in each],
        WAITING: lambda: [jax.block_until_ready(call(member)) for member in each],
    }


def profile(config: Any, task: Any, data: PyTree) -> dict[str, dict[str, float]]:
    """Microseconds of each part of a step for one member, alone and in populations."""
    inputs, batch_size = task.sample(jax.random.key(0), data), config.inner.batch_size
    method = config.method.build()
    parts = {
        **forward_parts(task.problem, batch_size, PROFILED),
        "product, hessian": products(task.problem, batch_size, PROFILED, "hessian"),
        **segment_parts(task.problem, batch_size, method.steps),
    }
    given = {"hparams": task.init_hparams(), "params": inputs.params}
    alone = given, inputs.inner_batches.data, jax.random.key(1)
    same = jax.tree.map(lambda x: jnp.stack([x] * CLAIMED), alone)
    hparams_only = {"hparams": 0, "params": None}, None, None
    shared = {"hparams": same[0]["hparams"], "params": inputs.params}, *alone[1:]
    calls = {}
    for name, part in parts.items():
        calls[f"{name}, {SINGLE}"] = part, alone
        calls[f"{name}, {SHARED}"] = jax.vmap(part, hparams_only), shared
        calls[f"{name}, {OWN}"] = jax.vmap(part), same
    seconds = measure(compile_calls(calls), repeats=5, budget_s=40)
    found = {}
    for name in parts:
        times = 1 if "segments" in name else PROFILED
        of = lambda form, name=name: seconds[f"{name}, {form}"]["median_s"]
        members = ((SINGLE, 1), (SHARED, CLAIMED), (OWN, CLAIMED))
        found[name] = {form: round(1e6 * of(form) / times / count, 2) for form, count in members}
    return found


@functools.cache
def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.devices()), "members")


def main() -> None:
    # Before JAX starts its backend; it does nothing to an accelerator.
    jax.config.update("jax_num_cpu_devices", usable_cores())
    config = configs.load(CONFIG)
    task = make_task(config)
    data = task.load_data()
    made = programs(config, task, data)
    largest = {name: call for name, call in made.items() if name.endswith(f", {LARGEST}")}
    rest = {name: call for name, call in made.items() if name not in largest}
    seconds = measure(rest | loops(made[SINGLE], made[f"{OWN}, {CLAIMED}"]), repeats=7, budget_s=80)
    rare = measure({SINGLE: made[SINGLE], **largest}, repeats=3, budget_s=60)
    over_loop = ratios(seconds, LOOP)
    results = {
        "config": CONFIG.name,
        "devices": len(jax.devices()),
        "over one single run": ratios(rare, SINGLE) | ratios(seconds, SINGLE),
        "over the loop": {k: over_loop[k] for k in over_loop if k.endswith(f", {CLAIMED}")},
        "microseconds for a member": profile(config, task, data),
        "compile_s": {name: program.compile_s for name, program in made.items()},
        "temporary_bytes": {name: program.temporary_bytes for name, program in made.items()},
        "seconds": rare | seconds,
    }
    for name in ("over one single run", "over the loop", "microseconds for a member"):
        print(name)
        for label, row in results[name].items():
            print("   ", label, row)
    print(write_record("population", results))


if __name__ == "__main__":
    main()
