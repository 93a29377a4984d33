"""Reversal: to the bit, equal to the other exact methods, and loud where it cannot be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax.fixed_point.buffer import rows_needed
from drmad_jax.fixed_point.sgd import reversible_sgd
from drmad_jax.methods.exact import reversible
from drmad_jax.reverse.method import Reverse
from drmad_jax.reverse.paths.reversal import Reversal, _gradient
from drmad_jax.reverse.steps import LastSteps, StridedSteps
from drmad_jax.training.run import Run, reverse_loop
from problems import NUM_STEPS, TOLERANCE, relative_error

pytestmark = pytest.mark.usefixtures("optimised")

HPARAMS = {"l2": 0.3, "lr": 0.1, "momentum": 0.75}
RATES = {
    "hyperparameters": lambda h: reversible_sgd(h["lr"], h["momentum"]),
    "schedules": lambda h: reversible_sgd(
        lambda step: {"a": h["lr"] * jnp.exp(-0.1 * step.astype(float)), "b": h["lr"]},
        optax.linear_schedule(0.5, 0.95, NUM_STEPS),
    ),
    "per layer and step": lambda h: reversible_sgd(
        {
            "a": h["lr"] * jnp.linspace(1.0, 0.5, NUM_STEPS),
            "b": lambda step: h["lr"] / (1 + step.astype(float)),
        },
        {"a": h["momentum"] * jnp.ones(NUM_STEPS), "b": {"x": 0.9, "y": h["momentum"]}},
    ),
}


def loss(w, h, x):
    rest = jnp.sum(jnp.sin(w["b"]["x"] - x)) + jnp.sin(jnp.sum(w["b"]["y"]) * w["a"][0] - 1)
    return rest + h["l2"] * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(w))


def outer_loss(w, h, x):
    return jnp.sum(jnp.cos(w["a"])) + jnp.sum(w["b"]["x"] ** 2) + jnp.sum(w["b"]["y"])


def hparams(dtype=jnp.float64, **changed):
    return {name: jnp.asarray(value, dtype) for name, value in (HPARAMS | changed).items()}


def arguments(dtype=jnp.float64, num_steps=NUM_STEPS, **changed):
    wide = np.random.default_rng(0).standard_normal
    params = {"a": 0.5 * wide(3), "b": {"x": 0.5 * wide((2, 2)), "y": 0.5 * wide(1)}}
    params, batches = jax.tree.map(
        lambda x: jnp.asarray(x, dtype), (params, wide((num_steps, 2, 2)))
    )
    return hparams(dtype, **changed), params, batches, None


@functools.cache
def compiled(method, rates="hyperparameters", num_steps=NUM_STEPS):
    problem = dj.Problem(loss, outer_loss, RATES[rates])
    return jax.jit(dj.hypergradient(problem, num_steps=num_steps, method=method))


@functools.cache
def trajectory(num_steps, min_momentum, num_undone=None):
    """A function that goes along the path and back: start, end, where it ends, the trace."""
    path, visits = (
        Reversal(min_momentum=min_momentum),
        LastSteps(num_undone or num_steps)(num_steps),
    )
    lr = jnp.linspace(0.02, 0.001, num_steps)
    rates = lambda h: reversible_sgd({"a": lr, "b": h["lr"]}, {"a": h["momentum"], "b": 0.9})
    problem = dj.Problem(loss, outer_loss, rates)

    def call(hparams, params, batches, damage):
        start = dj.init_state(problem, hparams, params)
        run = Run(problem, num_steps, batches, None, lambda h: start)
        track = path.advance(run, path.blank(run, start, hparams, visits), hparams, visits)
        block = track.blocks[0]
        velocity = block.velocity._replace(low=block.velocity.low + damage)
        damaged = [block._replace(velocity=velocity), *track.blocks[1:]]

        def undo(carry, index):
            visit = lambda carry, state, *_: state
            return path.revisit(run, track, hparams, visit, *carry, index, visits)

        blocks, end = reverse_loop(undo, (damaged, start), 0, path.num_visits(run, visits))
        return start, path.last(track), path.arrived(run, track, blocks, end, visits), track

    return jax.jit(call)


@pytest.mark.parametrize(
    "momentum", [pytest.param(value, marks=pytest.mark.slow) for value in (0.9, 0.98)]
)
def test_ten_thousand_steps_are_undone_bit_for_bit(momentum):
    h, params, batches, _ = arguments(num_steps=10_000, momentum=momentum, lr=0.01)
    call = trajectory(10_000, 0.9)
    start, final, end, trace = call(h, params, batches, jnp.uint32(0))
    quantised = lambda x: jnp.trunc(x * 2.0**52) / 2.0**52
    jax.tree.map(np.testing.assert_array_equal, end.params, jax.tree.map(quantised, start.params))
    assert not np.any(problems.flat(end.opt_state.velocity))
    assert int(end.step) == int(end.opt_state.step) == 0
    assert len(trace.blocks) == 2
    assert relative_error(final.params, start.params) > 0.1

    _, _, end, _ = call(h, params, batches, jnp.uint32(1))
    assert np.all(np.isnan(problems.flat(end.params))), "one wrong bit at the end went unnoticed"


def test_the_last_steps_are_undone_alone_and_their_bits_kept_alone():
    h, params, batches, _ = arguments(num_steps=1000, lr=0.01)
    call = trajectory(1000, 0.5, num_undone=100)
    start, _, end, trace = call(h, params, batches, jnp.uint32(0))
    assert int(end.step) == 900 and relative_error(end.params, start.params) > 0.1
    # Bits: 1 a step by the bound on the first block's momentum, .1521 on the second's.
    rows = [block.buffer.words.shape[0] - 2 for block in trace.blocks]
    assert rows == [np.ceil(100.1 / 16), np.ceil(15.21 / 16)]

    _, _, end, _ = call(h, params, batches, jnp.uint32(1))
    assert np.all(np.isnan(problems.flat(end.params))), "one wrong bit at the end went unnoticed"


def test_a_gradient_rounds_alike_wherever_it_stands():
    """Followed by a sum, the product that it is would become a fused multiply-add."""
    problem = dj.Problem(lambda w, h, x: jnp.sum(w * (h * x)), outer_loss, reversible_sgd(0.1, 0.9))

    @jax.jit
    def followed_by_a_sum(h, batches, added, live):
        w = jnp.zeros(4)
        run = Run(problem, 1, batches, None, lambda h: dj.init_state(problem, h, w))
        fused = h * batches[0] + added
        return _gradient(run, h, w, jnp.int32(0), live) + added, fused

    near_one, added = jnp.asarray(1 + 2.0**-30), jnp.full(4, -(1 + 2.0**-29))
    ours, fused = followed_by_a_sum(near_one, jnp.full((1, 4), near_one), added, jnp.array(True))
    np.testing.assert_array_equal(ours, 0.0)
    if not np.any(fused):
        pytest.skip("this processor has no fused multiply-add")


@pytest.mark.parametrize(
    "rates",
    [
        pytest.param(r, marks=() if r == "hyperparameters" else pytest.mark.slow)
        for r in sorted(RATES)
    ],
)
def test_equals_unrolled(rates):
    reference = compiled(dj.unrolled(), rates)(*arguments())
    out = compiled(reversible(), rates)(*arguments())
    assert bool(out.info.finite) and int(out.info.num_reverse_steps) == NUM_STEPS
    for value in ("grad", "params", "initial_params_grad"):
        error = relative_error(getattr(out, value), getattr(reference, value))
        assert error < TOLERANCE["float64"], value


@pytest.mark.slow
def test_equals_storing_on_a_network_over_many_steps():
    problem = problems.problem(lambda h: reversible_sgd(h["lr"], 0.9))
    given = problems.hparams(), problems.params(), problems.batches(), problems.data()
    outs = [
        jax.jit(dj.hypergradient(problem, num_steps=100, method=method))(*given)
        for method in (reversible(curvature="gauss_newton"), dj.stored(curvature="gauss_newton"))
    ]
    assert relative_error(outs[0].grad, outs[1].grad) < TOLERANCE["float64"]


def test_the_optimizer_is_sgd_with_momentum():
    _, params, _, _ = arguments()

    def walk(optimizer):
        state, w = optimizer.init(params), params
        for step in range(5):
            grads = jax.tree.map(lambda x, step=step: jnp.cos(x + step), w)
            updates, state = optimizer.update(grads, state, w)
            w = optax.apply_updates(w, updates)
        return w

    # A multiple of 2^-16 is not rounded; other momenta are, by less than 2^-17.
    for momentum, tolerance in ((0.875, 1e-14), (0.9, 1e-4)):
        error = relative_error(
            walk(reversible_sgd(0.1, momentum)), walk(optax.sgd(0.1, momentum=momentum))
        )
        assert error < tolerance


def test_momentum_hypergradient_equals_central_differences():
    at = lambda momentum: compiled(reversible())(*arguments(momentum=momentum))
    width = 2.0**-14
    difference = (at(0.75 + width).value - at(0.75 - width).value) / (2 * width)
    assert abs(at(0.75).grad["momentum"] / difference - 1) < 1e-6


@pytest.mark.slow
def test_vmap_equals_a_loop_and_jit_equals_eager():
    method = reversible()
    compute = dj.hypergradient(
        dj.Problem(loss, outer_loss, RATES["hyperparameters"]), num_steps=NUM_STEPS, method=method
    )
    _, *rest = arguments()
    alone = [compiled(method)(hparams(lr=lr), *rest) for lr in (0.05, 0.1, 0.2)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *[hparams(lr=lr) for lr in (0.05, 0.1, 0.2)])
    mapped = jax.jit(jax.vmap(compute, in_axes=(0, None, None, None)))(batch, *rest)
    assert np.all(mapped.info.finite)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], mapped)
        assert relative_error(one.grad, alone[i].grad) < TOLERANCE["float64"]
    eager = compute(hparams(), *rest)
    assert relative_error(eager.grad, alone[1].grad) < 1e-12


def test_training_is_differentiable():
    problem = dj.Problem(loss, outer_loss, RATES["hyperparameters"])
    h, params, batches, _ = arguments()

    def outer(h):
        train = dj.train(problem, num_steps=NUM_STEPS, method=reversible())
        return outer_loss(train(h, params, batches).params, h, None)

    reference = compiled(dj.unrolled())(h, params, batches, None).grad
    assert relative_error(jax.jit(jax.grad(outer))(h), reference) < TOLERANCE["float64"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:weights below float32")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_64_bits(dtype):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        reference = compiled(dj.stored())(*arguments(dtype))
        out = compiled(reversible())(*arguments(dtype))
    assert out.params["a"].dtype == dtype
    assert bool(out.info.finite)
    assert relative_error(out.grad, reference.grad) < TOLERANCE[dtype]


@pytest.mark.slow
def test_memory_law():
    for momentum in (0.5, 0.9, 0.98):
        h, params, batches, _ = arguments(num_steps=3000, momentum=momentum)
        trace = trajectory(3000, 0.5)(h, params, batches, jnp.uint32(0))[-1]
        rows = rows_needed(np.asarray(trace.rates[0].momentum.loss))
        assert 16 * (rows - 1) / 3000 < 1.005 * np.log2(1 / momentum)
        assert rows - 1 <= int(trace.blocks[0].buffer.height) <= rows
        # The other block's momentum is known, so that its buffer is no larger than need be.
        assert trace.blocks[1].buffer.words.shape[0] == 1 + np.ceil(3000 * 0.1521 / 16)


@pytest.mark.slow
def test_memory_is_far_below_storing():
    loss = lambda w, h, x: jnp.sum(jnp.sin(w @ x) ** 2) + h * jnp.sum(w**2)
    problem = dj.Problem(loss, loss, reversible_sgd(0.01, 0.9))
    spec = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    given = spec(), spec(50, 100), spec(1000, 100), spec(100)

    def size(method):
        compute = jax.jit(dj.hypergradient(problem, num_steps=1000, method=method))
        return compute.lower(*given).compile().memory_analysis().temp_size_in_bytes

    assert size(reversible()) < size(dj.stored()) / 50


def test_what_cannot_be_undone_is_flagged():
    method = reversible(min_momentum=0.7)
    at = lambda **changed: compiled(method, num_steps=100)(
        *arguments(num_steps=100, **{"lr": 0.01} | changed)
    )
    assert bool(at(momentum=0.7).info.finite)
    too_small_a_buffer = at(momentum=0.5)
    assert np.isfinite(too_small_a_buffer.value)
    out_of_range = at(lr=1e4)
    assert np.isnan(out_of_range.value)
    bad_momenta = [at(momentum=momentum) for momentum in (0.0, 1.01, np.nan)]
    for out in (too_small_a_buffer, out_of_range, *bad_momenta):
        assert not bool(out.info.finite)
        assert np.all(np.isnan(problems.flat(out.grad)))
        assert np.all(np.isnan(problems.flat(out.initial_params_grad)))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optax.sgd(0.1, momentum=0.9), "`optimizer` cannot be undone.*reversible_sgd"),
        (optax.chain(reversible_sgd(0.1, 0.9)), r"`optimizer` cannot be undone.*checkpointed\(\)"),
        (reversible_sgd(jnp.ones(3), 0.9), "`learning_rate` needs one entry for each"),
        (reversible_sgd(0.1, {"a": 0.9}), "`momentum` must be one rate, or a pytree"),
        (reversible_sgd(lambda step: jnp.ones(2), 0.9), "must be scalar for each layer"),
    ],
)
def test_wrong_optimizers_are_refused(optimizer, message):
    problem = dj.Problem(loss, outer_loss, optimizer)
    with pytest.raises(ValueError, match=message):
        dj.hypergradient(problem, num_steps=NUM_STEPS, method=reversible())(*arguments())


@pytest.mark.parametrize("momentum", [0.0, 1.5, 0.001, {"a": 0.9, "b": np.array([0.9, 0.0])}])
def test_known_momenta_out_of_range_are_refused(momentum):
    with pytest.raises(ValueError, match=r"`momentum` must be between.*checkpointed\(\)"):
        reversible_sgd(0.1, momentum)


def test_model_state_is_refused():
    loss = lambda w, h, x, model_state: (jnp.sum(w * x), model_state)
    problem = dj.Problem(loss, lambda w, h, x, model_state: jnp.sum(w), reversible_sgd(0.1, 0.9))
    compute = dj.hypergradient(problem, num_steps=2, method=reversible())
    ones = jnp.ones(2)
    with pytest.raises(ValueError, match=r"`model_state` cannot be undone.*checkpointed\(\)"):
        compute(jnp.ones(()), ones, jnp.ones((2, 2)), None, model_state={"mean": ones})


def test_partial_visits_are_refused():
    method = Reverse(Reversal(), StridedSteps(2))
    train = dj.train(
        dj.Problem(loss, outer_loss, reversible_sgd(0.1, 0.9)), num_steps=NUM_STEPS, method=method
    )
    with pytest.raises(ValueError, match="the 7 steps, or the last of them, must be visited"):
        train(*arguments()[:3])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_momentum": 0.0}, ValueError, "`min_momentum` must be between"),
        ({"min_momentum": jnp.ones(())}, TypeError, "`min_momentum` must be a Python number"),
        ({"fraction_bits": 61}, ValueError, "`fraction_bits` must be at most 60"),
        ({"fraction_bits": 8}, ValueError, "`fraction_bits` must be at least 16"),
        ({"fraction_bits": 52.0}, TypeError, "`fraction_bits` must be a Python int"),
        ({"curvature": "fisher"}, ValueError, "`curvature` must be one of"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        reversible(**options)
