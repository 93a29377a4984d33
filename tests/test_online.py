"""Online adaptation: against hand-computed steps, and against differentiated updates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax.loops.online import online_learning_rates, online_penalties
from problems import TOLERANCE, relative_error

# These tests compile far longer than they compute.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SLOPES = {"a": jnp.array([1.0, 3.0]), "b": jnp.array(2.0)}
START = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


def gradient(w):
    """Of ½ Σ c w²: each weight shrinks by its own 1 − α c."""
    return jax.tree.map(jnp.multiply, SLOPES, w)


def follow(optimizer, num_steps, w=START, outer=None):
    """The states before each step, and the weights after the last."""

    def step(carry, _):
        w, state = carry
        extra = {} if outer is None else {"outer_grad": outer(w)}
        updates, state = optimizer.update(gradient(w), state, w, **extra)
        return (optax.apply_updates(w, updates), state), (w, state)

    run = jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), length=num_steps))
    with jax.numpy_dtype_promotion("standard"):
        (last, _), (weights, states) = run(w)
    return weights, states, last


def numbers(tree):
    return [np.asarray(tree["a"])[..., 0], np.asarray(tree["a"])[..., 1], np.asarray(tree["b"])]


def adapted(slope, rule):
    return {"raw": slope, "sign": np.sign(slope)}[rule]


@pytest.mark.parametrize("rule", ["raw", "sign"])
def test_learning_rates_by_hand(rule):
    weights, states, _ = follow(online_learning_rates(init=0.1, log_step=0.3, rule=rule), 4)
    for c, w, rate in zip([1.0, 3.0, 2.0], numbers(weights), numbers(states.values), strict=True):
        alpha, at, move = 0.1, w[0], 0.0
        for step in range(4):
            assert w[step] == pytest.approx(at, rel=1e-12)
            alpha *= np.exp(-0.3 * adapted(c * at * move, rule))
            assert rate[step] == pytest.approx(alpha, rel=1e-12)
            move = -alpha * c * at
            at = at + move


@pytest.mark.parametrize("rule", ["raw", "sign"])
def test_penalties_by_hand(rule):
    """The validation loss ½ Σ (w − 1)² pulls the other way."""
    optimizer = online_penalties(optax.sgd(0.2), init=0.1, log_step=0.3, rule=rule)
    outer = lambda w: jax.tree.map(lambda leaf: leaf - 1, w)
    weights, states, _ = follow(optimizer, 4, outer=outer)
    values = numbers(states.values)
    for c, w, penalty in zip([1.0, 3.0, 2.0], numbers(weights), values, strict=True):
        lam, at, response = 0.1, w[0], 0.0
        for step in range(4):
            assert w[step] == pytest.approx(at, rel=1e-12)
            lam *= np.exp(-0.3 * adapted((at - 1) * response, rule))
            assert penalty[step] == pytest.approx(lam, rel=1e-12)
            response = -0.2 * lam * at
            at = at - 0.2 * (c + lam) * at


def test_granularity_sums_over_what_is_shared():
    def second_rates(granularity, rule):
        options = {"init": 0.1, "log_step": 0.3, "rule": rule, "granularity": granularity}
        _, states, _ = follow(online_learning_rates(**options), 2)
        return jax.tree.map(lambda leaf: leaf[1], states.log_values)

    single = second_rates("parameter", "raw")
    slopes = jax.tree.map(lambda log: (jnp.log(0.1) - log) / 0.3, single)
    tensor, scalar = second_rates("tensor", "raw"), second_rates("scalar", "raw")
    sums = jax.tree.map(jnp.sum, slopes)
    expected = jax.tree.map(lambda s: jnp.log(0.1) - 0.3 * s, sums)
    assert relative_error(tensor, expected) < TOLERANCE["float64"]
    assert float(scalar) == pytest.approx(float(jnp.log(0.1) - 0.3 * (sums["a"] + sums["b"])))
    # Both factors are gradients, one at α·c less: nearly parallel.
    moved = jax.tree.map(lambda log: (log - jnp.log(0.1)) / 0.3, second_rates("tensor", "cosine"))
    g = SLOPES["a"] * START["a"]
    after = SLOPES["a"] * (START["a"] - 0.1 * g)
    cosine = jnp.dot(g, after) / jnp.linalg.norm(g) / jnp.linalg.norm(after)
    assert float(moved["a"]) == pytest.approx(float(cosine))
    assert float(moved["b"]) == pytest.approx(1.0)


def test_response_is_the_derivative_of_the_update():
    inner = optax.adam(0.1, eps_root=1e-8)
    optimizer = online_penalties(inner, init=0.2, rule="raw")
    outer = lambda w: jax.tree.map(lambda leaf: leaf - 1, w)
    weights, states, _ = follow(optimizer, 3, outer=outer)
    w, before, after = (
        jax.tree.map(lambda leaf, i=i: leaf[i], tree)
        for tree, i in ((weights, 2), (states, 1), (states, 2))
    )

    def update(log_penalty):
        decay = jax.tree.map(lambda log, w: jnp.exp(log) * w, log_penalty, w)
        grads = jax.tree.map(jnp.add, gradient(w), decay)
        return inner.update(grads, before.inner, w)[0]

    with jax.numpy_dtype_promotion("standard"):
        jacobian = jit(jax.jacfwd(update))(after.log_values)
    own = {"a": jnp.diagonal(jacobian["a"]["a"]), "b": jacobian["b"]["b"]}
    assert relative_error(after.response, own) < TOLERANCE["float64"]


def test_both_at_once_under_a_chain():
    both = online_penalties(
        online_learning_rates(optax.scale_by_adam(eps_root=1e-8), init=0.01, log_step=0.1),
        init=0.1,
        log_step=0.1,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), both)
    _, states, last = follow(optimizer, 50, outer=gradient)
    rates, penalties = states[1].inner.values, states[1].values
    # Adam's first rate is far too small, and the validation loss wants the weights at 0 too.
    assert all(jnp.max(leaf) > 0.02 for leaf in jax.tree.leaves(rates))
    assert all(jnp.max(leaf) > 0.2 for leaf in jax.tree.leaves(penalties))
    assert relative_error(last, START) > 0.5


def test_a_poor_learning_rate_is_mended():
    _, _, fixed = follow(optax.sgd(1e-3), 100)
    _, _, free = follow(online_learning_rates(init=1e-3, log_step=0.1), 100)
    largest = lambda w: max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(w))
    assert largest(free) < 0.1 * largest(fixed)


def test_bounds_hold():
    optimizer = online_learning_rates(init=0.1, log_step=5.0, min_value=0.05, max_value=0.2)
    _, states, _ = follow(optimizer, 10)
    rates = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(states.values)])
    assert float(jnp.min(rates)) >= 0.05 * (1 - 1e-12)
    assert float(jnp.max(rates)) == pytest.approx(0.2)


def test_a_zero_weight_with_a_zero_gradient_stays_finite():
    optimizer = online_penalties(optax.adam(0.1), init=0.1)
    start = jax.tree.map(jnp.zeros_like, START)
    _, states, last = follow(optimizer, 3, w=start, outer=gradient)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((states, last)))


@pytest.mark.parametrize(
    "granularity, dtype", [("parameter", "bfloat16"), ("tensor", "float32"), ("scalar", "bfloat16")]
)
def test_dtypes_survive_jit_and_vmap(granularity, dtype):
    optimizer = online_penalties(
        online_learning_rates(optax.trace(0.9), init=0.1, granularity=granularity),
        init=0.01,
        granularity=granularity,
    )
    w = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]).astype(dtype), START)

    @jit
    @jax.vmap
    def step(w, state):
        updates, state = optimizer.update(w, state, w, outer_grad=w)
        return optax.apply_updates(w, updates), state

    before = jax.vmap(optimizer.init)(w)
    new, after = step(w, before)
    types = lambda tree: jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), tree)
    assert types((new, after)) == types((w, before))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after.log_values))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((new, after)))


def test_trains_inside_a_problem():
    loss = lambda w, h, x: jnp.sum((w - x) ** 2) + h * jnp.sum(w**2)
    problem = dj.Problem(loss, loss, online_learning_rates(init=0.05, log_step=0.1, rule="raw"))
    args = (jnp.array(0.1), jnp.zeros(2), jnp.ones((4, 2)), jnp.ones(2))
    stored, unrolled = (
        jit(dj.hypergradient(problem, num_steps=4, method=method))(*args)
        for method in (dj.stored(), dj.unrolled())
    )
    assert relative_error(stored.grad, unrolled.grad) < TOLERANCE["float64"]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="needs 0 < `min_value` <= `init` <= `max_value`"):
        online_learning_rates(init=20.0)
    with pytest.raises(ValueError, match="online_penalties: `log_step` must be positive"):
        online_penalties(optax.sgd(0.1), init=0.1, log_step=0.0)
    with pytest.raises(ValueError, match="`rule` must be one of"):
        online_learning_rates(init=0.1, rule="adam")
    with pytest.raises(ValueError, match="`granularity` must be one of"):
        online_learning_rates(init=0.1, granularity="layer")
    with pytest.raises(TypeError, match="`init` must be a Python number, got str"):
        online_learning_rates(init="0.1")
    with pytest.raises(TypeError, match="`direction` must be an optax.GradientTransformation"):
        online_learning_rates(0.1, init=0.1)
    with pytest.raises(TypeError, match="`optimizer` must be an optax.GradientTransformation"):
        online_penalties(0.1, init=0.1)
    optimizer = online_penalties(optax.sgd(0.1), init=0.1)
    state = optimizer.init(START)
    with pytest.raises(ValueError, match="`update` needs `outer_grad`: pass outer_grad="):
        optimizer.update(START, state, START)
    with pytest.raises(ValueError, match="`update` needs `params`"):
        optimizer.update(START, state, outer_grad=START)
