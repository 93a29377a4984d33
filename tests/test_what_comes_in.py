"""What users hand in that is not what it should be: right, or a sentence that names it."""

import subprocess
import sys
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj

METHODS = {
    "unrolled": dj.unrolled(),
    "stored": dj.stored(),
    "drmad": dj.drmad(),
    "segments": dj.drmad(steps=dj.segments(2)),
    "knots": dj.drmad(knots=3, curvature="hessian"),
    "measured": dj.drmad(steps=dj.measured_steps(cap=3)),
    "one_step": dj.one_step(),
    "forward": dj.forward(),
    "directions": dj.forward_gradient(num_directions=2, key=jax.random.key(0)),
    "es": dj.evolution_strategies(num_pairs=2, sigma=0.1, key=jax.random.key(0)),
    "implicit": dj.implicit(),
    "nystrom": dj.implicit(solver="nystrom", key=jax.random.key(0)),
}
SEES_START = ("unrolled", "stored", "drmad", "segments", "knots", "measured")
OFTEN = ("stored", "segments", "forward", "implicit", "es")


def each(names):
    """Those that stand for all by default, the others with the slow tests."""
    slow = lambda name: () if name in OFTEN else pytest.mark.slow
    return pytest.mark.parametrize("name", [pytest.param(n, marks=slow(n)) for n in names])


each_method = each(METHODS)


def fit(w, h, batch):
    return jnp.sum((w["a"] - 1.0) ** 2)


def inner(w, h, batch):
    return fit(w, h, batch) + h["l2"] * jnp.sum(w["a"] ** 2)


PROBLEM = dj.Problem(inner, fit, optax.sgd(0.1))
GIVEN = {"l2": jnp.asarray(0.1)}, {"a": jnp.zeros(2)}, jnp.zeros(4), None


def run(method, hparams=GIVEN[0], params=GIVEN[1], batches=GIVEN[2], problem=PROBLEM, **given):
    return dj.hypergradient(problem, num_steps=4, method=method)(
        hparams, params, batches, None, **given
    )


@each_method
def test_leaves_without_entries(name):
    empty = jnp.zeros((0, 2))
    wanted = run(METHODS[name])
    found = run(METHODS[name], params=GIVEN[1] | {"z": empty})
    np.testing.assert_allclose(found.grad["l2"], wanted.grad["l2"])
    if name not in ("directions", "es"):
        # Those draw for each leaf.
        found = run(METHODS[name], hparams=GIVEN[0] | {"none": empty})
        np.testing.assert_allclose(found.grad["l2"], wanted.grad["l2"])
        assert found.grad["none"].shape == (0, 2)


@each_method
def test_no_weights_at_all(name):
    with pytest.raises(ValueError, match="`params` has no entries"):
        run(METHODS[name], params={})


@each_method
def test_no_hyperparameters_at_all(name):
    problem = dj.Problem(lambda w, h, b: fit(w, h, b), fit, optax.sgd(0.1))
    if name in ("forward", "directions", "es"):
        with pytest.raises(ValueError, match="no directions to go along"):
            run(METHODS[name], hparams={}, problem=problem)
    else:
        assert run(METHODS[name], hparams={}, problem=problem).grad == {}


@each_method
@pytest.mark.parametrize("compiled", [False, True])
def test_debug_nans_finds_none_in_a_healthy_run(name, compiled):
    call = lambda: run(METHODS[name]).grad["l2"]
    with jax.debug_nans(True), jax.debug_infs(True):
        assert jnp.isfinite(jax.jit(call)() if compiled else call())


@each_method
def test_finite_is_that_of_what_is_returned(name):
    """A float16 hyperparameter overflows where its float32 sum has not."""
    problem = dj.Problem(
        lambda w, h, b: fit(w, h, b) + h["l2"].astype(w["a"].dtype) * jnp.sum(w["a"]),
        lambda w, h, b: 1e6 * jnp.sum(w["a"]),
        optax.sgd(0.1),
    )
    with jax.numpy_dtype_promotion("standard"):
        out = run(METHODS[name], hparams={"l2": jnp.float16(0.5)}, problem=problem)
    assert out.grad["l2"].dtype == jnp.float16
    assert not jnp.isfinite(out.grad["l2"]) and not out.info.finite


@pytest.mark.filterwarnings("ignore:this optimizer has no finite derivative")
def test_finite_is_not_that_of_the_initial_weights():
    """A weight whose gradient is zero for ever: NaN under Adam, and nobody asked."""
    of_two = lambda w, h, b: inner({"a": w["a"][:2]}, h, b) + 0.1 * jnp.sum(w["a"][2:] ** 2)
    problem = dj.Problem(of_two, fit, optax.adam(0.1))
    with jax.numpy_dtype_promotion("standard"):
        out = run(dj.stored(), params={"a": jnp.array([0.3, -0.2, 0.0])}, problem=problem)
    assert out.info.finite and jnp.isfinite(out.grad["l2"])
    assert not jnp.all(jnp.isfinite(out.initial_params_grad["a"]))


def test_real_time_and_particles_say_finite_of_what_they_return():
    problem = dj.Problem(
        lambda w, h, b: jnp.sum((w - 1) ** 2) + h.astype(w.dtype) * jnp.sum(w),
        lambda w, h, b: 1e6 * jnp.sum(w),
        optax.sgd(0.1),
    )
    h, w = jnp.float16(0.5), jnp.ones(3)
    with jax.numpy_dtype_promotion("standard"):
        real = dj.real_time(problem, dj.outer_optimizer(optax.sgd(1e-3)), every=2)
        _, info = real.step(real.init(h, w), jnp.zeros(2), None)
        assert not info.finite and not jnp.isfinite(info.grad)
        particles = dj.persistent_es(problem, num_pairs=2, sigma=0.1, num_steps=4, unroll_length=2)
        key = jax.random.key(0)
        _, info = particles.step(particles.init(h, w), h, w, jnp.zeros(4), None, key=key)
        assert not info.finite and not jnp.isfinite(info.grad)


@pytest.mark.parametrize("name", ["hparams", "params"])
def test_complex_numbers_are_refused_with_the_mend(name):
    given = {"hparams": {"l2": jnp.asarray(0.1 + 0j)}, "params": {"a": jnp.zeros(2, complex)}}
    with pytest.raises(TypeError, match=rf"`{name}\[.*complex.*jax.lax.complex"):
        run(dj.drmad(), **{name: given[name]})


class Table(NamedTuple):
    table: jax.Array


def table_optimizer(*, moves):
    """Descent with rates from a large integer table, which moves or does not."""

    def update(grads, state, params=None):
        scale = 0.1 / (1 + state.table[:2].astype(grads["a"].dtype))
        table = jnp.roll(state.table, 1) if moves else state.table
        return jax.tree.map(lambda g: -scale * g, grads), Table(table)

    return optax.GradientTransformation(
        lambda params: Table(jnp.arange(100, dtype=jnp.int32)), update
    )


@pytest.mark.parametrize("name", ["knots", "segments", "measured"])
def test_a_large_integer_leaf_that_changes_is_not_taken_from_the_end(name):
    problem = dj.Problem(inner, fit, table_optimizer(moves=True))
    with pytest.warns(UserWarning, match=r"`state\.opt_state\.table`.*taken back exactly"):
        found = run(METHODS[name], problem=problem).grad["l2"]
    np.testing.assert_allclose(found, run(dj.unrolled(), problem=problem).grad["l2"])


def test_one_that_does_not_change_is_no_matter():
    problem = dj.Problem(inner, fit, table_optimizer(moves=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(dj.drmad(knots=5, curvature="hessian"), problem=problem).grad["l2"]
    np.testing.assert_allclose(found, run(dj.unrolled(), problem=problem).grad["l2"])


@each_method
def test_methods_are_values(name):
    method = METHODS[name]
    assert hash(method) == hash(method) and method == method
    repr(method)


def test_methods_with_keys_are_told_apart_by_them():
    make = lambda key: dj.evolution_strategies(num_pairs=2, sigma=0.1, key=key)
    one, other = make(jax.random.key(0)), make(jax.random.key(1))
    assert one == make(jax.random.key(0)) and hash(one) == hash(make(jax.random.key(0)))
    assert one != other and make(jax.random.PRNGKey(0)) == make(jax.random.PRNGKey(0))
    assert one != make(jax.random.PRNGKey(0))

    traced = []

    @jax.jit
    def draw(key):
        traced.append(make(key))
        return run(make(key)).grad["l2"]

    draw(jax.random.key(0))
    assert traced[0] == traced[0]
    static = jax.jit(lambda method: run(method).grad["l2"], static_argnums=0)
    assert static(one) != static(other)


@pytest.mark.parametrize(
    "key", [7, "seed", jnp.asarray(7), jax.random.split(jax.random.key(0)), np.zeros(2)]
)
def test_what_is_no_key(key):
    with pytest.raises(TypeError, match="`key` must be"):
        run(dj.drmad(), key=key)
    with pytest.raises(TypeError, match="`key` must be"):
        dj.minibatches(jnp.zeros(4), 2, key)
    with pytest.raises(TypeError, match="`key` must be"):
        dj.implicit(key=key)


def test_iterators_are_refused_with_the_mend():
    batches = [jnp.zeros(()) for _ in range(8)]
    with pytest.raises(TypeError, match="iterator.*host_batches"):
        run(dj.stored(), batches=iter(batches))
    with pytest.raises(TypeError, match="generator.*minibatches"):
        run(dj.stored(), batches=(batch for batch in batches))
    with pytest.raises(TypeError, match="function of the step"):
        dj.host_batches(iter(batches), batches[0])
    stream = iter(np.arange(100.0))
    with pytest.raises(ValueError, match="two different batches for step 0"):
        dj.host_batches(lambda step: next(stream), np.zeros(()))
    with pytest.raises(ValueError, match="like `example`"):
        dj.host_batches(lambda step: np.zeros(3), np.zeros(2))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_hyperparameter_in_a_closure(compiled):
    def value(y, train):
        loss = lambda w, h, b: jnp.sum((w - 1.0) ** 2) + y * jnp.sum(w**2)
        problem = dj.Problem(loss, loss, optax.sgd(0.1))
        return train(problem)({}, jnp.zeros(2), jnp.zeros(5)).params.sum()

    of = lambda method: lambda problem: dj.train(problem, num_steps=5, method=method)
    grad = lambda method: jax.grad(lambda y: value(y, of(method)))
    grad = jax.jit(grad(dj.stored())) if compiled else grad(dj.stored())
    with pytest.raises(ValueError, match="pass that value in `hparams`"):
        grad(0.1)
    unrolled = lambda y: value(y, of(dj.unrolled()))
    difference = (unrolled(0.1 + 1e-6) - unrolled(0.1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(unrolled)(0.1), difference, rtol=1e-6)


@each_method
@pytest.mark.parametrize(
    "batches", [None, pytest.param((), marks=pytest.mark.slow), lambda step: None]
)
def test_losses_that_take_no_batch(name, batches):
    wanted = run(METHODS[name])
    compute = jax.jit(lambda h, w: run(METHODS[name], h, w, batches))
    np.testing.assert_allclose(compute(*GIVEN[:2]).grad["l2"], wanted.grad["l2"])


@each(SEES_START)
def test_a_function_of_ones_own_gives_batches(name):
    data = jnp.linspace(0.0, 1.0, 4)
    of_batch = lambda w, h, batch: inner(w, h, None) + batch * jnp.sum(w["a"])
    problem = dj.Problem(of_batch, fit, optax.sgd(0.1))
    stacked = run(METHODS[name], batches=data, problem=problem)
    called = run(METHODS[name], batches=lambda step: data[step], problem=problem)
    np.testing.assert_allclose(called.grad["l2"], stacked.grad["l2"], rtol=1e-12)

    def trained(h):
        train = dj.train(problem, num_steps=4, method=METHODS[name])
        return fit(train(h, GIVEN[1], lambda step: data[step]).params, h, None)

    np.testing.assert_allclose(jax.grad(trained)(GIVEN[0])["l2"], stacked.grad["l2"], rtol=1e-12)


@each_method
def test_a_loss_may_return_more(name):
    problem = dj.Problem(lambda *given: (inner(*given), {"accuracy": 1}), fit, optax.sgd(0.1))
    found = run(METHODS[name], problem=problem).grad["l2"]
    np.testing.assert_allclose(found, run(METHODS[name]).grad["l2"])


def test_what_a_loss_asks_for_and_does_not_get():
    with_key = lambda w, h, b, *, key: inner(w, h, b)
    with_state = lambda w, h, b, *, model_state: inner(w, h, b)
    for problem, said in (
        (dj.Problem(with_key, fit, optax.sgd(0.1)), r"`inner_loss` asks for `key`.*key="),
        (dj.Problem(inner, with_key, optax.sgd(0.1)), "`outer_loss` asks for `key`"),
        (dj.Problem(with_state, fit, optax.sgd(0.1)), "`inner_loss` asks for `model_state`"),
        (
            dj.Problem(dj.composite_loss(with_key, lambda o, h, b: o), fit, optax.sgd(0.1)),
            "`predict` asks for `key`",
        ),
    ):
        with pytest.raises(TypeError, match=said):
            run(dj.drmad(), problem=problem)
    problem = dj.Problem(with_state, with_state, optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"must return `\(loss, new_model_state\)`"):
        run(dj.drmad(), problem=problem, model_state=jnp.zeros(()))


WRONG = {
    "ints, got 2.5": lambda: dj.drmad(knots=(0, 2.5, 4)),
    "`knots` must be a Python int.*float": lambda: dj.drmad(knots=3.5),
    "got bool True": lambda: dj.drmad(knots=True),
    "at least one interval": lambda: dj.checkpointed(every=[]),
    "`multiplier` must be finite": lambda: dj.measured_steps(cap=3, multiplier=float("nan")),
    "`multiplier` must be a Python number": lambda: dj.measured_steps(cap=3, multiplier="2"),
    "`batch_size` must be a Python int.*True": lambda: dj.minibatches(
        jnp.zeros(3), True, jax.random.key(0)
    ),
    "`batch_size` must be a Python int.*2.0": lambda: dj.minibatches(
        jnp.zeros(3), 2.0, jax.random.key(0)
    ),
    "both finite, got nan": lambda: dj.transforms.sigmoid(float("nan"), 1.0),
    "both finite, got 0.0 and inf": lambda: dj.transforms.sigmoid(0.0, float("inf")),
    "log: values must be above zero": lambda: dj.transforms.unconstrain(
        dj.transforms.log(), jnp.array([1.0, -1.0])
    ),
    "sigmoid: values must be between 0.0 and 1.0": lambda: dj.transforms.unconstrain(
        {"m": dj.transforms.sigmoid()}, {"m": 1.0}
    ),
    "softplus: values must be above zero": lambda: dj.transforms.softplus().unconstrain(0.0),
    "with sum one": lambda: dj.transforms.simplex().unconstrain(jnp.array([0.5, 0.2])),
    "structure of `hparams`": lambda: dj.transforms.constrain(
        {"a": dj.transforms.log()}, {"a": 0.0, "b": 0.0}
    ),
    r"transforms\['a'\] is no transform": lambda: dj.transforms.constrain({"a": 1.0}, {"a": 0.0}),
    "`optimizer` must be an optax": lambda: dj.outer_optimizer(0.1),
    "`project` must be a function": lambda: dj.outer_optimizer(optax.sgd(0.1), project=1.0),
    "agreement: both must have": lambda: dj.agreement({"a": jnp.ones(3)}, {"b": jnp.ones(3)}),
    "agreement_with_other_seeds: both must have": lambda: dj.agreement_with_other_seeds(
        jnp.ones((3, 2)), jnp.ones((4, 2))
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_sentence_for(said):
    with pytest.raises((TypeError, ValueError), match=said):
        WRONG[said]()


def test_nothing_runs_at_import():
    """No device is touched, so that users can still choose theirs."""
    code = "import drmad_jax, jax._src.xla_bridge as x; assert not x.backends_are_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)
