"""`hypergradient` as a function: closed forms, differences, transformations, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from problems import NUM_STEPS, relative_error


def quadratic(optimizer):
    """Inner ½‖w − x‖² + ½λ‖w‖², outer ½‖w − x‖²: every step is linear."""
    half = jnp.asarray(0.5)
    inner = lambda w, h, x: half * jnp.sum((w - x) ** 2) + half * h * jnp.sum(w**2)
    outer = lambda w, h, x: half * jnp.sum((w - x) ** 2)
    return dj.Problem(inner, outer, optimizer)


METHODS = [dj.unrolled(), dj.stored(), dj.checkpointed(), dj.drmad(knots=2, curvature="hessian")]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_closed_form_of_gradient_descent_on_a_quadratic(method):
    # w_T = x (1 − ρ^T)/(1 + λ) with ρ = 1 − η(1 + λ), from w_0 = 0. The Hessian is constant, so
    # the line differs from the truth in the mixed term alone, which is the point on the path.
    rate, penalty, count, target = 0.1, 0.5, 40, 2.0
    compute = dj.hypergradient(quadratic(optax.sgd(rate)), num_steps=count, method=method)
    out = compute(penalty, jnp.zeros(1), jnp.full((count, 1), target), jnp.full(1, target))

    rho = 1 - rate * (1 + penalty)
    final = target * (1 - rho**count) / (1 + penalty)
    derivative = target * count * rho ** (count - 1) * rate / (1 + penalty) - final / (1 + penalty)
    if method == METHODS[-1]:
        steps = np.arange(count)
        derivative = -np.sum(rate * rho ** (count - 1 - steps) * final * steps / count)
    np.testing.assert_allclose(out.params, [final], rtol=1e-12)
    np.testing.assert_allclose(out.grad, (final - target) * derivative, rtol=1e-10)


@pytest.fixture(scope="module")
def inputs():
    return problems.hparams(), problems.params(), problems.batches(), problems.data()


def test_central_differences(inputs):
    hparams, params, batches, data = inputs
    compute = jax.jit(dj.hypergradient(problems.problem(), num_steps=NUM_STEPS, method=dj.stored()))
    grad = problems.flat(compute(*inputs).grad)
    flat, unflatten = jax.flatten_util.ravel_pytree(hparams)
    step = 1e-5
    for index in np.linspace(0, len(flat) - 1, 6).astype(int):
        value = lambda sign, i=index: (
            compute(unflatten(flat.at[i].add(sign * step)), params, batches, data).value
        )
        difference = (value(1) - value(-1)) / (2 * step)
        np.testing.assert_allclose(grad[index], difference, rtol=1e-6, atol=1e-10)


@pytest.mark.slow
def test_jit_equals_eager(inputs):
    compute = dj.hypergradient(problems.problem(), num_steps=3)
    eager, jitted = compute(*inputs), jax.jit(compute)(*inputs)
    assert relative_error(jitted.grad, eager.grad) < 1e-12


@pytest.mark.slow
def test_vmap_over_hyperparameters_and_seeds_equals_a_loop(inputs):
    hparams, params, _, data = inputs
    keys = jax.random.split(jax.random.key(5), 3)
    scale = jnp.array([0.5, 1.0, 2.0])

    def one(scale, key):
        scaled = jax.tree.map(lambda x: scale * x, hparams)
        start = jax.tree.map(lambda x: scale * x, params)
        batches = dj.minibatches(data, 6, key)
        return dj.hypergradient(problems.problem(), num_steps=NUM_STEPS)(
            scaled, start, batches, data
        )

    many = jax.jit(jax.vmap(one))(scale, keys)
    single = jax.jit(one)
    for i in range(3):
        alone = single(scale[i], keys[i])
        ours = jax.tree.map(lambda x, i=i: x[i], (many.grad, many.params))
        assert relative_error(ours, (alone.grad, alone.params)) < 1e-12


def test_second_call_does_not_recompile(inputs):
    hparams, params, batches, data = inputs
    compute = jax.jit(dj.hypergradient(problems.problem(), num_steps=NUM_STEPS))
    compute(hparams, params, batches, data)
    other = jax.tree.map(lambda x: 0.9 * x, hparams)
    compute(other, params, dj.minibatches(data, 6, jax.random.key(9), order="shuffled"), data)
    assert compute._cache_size() == 1


@pytest.mark.slow
def test_stacked_batches_equal_the_rule_that_made_them(inputs):
    hparams, params, batches, data = inputs
    compute = jax.jit(dj.hypergradient(problems.problem(), num_steps=NUM_STEPS))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[batches(t) for t in range(NUM_STEPS)])
    a, b = compute(hparams, params, batches, data), compute(hparams, params, stacked, data)
    assert relative_error(b.grad, a.grad) < 1e-12


def test_batches_fetched_from_the_host_equal_those_on_the_device(inputs):
    hparams, params, batches, data = inputs
    held = [jax.tree.map(np.asarray, batches(t)) for t in range(NUM_STEPS)]
    from_host = dj.host_batches(lambda t: held[int(t)], held[0])
    compute = jax.jit(dj.hypergradient(problems.problem(), num_steps=NUM_STEPS))
    a, b = compute(*inputs), compute(hparams, params, from_host, data)
    assert relative_error(b.grad, a.grad) < 1e-12


@pytest.mark.slow
def test_initial_params_may_depend_on_hyperparameters(inputs):
    _, params, batches, data = inputs
    hparams = {**problems.hparams(), "scale": jnp.asarray(0.7)}
    scaled = lambda w, h: jax.tree.map(lambda x: h["scale"] * x, w)
    problem = dj.Problem(
        problems.loss, problems.outer_loss, problems.CHAINS["momentum"], initial_params=scaled
    )
    reference, out = (
        jax.jit(dj.hypergradient(problem, num_steps=NUM_STEPS, method=method))(
            hparams, params, batches, data
        )
        for method in (dj.unrolled(), dj.stored())
    )
    assert abs(float(reference.grad["scale"])) > 1e-3
    assert relative_error(out.grad, reference.grad) < 1e-10


def test_divergence_is_reported_not_hidden(inputs):
    hparams, params, batches, data = inputs
    wild = {**hparams, "lr": jnp.asarray(1e200)}
    out = jax.jit(dj.hypergradient(problems.problem(), num_steps=NUM_STEPS))(
        wild, params, batches, data
    )
    assert not bool(out.info.finite)


def test_info_tells_steps_and_norms(inputs):
    compute = dj.hypergradient(
        problems.problem(), num_steps=NUM_STEPS, method=dj.drmad(steps=dj.strided_steps(3))
    )
    info = jax.jit(compute)(*inputs).info
    assert int(info.num_reverse_steps) == 3
    largest = max(float(info.cotangent_norm_at_end), float(info.cotangent_norm_at_start))
    assert float(info.cotangent_norm) >= largest > 0


def test_truncation_refuses_what_it_cannot_see(inputs):
    _, params, batches, data = inputs
    hparams = {**problems.hparams(), "scale": jnp.asarray(0.7)}
    scaled = lambda w, h: jax.tree.map(lambda x: h["scale"] * x, w)
    problem = dj.Problem(
        problems.loss, problems.outer_loss, problems.CHAINS["momentum"], initial_params=scaled
    )
    method = dj.truncated(num_reverse_steps=2)
    with pytest.raises(ValueError, match=r"cannot see `hparams\['scale'\]`.*checkpointed"):
        dj.hypergradient(problem, num_steps=NUM_STEPS, method=method)(
            hparams, params, batches, data
        )


def call(problem=None, num_steps=NUM_STEPS, method=None, **changes):
    names = ("hparams", "params", "inner_batches", "outer_batch")
    given = problems.hparams(), problems.params(), problems.batches(), problems.data()
    arguments = {**dict(zip(names, given, strict=True)), **changes}
    compute = dj.hypergradient(problem or problems.problem(), num_steps=num_steps, method=method)
    return compute(*arguments.values())


def constant(value):
    return lambda w, h, batch: value(w)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_steps": 0}, ValueError, "`num_steps` must be at least 1, got 0"),
        ({"num_steps": 2.0}, TypeError, "`num_steps` must be a Python int"),
        ({"method": "drmad"}, TypeError, r"`method` must be a method value.*'drmad'"),
        ({"hparams": {"depth": 3}}, TypeError, r"`hparams\['depth'\]` has dtype int"),
        ({"params": {"w": jnp.arange(3)}}, TypeError, r"`params\['w'\]` has dtype int"),
        (
            {"inner_batches": {"x": jnp.zeros((3, 2))}},
            ValueError,
            r"`inner_batches\['x'\]` must have leading axis num_steps = 7, got shape \[3, 2\]",
        ),
        (
            {"problem": problems.problem(inner_loss=constant(lambda w: w["out"]))},
            ValueError,
            r"`inner_loss` must return a floating-point scalar, got float64\[4, 1\]",
        ),
        (
            {
                "problem": problems.problem(inner_loss=constant(lambda w: jnp.sum(w["out"]))),
                "method": dj.drmad(curvature="gauss_newton"),
            },
            ValueError,
            "needs to know which part of the inner loss is the model.*composite_loss",
        ),
        ({"method": dj.drmad(knots=9)}, ValueError, r"`knots` may be at most num_steps \+ 1 = 8"),
        (
            {"method": dj.drmad(knots=[0, 3, 6])},
            ValueError,
            "the last of `knots` must be num_steps = 7, got 6",
        ),
        ({"problem": problems.problem(lambda h: None)}, TypeError, "must return an optax"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        call(**arguments)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: dj.drmad(knots=1), ValueError, "`knots` must be at least 2, got 1"),
        (lambda: dj.drmad(knots=[0, 5, 5]), ValueError, "steps increasing from 0"),
        (lambda: dj.drmad(curvature="fisher"), ValueError, "`curvature` must be one of"),
        (lambda: dj.segments(spacing="odd"), ValueError, "`spacing` must be one of"),
        (lambda: dj.strided_steps(3, weighting="all"), ValueError, "`weighting` must be one of"),
        (lambda: dj.strided_steps(0), ValueError, "at least 1, got 0"),
        (lambda: dj.knots(optimizer_state="mean"), ValueError, "`optimizer_state` must be"),
        (lambda: dj.checkpointed(every=0), ValueError, "`every` must be at least 1"),
        (lambda: dj.checkpointed(every=(6, 4)), ValueError, "divisor of the one before"),
        (lambda: dj.checkpointed(every=2, budget=9), ValueError, "give one of 'every', 'budget'"),
        (lambda: dj.checkpointed(levels=0), ValueError, "`levels` must be at least 1"),
        (lambda: dj.truncated(num_reverse_steps=0), ValueError, "at least 1"),
        (lambda: dj.Problem(1, sum, optax.sgd(0.1)), TypeError, "`inner_loss` must be callable"),
        (lambda: dj.Problem(sum, sum, 0.1), TypeError, "`optimizer` must be an optax"),
        (lambda: dj.composite_loss(1, sum), TypeError, "`predict` must be callable"),
        (lambda: dj.composite_loss(sum, sum, 2), TypeError, "`penalty` must be callable"),
        (lambda: dj.hypergradient(None, num_steps=3), TypeError, "`problem` must be a"),
    ],
)
def test_wrong_choices_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
