"""What only an accelerator can show. Skipped, with the reason, where JAX has none.

Run with `python -m pytest -m gpu tests/test_gpu.py -rs`, and once more with
XLA_FLAGS=--xla_gpu_deterministic_ops=true, which the reversible method needs.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems

GPUS = [device for device in jax.devices() if device.platform == "gpu"]
DEVICE = GPUS[0] if GPUS else jax.devices()[0]
CPU = jax.devices("cpu")[0]
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not GPUS, reason=f"needs a GPU: JAX sees {jax.devices()[0].platform} devices alone"
    ),
]
# In float32 with products in full precision, and with those of TF32 (10 bits of mantissa): forward
# errors of 2^-24 and 2^-11 for each product, over some hundred of them.
TOLERANCES = {"highest": 2e-4, "tensorfloat32": 5e-2}
EXACT = {
    "stored": dj.stored(),
    "checkpointed": dj.checkpointed(),
    "levels": dj.checkpointed(levels=3),
    "unrolled": dj.unrolled(),
    "forward": dj.forward(),
}
SEGMENTS = dj.drmad(steps=dj.segments(2, num_products=3, num_batches=2), exact_end=9)
NUM_STEPS = 40


def arguments(dtype):
    return (
        problems.hparams(dtype),
        problems.params(dtype),
        problems.batches(dtype),
        problems.data(dtype),
    )


def grad_of(method, dtype, device, precision="highest"):
    compute = dj.hypergradient(problems.problem(), num_steps=NUM_STEPS, method=method)
    with jax.default_device(device), jax.default_matmul_precision(precision):
        given = jax.device_put(arguments(dtype), device)
        grad = jax.device_get(jax.jit(compute)(*given).grad)
    return jax.tree.map(np.float64, grad)


@functools.cache
def on_cpu(method):
    """The reference, in float64."""
    return grad_of(method, jnp.float64, CPU)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_give_what_float64_gives(name, precision):
    found = grad_of(EXACT[name], jnp.float32, DEVICE, precision)
    assert problems.relative_error(found, on_cpu(dj.stored())) < TOLERANCES[precision]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_drmad_gives_what_it_gives_on_the_cpu(precision):
    found = grad_of(SEGMENTS, jnp.float32, DEVICE, precision)
    # Lanczos' method amplifies what it is given.
    assert problems.relative_error(found, on_cpu(SEGMENTS)) < 5 * TOLERANCES[precision]


@pytest.mark.skipif(
    bool(GPUS) and DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""),
    reason=f"needs XLA_FLAGS={DETERMINISTIC}: gradients must be the same when taken again",
)
def test_reversible_arrives_where_it_began():
    def loss(w, h, batch):
        return jnp.mean((batch["x"] @ w - batch["y"]) ** 2) + jnp.exp(h) * jnp.sum(w**2)

    make = functools.partial(dj.Problem, loss, loss)
    data, w = problems.data(jnp.float32), jnp.zeros((5, 1), jnp.float32)
    given = jnp.float32(-3), w, problems.batches(jnp.float32), data
    wanted = dj.hypergradient(
        make(optax.sgd(0.05, momentum=0.9)), num_steps=500, method=dj.stored()
    )
    found = dj.hypergradient(
        make(dj.reversible_sgd(0.05, 0.9)), num_steps=500, method=dj.reversible()
    )
    with jax.default_device(DEVICE), jax.default_matmul_precision("highest"):
        out = jax.jit(found)(*jax.device_put(given, DEVICE))
        assert out.info.finite
        exact = jax.jit(wanted)(*jax.device_put(given, DEVICE))
    assert problems.relative_error(out.grad, exact.grad) < 1e-3


@pytest.mark.parametrize("method", [SEGMENTS, dj.checkpointed()], ids=["drmad", "checkpointed"])
def test_any_way_of_cutting_gives_the_same_bits(method):
    """One compiled program for every number of steps, so that nothing rounds otherwise."""
    with jax.default_device(DEVICE):
        h, params, batches, judged = jax.device_put(arguments(jnp.float32), DEVICE)
        make = dj.in_pieces(problems.problem(), num_steps=NUM_STEPS, method=method)
        pieces = make(h, params, batches, judged)
        advance, retreat = jax.jit(pieces.advance), jax.jit(pieces.retreat)
        found = []
        for steps, visits in ((NUM_STEPS, NUM_STEPS), (7, 3), (1, 1)):
            tape = pieces.start(h, params)
            while int(tape.done) < NUM_STEPS:
                tape = advance(tape, h, batches, steps)
            back = pieces.turn(tape, h, batches, judged)
            while int(back.left):
                back = retreat(back, h, batches, visits)
            found.append(jax.device_get(pieces.finish(back, h, params, batches).grad))
    for other in found[1:]:
        assert jax.tree.all(jax.tree.map(np.array_equal, found[0], other))


def test_batches_in_host_memory_are_those_on_the_device():
    """Data in `pinned_host` memory; the host gathers a batch."""
    with jax.default_device(DEVICE):
        h, params, _, judged = jax.device_put(arguments(jnp.float32), DEVICE)
        on_host = jax.sharding.SingleDeviceSharding(DEVICE, memory_kind="pinned_host")
        data, key = problems.data(jnp.float32), jax.random.key(2)
        call = jax.jit(dj.hypergradient(problems.problem(), num_steps=NUM_STEPS, method=SEGMENTS))
        of = lambda data: call(h, params, dj.minibatches(data, 6, key), judged)
        found, wanted = of(jax.device_put(data, on_host)), of(jax.device_put(data, DEVICE))
    assert problems.relative_error(found.grad, wanted.grad) < TOLERANCES["highest"]


def decoder(large):
    from benchmarks.problems.decoder import Decoder

    sizes = {"width": 768, "layers": 12, "vocabulary": 16384} if large else {}
    return Decoder(**{"width": 64, "layers": 1, "vocabulary": 64} | sizes)


def filled(shapes, value):
    return jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), shapes)


def test_memory_of_a_model_of_100_m_weights_is_what_was_compiled():
    """`memory_stats` after one whole hypergradient beside the compiled program's own figure."""
    pytest.importorskip("benchmarks", reason="needs the repository's root on the path")
    # From about 1000 steps on the segments take five products.
    large, num_steps = bool(GPUS), 1000 if GPUS else 4
    model = decoder(large)
    shapes = model.hparams(), model.params(), model.batch(num_steps), model.batch()
    compute = dj.hypergradient(model.problem(), num_steps=num_steps, method=dj.drmad())
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.default_device(DEVICE),
    ):
        program = jax.jit(compute).lower(*shapes).compile()
        given = tuple(map(filled, shapes, (-9.0, 0.01, 1, 1)))
        before = (DEVICE.memory_stats() or {}).get("peak_bytes_in_use", 0)
        out = jax.block_until_ready(program(*given))
    sizes = program.memory_analysis()
    assert out.info.finite
    compiled = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    if large:
        state = 3 * sum(4 * x.size for x in jax.tree.leaves(model.params()))
        assert sizes.temp_size_in_bytes < 12.5 * state
        peak = DEVICE.memory_stats()["peak_bytes_in_use"]
        print(f"compiled {compiled / 2**30:.1f} GiB, at the peak {peak / 2**30:.1f} GiB")
        assert before < compiled and 0.8 * compiled < peak < 1.2 * compiled
