"""Evolution strategies: unbiased, antithetic, the same in any chunking."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax.methods import zero_order
from drmad_jax.methods.weighted_mean import weighted_mean

HPARAMS = {"target": np.array([1.0, -2.0]), "scale": np.array(0.5)}
PARAMS = np.array([1.0, 3.0])
BATCHES = np.array([[0.5, 1.0], [-1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
DRAWS = 1000


def inner_loss(w, h, batch):
    return 0.5 * jnp.sum((w - h["target"] * batch) ** 2)


def outer_loss(w, h, batch):
    return 0.5 * jnp.sum((w - batch) ** 2) + h["scale"] ** 2


# The outer loss is quadratic in the hyperparameters, so that smoothing leaves its gradient alone.
PROBLEM = dj.Problem(
    inner_loss,
    outer_loss,
    optax.sgd(0.3, momentum=0.5),
    initial_params=lambda params, h: h["scale"] * params,
)
VALIDATION = np.array([0.3, -0.4])


@functools.cache
def estimate(num_pairs, sigma=0.7, chunk_size=None):
    def compute(hparams, key):
        method = dj.evolution_strategies(
            num_pairs=num_pairs, sigma=sigma, chunk_size=chunk_size, key=key
        )
        run = dj.hypergradient(PROBLEM, num_steps=4, method=method)
        return run(hparams, PARAMS, BATCHES, VALIDATION)

    return jax.jit(compute)


@functools.cache
def exact(num_steps):
    compute = dj.hypergradient(PROBLEM, num_steps=num_steps, method=dj.unrolled())
    return jax.jit(compute)(HPARAMS, PARAMS, BATCHES[:num_steps], VALIDATION)


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def by_draw(tree):
    """Draws along the first axis, entries along the second."""
    return np.concatenate([np.reshape(x, (DRAWS, -1)) for x in jax.tree.leaves(tree)], axis=1)


def standardised(estimates, reference):
    """Distance of the mean over the draws from the reference, in standard errors, by entry."""
    entries = by_draw(estimates)
    error = entries.std(axis=0, ddof=1) / np.sqrt(DRAWS)
    return np.abs(entries.mean(axis=0) - flat(reference)) / error


def test_unbiased_with_the_standard_error_that_it_reports():
    keys = jax.random.split(jax.random.key(0), DRAWS)
    out = jax.jit(jax.vmap(estimate(10), in_axes=(None, 0)))(HPARAMS, keys)
    assert np.all(standardised(out.grad, exact(4).grad) < 3)
    reported = np.sqrt(np.mean(by_draw(out.info.standard_error) ** 2, axis=0))
    assert np.allclose(reported, by_draw(out.grad).std(axis=0), rtol=0.1)


def test_one_pair_has_no_standard_error():
    one = np.ones((1, 2))
    mean, error = weighted_mean(lambda e: e, jnp.asarray(one), jnp.asarray([3.0]))
    assert mean.tolist() == [3.0, 3.0] and np.all(np.isinf(error))


def test_value_and_state_are_those_of_the_unperturbed_run():
    out, reference = estimate(10)(HPARAMS, jax.random.key(0)), exact(4)
    assert float(out.value) == pytest.approx(float(reference.value), rel=1e-12)
    assert np.allclose(out.params, reference.params, rtol=1e-12)
    assert int(out.state.step) == 4 and out.initial_params_grad is None
    assert out.info.cotangent_norm is None and out.info.cotangent_norm_at_start is None
    assert jax.tree.map(jnp.shape, out.grad) == jax.tree.map(np.shape, HPARAMS)


def test_chunks_change_nothing():
    reference = estimate(10)(HPARAMS, jax.random.key(3))
    out = estimate(10, chunk_size=4)(HPARAMS, jax.random.key(3))
    assert np.allclose(flat(out.grad), flat(reference.grad), rtol=1e-12)
    error = flat(out.info.standard_error)
    assert np.allclose(error, flat(reference.info.standard_error), rtol=1e-10)


def test_pairs_are_antithetic(monkeypatch):
    def compute(loss):
        problem = dj.Problem(loss, lambda w, h, batch: loss(w, h, batch), optax.sgd(0.1))
        method = dj.evolution_strategies(num_pairs=5, sigma=0.1, key=jax.random.key(0))
        run = dj.hypergradient(problem, num_steps=2, method=method)
        return jax.jit(run)(np.zeros(2), np.ones(2), np.ones(2), 1.0)

    even = compute(lambda w, h, batch: jnp.sum(w**2) * batch + jnp.sum(jnp.abs(h)))
    assert even.grad.tolist() == [0.0, 0.0]
    skewed = lambda w, h, batch: jnp.sum((w - jnp.exp(h)) ** 2)
    reference, plain = compute(skewed), zero_order.draw_noise
    negative = lambda *inputs: jax.tree.map(jnp.negative, plain(*inputs))
    monkeypatch.setattr(zero_order, "draw_noise", negative)
    assert np.allclose(compute(skewed).grad, reference.grad, rtol=1e-12)


def test_a_new_key_compiles_nothing_and_draws_anew():
    compute = estimate(10)
    first, second = (compute(HPARAMS, jax.random.key(seed)) for seed in (0, 1))
    assert compute._cache_size() == 1
    assert not np.allclose(flat(first.grad), flat(second.grad))


@pytest.mark.slow
def test_key_of_the_call_or_of_the_method():
    """The losses take no key: it is for the perturbations alone."""

    def grad(own=None, of_call=None):
        method = dj.evolution_strategies(num_pairs=2, sigma=0.1, key=own)
        compute = dj.hypergradient(PROBLEM, num_steps=4, method=method)
        return flat(compute(HPARAMS, PARAMS, BATCHES, VALIDATION, key=of_call).grad)

    grad = jax.jit(grad)
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (grad(of_call=key) for key in keys)
    assert not np.allclose(first, second)
    assert np.array_equal(grad(own=keys[0]), grad(own=keys[0], of_call=keys[1]))
    assert not np.allclose(grad(own=keys[0]), first)
    with pytest.raises(
        ValueError, match=r"evolution_strategies\(key=...\) inside .*call .* with key="
    ):
        grad()


def test_it_cannot_be_differentiated_as_training():
    method = dj.evolution_strategies(num_pairs=2, sigma=0.1)
    with pytest.raises(ValueError, match="train: EvolutionStrategies.* give it to hypergradient"):
        dj.train(PROBLEM, num_steps=4, method=method)


def test_a_diverging_run_is_not_finite():
    problem = dj.Problem(inner_loss, outer_loss, optax.sgd(1e200))
    method = dj.evolution_strategies(num_pairs=2, sigma=0.1, key=jax.random.key(0))
    compute = jax.jit(dj.hypergradient(problem, num_steps=4, method=method))
    assert not bool(compute(HPARAMS, PARAMS, BATCHES, VALIDATION).info.finite)


# Persistent evolution strategies: two windows of two steps.


@functools.cache
def persistent(num_pairs, chunk_size=None):
    return dj.persistent_es(
        PROBLEM,
        num_pairs=num_pairs,
        sigma=0.7,
        num_steps=4,
        unroll_length=2,
        chunk_size=chunk_size,
    )


def windows(pes, key, count, *, forget=False):
    """States and infos of the first windows, stacked; forgetting what was accumulated from the
    windows before is truncated evolution strategies."""

    def step(state, _):
        if forget:
            state = state._replace(accumulated=jax.tree.map(jnp.zeros_like, state.accumulated))
        state, info = pes.step(state, HPARAMS, PARAMS, BATCHES, VALIDATION, key=key)
        return state, (state, info)

    return jax.lax.scan(step, pes.init(HPARAMS, PARAMS), length=count)[1]


@functools.cache
def many_windows(forget):
    keys = jax.random.split(jax.random.key(4), DRAWS)
    run = jax.vmap(lambda key: windows(persistent(10), key, 3, forget=forget)[1].grad)
    grads = jax.jit(run)(keys)
    return [jax.tree.map(lambda x, i=i: x[:, i], grads) for i in range(3)]


def test_persistent_estimates_are_unbiased_in_every_window():
    for grad, num_steps in zip(many_windows(False), (2, 4, 2), strict=True):
        assert np.all(standardised(grad, exact(num_steps).grad) < 3)


def test_truncated_ones_are_biased():
    grad = many_windows(True)[1]
    truncated = dj.hypergradient(PROBLEM, num_steps=4, method=dj.truncated(num_reverse_steps=2))
    last_window = jax.jit(truncated)(HPARAMS, PARAMS, BATCHES, VALIDATION)
    assert np.all(standardised(grad, last_window.grad) < 3)
    assert np.max(standardised(grad, exact(4).grad)) > 10


def test_particles_start_again_after_a_run():
    states, info = jax.jit(lambda key: windows(persistent(3), key, 3))(jax.random.key(5))
    assert states.particles.params.shape == (3, 3, 2, 2) and bool(info.finite.all())
    assert states.particles.step[:, 0, 0].tolist() == [2, 0, 2]
    assert states.window.tolist() == [1, 2, 3]
    accumulated = np.concatenate([x.reshape(3, -1) for x in jax.tree.leaves(states.accumulated)], 1)
    assert len(np.unique(accumulated)) == accumulated.size
    # Both runs began with the same batches, at perturbed hyperparameters of their own.
    replayed = jax.tree.map(lambda h, e: h + e[2, 0], HPARAMS, states.accumulated)
    compute = dj.hypergradient(PROBLEM, num_steps=2, method=dj.unrolled())
    reference = jax.jit(compute)(replayed, PARAMS, BATCHES[:2], VALIDATION)
    assert np.allclose(states.particles.params[2, 0, 0], reference.params, rtol=1e-12)


def test_persistent_chunks_change_nothing():
    run = lambda chunk_size: jax.jit(lambda key: windows(persistent(3, chunk_size), key, 3)[1])
    reference, info = (run(size)(jax.random.key(5)) for size in (None, 2))
    assert np.allclose(flat(info.grad), flat(reference.grad), rtol=1e-12)
    assert np.all(flat(info.standard_error) > 0)


def test_persistent_steps_compile_once_and_carry_counters_and_keys():
    optimizer = optax.chain(optax.add_noise(0.01, 0.55, jax.random.key(3)), optax.sgd(0.1))
    loss = lambda w, h, batch, *, model_state, key: (
        inner_loss(w, h, batch) + 0 * jax.random.normal(key),
        {"seen": model_state["seen"] + 1},
    )
    outer = lambda w, h, batch, *, model_state: outer_loss(w, h, batch)
    pes = dj.persistent_es(
        dj.Problem(loss, outer, optimizer), num_pairs=2, sigma=0.1, num_steps=4, unroll_length=2
    )
    model_state, key = {"seen": jnp.int32(0)}, jax.random.key(0)
    step = jax.jit(pes.step)
    state = pes.init(HPARAMS, PARAMS, model_state=model_state)
    options = {"key": key, "model_state": model_state, "inner_key": key}
    for seen in (2, 4, 2):
        with jax.numpy_dtype_promotion("standard"):
            state, info = step(state, HPARAMS, PARAMS, BATCHES, VALIDATION, **options)
        assert state.particles.model_state["seen"].tolist() == [[seen, seen]] * 2
        assert bool(info.finite)
    assert step._cache_size() == 1


def test_options_are_checked():
    strategies = functools.partial(dj.evolution_strategies, num_pairs=4, sigma=0.1)
    windowed = functools.partial(
        dj.persistent_es, PROBLEM, num_pairs=4, sigma=0.1, num_steps=6, unroll_length=3
    )
    for factory, options, error, message in [
        (strategies, {"num_pairs": 0}, ValueError, r"`num_pairs` must be at least 1, got 0"),
        (strategies, {"sigma": 0.0}, ValueError, r"`sigma` must be above 0.0, got 0.0"),
        (strategies, {"sigma": jnp.ones(())}, TypeError, r"`sigma` must be a Python number"),
        (strategies, {"chunk_size": 0}, ValueError, r"`chunk_size` must be at least 1"),
        (strategies, {"key": 0}, TypeError, r"`key` must be a key such as jax.random.key"),
        (windowed, {"unroll_length": 4}, ValueError, r"divisor of num_steps = 6, got 4"),
        (windowed, {"num_pairs": 1.5}, TypeError, r"`num_pairs` must be a Python int"),
        (windowed, {"sigma": -1}, ValueError, r"`sigma` must be above 0"),
    ]:
        with pytest.raises(error, match=message):
            factory(**options)
    with pytest.raises(TypeError, match="`problem` must be a drmad_jax.Problem"):
        dj.persistent_es(None, num_pairs=1, sigma=1.0, num_steps=1, unroll_length=1)
    with pytest.raises(ValueError, match=r"`inner_batches` must have leading axis num_steps = 6"):
        pes = windowed()
        state = pes.init(HPARAMS, PARAMS)
        pes.step(state, HPARAMS, PARAMS, BATCHES, VALIDATION, key=jax.random.key(0))
