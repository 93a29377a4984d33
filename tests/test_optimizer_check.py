"""The warning about optimizers without a derivative at zero: given where due, and cheap."""

import importlib
import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax._checks.optimizer import warn_of_infinite_slope
from problems import CHAINS, NUM_STEPS

MESSAGE = r"hypergradient becomes NaN .* optax.adam\(learning_rate, eps_root=1e-8\)"


def labels(w):
    return {"hidden": {"kernel": "sgd", "bias": "sgd"}, "out": "adam"}


def only_last(w):
    return {"hidden": {"kernel": False, "bias": False}, "out": True}


NOT_DIFFERENTIABLE = {
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "nadam": optax.nadam(1e-3),
    "lamb": optax.lamb(1e-3),
    "learned rate": lambda h: optax.adam(h["lr"], b1=h["momentum"]),
    "injected": lambda h: optax.inject_hyperparams(optax.adam)(h["lr"]),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3)),
    "masked": optax.chain(optax.masked(optax.scale_by_adam(), only_last), optax.scale(-0.1)),
    "multi_transform": optax.multi_transform(
        {"sgd": optax.sgd(0.1), "adam": optax.adam(0.1)}, labels
    ),
}
HARMLESS = CHAINS | {
    "rates per weight": lambda h: optax.chain(
        optax.scale_by_adam(eps_root=1e-8),
        optax.stateless(lambda g, w: jax.tree.map(lambda x: x * jnp.ones((5, 4)), g)),
    ),
    "adagrad": optax.adagrad(0.1),
    "adabelief": optax.adabelief(0.1),
    "logarithmic rate": lambda h: optax.sgd(jnp.log(h["lr"] - 0.5)),
    "cannot be probed": optax.GradientTransformation(lambda w: None, lambda *_: 1 / 0),
    "reversible": lambda h: dj.reversible_sgd(h["lr"], h["momentum"]),
}


def probe(optimizer, hparams=None):
    hparams = problems.hparams() if hparams is None else hparams
    with jax.numpy_dtype_promotion("standard"):
        warn_of_infinite_slope(problems.problem(optimizer), hparams, problems.params())


@pytest.mark.parametrize("name", sorted(NOT_DIFFERENTIABLE))
def test_the_adam_family_is_named(name):
    with pytest.warns(UserWarning, match=MESSAGE):
        probe(NOT_DIFFERENTIABLE[name])


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_no_false_alarm(name):
    with warnings.catch_warnings(record=True, action="always") as caught:
        probe(HARMLESS[name])
        jax.eval_shape(lambda h: probe(HARMLESS[name], h), problems.hparams())
    assert not caught


def test_traced_rates_do_not_hide_it():
    """As an argument, mapped, and closed over by an optimizer that is made inside."""
    learned = lambda h: probe(lambda h: optax.adam(h["lr"], b1=h["momentum"]), h)
    closed_over = lambda h: probe(optax.adamw(h["lr"], b2=h["momentum"]), h)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), problems.hparams())
    for function in (learned, closed_over):
        for call, hparams in (
            (jax.jit(function), problems.hparams()),
            (jax.vmap(function), stacked),
            (jax.jit(jax.vmap(function)), stacked),
        ):
            with pytest.warns(UserWarning, match=MESSAGE):
                call(hparams)


def small(entry, method):
    """Weights of which one, at zero, has a gradient of exactly zero."""
    loss = lambda w, h, x: h * jnp.sum(w**2)
    problem = dj.Problem(loss, loss, optax.adam(0.1))
    return jax.jit(entry(problem, num_steps=2, method=method))


ARGUMENTS = jnp.ones(()), jnp.array([1.0, 0.0]), jnp.zeros(2)


@pytest.mark.parametrize("method", [dj.stored(), dj.unrolled(), dj.forward(), dj.one_step()])
def test_hypergradient_and_train_warn_once_a_trace(method):
    with jax.numpy_dtype_promotion("standard"), pytest.warns(UserWarning, match=MESSAGE) as caught:
        compute, train = small(dj.hypergradient, method), small(dj.train, method)
        out = compute(*ARGUMENTS, None)
        jax.grad(lambda h: train(h, *ARGUMENTS[1:]).params[0])(ARGUMENTS[0])
        assert len(caught) == 2
        compute(*ARGUMENTS, None)
    assert len(caught) == 2
    assert not bool(out.info.finite)


def test_methods_that_do_not_differentiate_the_optimizer_do_not_warn():
    for method in (
        dj.implicit(),
        dj.evolution_strategies(num_pairs=1, sigma=0.1, key=jax.random.key(0)),
    ):
        loss = lambda w, h, x: h * jnp.sum(w**2)
        problem = dj.Problem(loss, loss, optax.adam(0.1))
        compute = dj.hypergradient(problem, num_steps=2, method=method)
        with (
            jax.numpy_dtype_promotion("standard"),
            warnings.catch_warnings(record=True, action="always") as caught,
        ):
            jax.eval_shape(compute, *ARGUMENTS, None)
        assert not caught


def test_it_leaves_nothing_in_the_program(monkeypatch):
    compute = dj.hypergradient(problems.problem(CHAINS["adam"]), num_steps=NUM_STEPS)
    given = problems.hparams(), problems.params(), problems.batches(), problems.data()
    with jax.numpy_dtype_promotion("standard"):
        checked = str(jax.make_jaxpr(compute)(*given))
        module = importlib.import_module("drmad_jax.protocol")
        monkeypatch.setattr(module, "warn_of_infinite_slope", lambda *_: None)
        assert str(jax.make_jaxpr(compute)(*given)) == checked


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap])
def test_a_warning_points_to_the_line_that_called(wrap):
    loss = lambda w, h, b: jnp.sum((w - h) ** 2)
    problem = dj.Problem(loss, loss, optax.adam(0.1))
    compute = dj.hypergradient(problem, num_steps=2, method=dj.stored())
    call = wrap(lambda h: compute(h, jnp.zeros(2), None, None).grad)
    with warnings.catch_warnings(record=True, action="always") as caught:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            call(jnp.ones(3) if wrap is jax.vmap else jnp.ones(()))
    assert [warning.filename for warning in caught] == [__file__]
