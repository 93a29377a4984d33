"""Whole segments at once: the flow, the optimizer's response, and both together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax.reverse.lanczos import positive_flow
from drmad_jax.reverse.optimizer_response import mean_response, memory, transposed_update
from drmad_jax.training.run import Run

SIZE = 12


def symmetric(key):
    entries = jax.random.normal(key, (SIZE, SIZE))
    return (entries + entries.T) / 4


def dense_flow(curvature, metric, start, length):
    """z − C P^½ f(A⁺) P^½ z with A = P^½ C P^½, by NumPy's eigendecomposition."""
    root = np.sqrt(metric)
    values, vectors = np.linalg.eigh(root[:, None] * curvature * root[None])
    positive = np.maximum(values, 0)
    safe = np.where(values > 0, values, 1)
    decay = np.where(values > 0, -np.expm1(-length * positive) / safe, 0)
    along = vectors @ (decay * (vectors.T @ (root * start)))
    return start - curvature @ (root * along)


@pytest.mark.parametrize("zeros", [0, 3])
def test_flow_equals_the_dense_one_in_the_metric(zeros):
    curvature, keys = symmetric(jax.random.key(0)), jax.random.split(jax.random.key(1))
    metric = jnp.exp(jax.random.normal(keys[0], (SIZE,))).at[:zeros].set(0)
    start = jax.random.normal(keys[1], (SIZE,))
    product = lambda z: curvature @ (metric * z)
    flow = positive_flow(product, metric, start, 3.0, num_products=SIZE - zeros)
    expected = dense_flow(*map(np.asarray, (curvature, metric, start)), 3.0)
    seen = np.sqrt(np.asarray(metric))
    np.testing.assert_allclose(seen * flow.end, seen * expected, atol=1e-9)


def test_integral_is_the_integral_of_the_flow():
    curvature, start = symmetric(jax.random.key(0)), jnp.linspace(-1, 1, SIZE)
    metric = jnp.ones(SIZE)
    follow = lambda length: positive_flow(
        lambda z: curvature @ z, metric, start, length, num_products=SIZE
    )
    nodes, weights = np.polynomial.legendre.leggauss(12)
    ends = jax.vmap(lambda length: follow(length).end)(jnp.asarray(1.0 + nodes))
    np.testing.assert_allclose(follow(2.0).integral(0, 2.0), weights @ ends, rtol=1e-9)


def test_flow_says_what_it_leaves_and_what_it_meets():
    """The residual of K ∫z = z(0) − z(n), and the Rayleigh quotients in the metric at both ends."""
    entries, keys = symmetric(jax.random.key(0)), jax.random.split(jax.random.key(1))
    curvature = entries @ entries.T
    metric = jnp.exp(jax.random.normal(keys[0], (SIZE,)))
    start = jax.random.normal(keys[1], (SIZE,))
    norm = lambda z: jnp.sqrt(jnp.sum(metric * z**2))
    product = lambda z: curvature @ (metric * z)
    for count in (3, 5, SIZE):
        flow = positive_flow(product, metric, start, 3.0, num_products=count)
        rest = product(flow.integral(0, 3.0)) - (start - flow.end)
        np.testing.assert_allclose(flow.residual, norm(rest) / norm(start), atol=1e-9)
        quotients = [jnp.sum(metric * z * product(z)) / norm(z) ** 2 for z in (start, flow.end)]
        np.testing.assert_allclose(flow.curvatures, quotients, rtol=1e-9)
    assert flow.residual < 1e-9


def test_negative_curvature_does_not_grow():
    flow = positive_flow(lambda z: -z, jnp.ones(3), jnp.ones(3), 1e6, num_products=2)
    np.testing.assert_allclose(flow.end, 1.0)
    np.testing.assert_allclose(flow.integral(0, 1e6), 1e6)


def test_flow_of_nothing_is_nothing():
    flow = positive_flow(lambda z: z, jnp.ones(3), jnp.zeros(3), 2.0, num_products=2)
    np.testing.assert_array_equal(flow.end, 0.0)
    np.testing.assert_array_equal(flow.integral(0, 2.0), 0.0)


RESPONSES = {
    "sgd": (optax.sgd(0.1), 0.1, 0.0),
    "momentum": (optax.sgd(0.1, momentum=0.9), 1.0, 0.0),
    "slow momentum": (optax.sgd(0.1, momentum=0.99), 10.0, 0.0),
    "nesterov": (optax.sgd(0.1, momentum=0.9, nesterov=True), 1.0, 0.0),
    "schedule": (optax.sgd(optax.constant_schedule(0.3)), 0.3, 0.0),
    "decoupled decay": (
        optax.chain(optax.add_decayed_weights(0.5), optax.scale(-0.1)),
        0.1,
        0.05,
    ),
    "sign": (optax.sign_sgd(0.1), 0.0, 0.0),
}


def respond(optimizer, state, grads, params, length=1e4, mean=None):
    at = lambda grads: transposed_update(lambda _: optimizer.update, None, state, grads, params)
    at_mean = at(grads if mean is None else mean)
    return mean_response(memory(at_mean, params), length, at_mean, at(grads), params)


@pytest.mark.parametrize("name", RESPONSES)
def test_response_of_linear_chains(name):
    optimizer, to_gradient, to_params = RESPONSES[name]
    params = {"a": jnp.ones(3), "b": jnp.full((2, 2), -2.0)}
    state = optimizer.init(params)
    response = respond(optimizer, state, params, params)
    for leaf in jax.tree.leaves(response.to_gradient):
        np.testing.assert_allclose(leaf, to_gradient, rtol=1e-6)
    for leaf in jax.tree.leaves(response.to_params):
        np.testing.assert_allclose(leaf, to_params, rtol=1e-6)


@pytest.mark.slow
def test_response_of_clipping_scales_with_the_norm():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    params = jnp.ones(400)
    grads = jax.random.normal(jax.random.key(0), (400,))
    response = respond(optimizer, optimizer.init(params), grads, params)
    np.testing.assert_allclose(
        jnp.mean(response.to_gradient), 0.1 / jnp.linalg.norm(grads), rtol=0.02
    )


def test_response_of_adam_is_that_of_its_preconditioner():
    optimizer, params = optax.adam(0.1), jnp.ones(3)
    scales, state = jnp.array([1.0, 0.1, 1e-3]), optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for t in range(200):
            grads = scales * jax.random.normal(jax.random.key(t), (3,))
            _, state = optimizer.update(grads, state, params)
        # As in a mean of states.
        still = (state[0]._replace(mu=jnp.zeros(3)), *state[1:])
        response = respond(optimizer, still, grads, params, 200.0, mean=jnp.zeros(3))
    second_moment = state[0].nu / (1 - 0.999**200)
    # The rest comes through the second moment, which meets the gradient's mean.
    expected = 0.1 / jnp.sqrt(second_moment)
    np.testing.assert_allclose(response.to_gradient, expected, rtol=0.1)


def test_entries_without_a_derivative_do_not_respond():
    optimizer, params = optax.adam(0.1), jnp.ones(3)
    grads = jnp.array([0.0, 1.0, 1.0])
    with jax.numpy_dtype_promotion("standard"):
        response = respond(optimizer, optimizer.init(params), grads, params)
    assert float(response.to_gradient[0]) == 0.0
    assert bool(jnp.all(jnp.isfinite(response.to_gradient)))


CURVES = jnp.array([0.05, 1.0, 3.0])


def quadratic(optimizer):
    """½ Σ c (w − x)² + ½ Σ e^λ w²: its Hessian is the same all along the line."""

    def loss(w, h, x):
        return 0.5 * jnp.sum(CURVES * (w - x) ** 2) + 0.5 * jnp.sum(jnp.exp(h["log_l2"]) * w**2)

    return dj.Problem(loss, lambda w, h, x: jnp.sum((w - x) ** 2), optimizer)


def quadratic_hypergradient(optimizer, num_steps, method):
    compute = jax.jit(dj.hypergradient(quadratic(optimizer), num_steps=num_steps, method=method))
    hparams = {"log_l2": jnp.full(3, -2.0)}
    return compute(hparams, jnp.zeros(3), jnp.ones((num_steps, 3)), jnp.ones(3))


@pytest.mark.parametrize("momentum", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_error_is_of_first_order_in_the_step(momentum):
    """With small steps the reverse pass is the flow, and with many segments the line the path."""
    errors = []
    for num_steps in (200, 400):
        optimizer = optax.sgd(10.0 * (1 - momentum) / num_steps, momentum=momentum)
        knots = dj.drmad(knots=num_steps + 1, steps=dj.segments(num_steps // 2, num_products=3))
        out = quadratic_hypergradient(optimizer, num_steps, knots)
        exact = quadratic_hypergradient(optimizer, num_steps, dj.stored())
        errors.append(problems.relative_error(out.grad, exact.grad))
    assert errors[0] < 0.06
    assert errors[1] < 0.6 * errors[0]


def test_never_grows_where_the_hessian_does():
    """From the top of a hill half way down: negative curvature all along the line."""
    loss = lambda w, h, x: jnp.sum(jnp.cos(w)) + jnp.exp(h) * jnp.sum(w**2)
    problem = dj.Problem(loss, lambda w, h, x: jnp.sum((w - 3) ** 2), optax.sgd(0.1))

    def growth(method):
        compute = jax.jit(dj.hypergradient(problem, num_steps=50, method=method))
        info = compute(jnp.float64(-4), jnp.array([0.01, -0.01]), jnp.zeros(50), None).info
        assert bool(info.finite)
        return float(info.cotangent_norm / info.cotangent_norm_at_end)

    assert growth(dj.drmad(curvature="hessian")) > 10
    assert growth(dj.drmad(steps=dj.segments(5, num_products=2))) <= 1 + 1e-9


@functools.cache
def on_problem(chain, method):
    problem = problems.problem(problems.CHAINS[chain])
    compute = jax.jit(dj.hypergradient(problem, num_steps=problems.NUM_STEPS, method=method))
    with jax.numpy_dtype_promotion("standard"):
        return compute(problems.hparams(), problems.params(), problems.batches(), problems.data())


SEGMENTS = dj.drmad(steps=dj.segments(2, num_products=3, num_batches=2))


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(name, marks=() if name == "clipped" else pytest.mark.slow)
        for name in sorted(set(problems.CHAINS) - {"multi_steps", "polyak"})
    ],
)
def test_every_chain_gives_a_finite_hypergradient(chain):
    out = on_problem(chain, SEGMENTS)
    assert bool(out.info.finite)
    assert int(out.info.num_reverse_steps) == 2
    moved = jnp.abs(problems.flat(out.grad["log_l2"]))
    # The response of a sign is zero, and so is what it hands on.
    assert chain == "lion" or float(jnp.max(moved)) > 0


def test_an_optimizer_that_waits_is_gone_back_through_exactly_and_said_so():
    with pytest.warns(UserWarning, match="varies from step to step.*taken back exactly"):
        out = on_problem("multi_steps", SEGMENTS)
    exact = on_problem("multi_steps", dj.checkpointed())
    assert problems.relative_error(out.grad, exact.grad) < 1e-12


def test_means_are_the_means_of_the_trajectory():
    problem, means = problems.problem(), dj.drmad(steps=dj.segments(3))
    h, w, batches = problems.hparams(), problems.params(), problems.batches()
    run = Run(problem, 7, batches, None, lambda h: dj.init_state(problem, h, w))
    state, states = run.start(h), []
    for _ in range(7):
        states.append(state)
        state = run.step(state, h)
    _, trace = means.forward(run, run.start(h), h)
    edges = means.steps(7).edges
    for segment, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        mean = jax.tree.map(lambda *x: sum(x) / len(x), *[s.params for s in states[low:high]])
        kept = jax.tree.map(lambda x, k=segment: x[k], trace.track.kept[1].params)
        assert problems.relative_error(kept, mean) < 1e-12


@pytest.mark.slow
def test_vmap_equals_a_loop():
    problem = problems.problem()
    compute = dj.hypergradient(problem, num_steps=problems.NUM_STEPS, method=SEGMENTS)
    call = jax.jit(
        jax.vmap(lambda h: compute(h, problems.params(), problems.batches(), problems.data()).grad)
    )
    settings = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), problems.hparams())
    first = on_problem("momentum", SEGMENTS).grad
    together = jax.tree.map(lambda x: x[0], call(settings))
    assert problems.relative_error(together, first) < 1e-9


def test_running_statistics_lead_back_to_the_weights():
    """The outer loss sees the weights through a running mean alone."""

    def inner(w, h, batch, model_state):
        loss = 0.5 * jnp.sum((w - batch) ** 2) + 0.5 * jnp.exp(h) * jnp.sum(w**2)
        return loss, 0.8 * model_state + 0.2 * w

    problem = dj.Problem(
        inner, lambda w, h, batch, model_state: jnp.sum(model_state**2), optax.sgd(0.05)
    )

    def grad(method):
        compute = jax.jit(dj.hypergradient(problem, num_steps=100, method=method))
        args = (jnp.float64(-1), jnp.zeros(2), jnp.ones((100, 2)), None)
        return compute(*args, model_state=jnp.zeros(2)).grad

    segments = grad(dj.drmad(knots=101, steps=dj.segments(25, num_products=2)))
    np.testing.assert_allclose(segments, grad(dj.stored()), rtol=0.05)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: dj.segments(0), "`count` must be at least 1"),
        (lambda: dj.segments(2, num_products=0), "`num_products` must be at least 1"),
        (lambda: dj.segments(2, num_batches=0), "`num_batches` must be at least 1"),
        (
            lambda: dj.drmad(steps=dj.segments(2), curvature="filtered_hessian"),
            "for single steps",
        ),
        (lambda: dj.drmad(on_expansion="stop"), "`on_expansion` must be one of"),
        (lambda: dj.drmad(path=dj.means(), steps=dj.every_step()), "makes none: take steps="),
        (lambda: dj.drmad(path=dj.means(), curvature="hessian"), "makes none: take steps="),
        (
            lambda: dj.truncated(num_reverse_steps=2, method=dj.drmad(path=dj.means())),
            "makes none: take steps=",
        ),
        (lambda: dj.drmad(path=dj.means(), knots=3), "give one of them"),
        (lambda: dj.checkpointed(every=2, levels=3), "give one of 'every', 'levels'"),
        (lambda: dj.checkpointed(budget=9, levels=3), "give one of 'levels', 'budget'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["path", "steps"])
def test_a_path_or_steps_of_another_kind_are_refused(name):
    with pytest.raises(TypeError, match=f"`{name}` must be a value such as drmad_jax"):
        dj.drmad(**{name: 3})
