"""Losses with derivative rules of their own: what training follows is no gradient of the loss."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax._checks.own_rules import own_rules

T = 4


@jax.custom_vjp
def reversed_by(x, strength):
    return x


reversed_by.defvjp(lambda x, s: (x, s), lambda s, g: (-s * g, jnp.zeros_like(s)))


@jax.custom_vjp
def clipped_by(x, most):
    return x


clipped_by.defvjp(
    lambda x, most: (x, most), lambda most, g: (most * jnp.tanh(g / most), jnp.zeros_like(most))
)


@jax.custom_jvp
def straight_through(x, scale):
    return jnp.round(x)


@straight_through.defjvp
def _straight_through_tangent(primals, tangents):
    x, scale = primals
    return jnp.round(x), scale * tangents[0]


@jax.custom_vjp
def square(x):
    return jnp.sum(x**2)


# As JAX's tutorial writes it: right, and the rule calls its own function.
square.defvjp(lambda x: (square(x), x), lambda x, g: (2 * g * x,))


@jax.custom_jvp
def stable_elu(x):
    return jnp.where(x > 0, x, jnp.expm1(x))


stable_elu.defjvps(lambda t, y, x: t * jnp.where(x > 0, 1, jnp.exp(x)))

RULES = {"reversal": reversed_by, "clipping": clipped_by, "straight through": straight_through}
EXACT = {
    "stored": dj.stored(),
    "drmad": dj.drmad(),
    "drmad, T + 1 knots": dj.drmad(knots=T + 1, curvature="hessian"),
    "drmad, segments": dj.drmad(steps=dj.segments(2)),
    "forward": dj.forward(),
}


def adversarial(rule, optimizer):
    """Two heads on one feature, behind one of which the gradient is something else."""
    x, y, z = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((8, 3), (8,), (8,))))

    def inner(w, h, batch):
        feature = jnp.tanh(x @ w["f"])
        other = (rule(feature, h["rule"]) @ w["z"] - z) ** 2
        return (
            jnp.mean((feature @ w["y"] - y) ** 2) + jnp.mean(other) + h["l2"] * jnp.sum(w["y"] ** 2)
        )

    outer = lambda w, h, batch: jnp.mean((jnp.tanh(x @ w["f"]) @ w["y"] - y) ** 2)
    weights = {"f": 0.3 * jnp.ones((3, 2)), "y": jnp.ones(2), "z": -jnp.ones(2)}
    return dj.Problem(inner, outer, optimizer), weights


def grad_of(problem, weights, method, hparams, num_steps=T):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        compute = jax.jit(dj.hypergradient(problem, num_steps=num_steps, method=method))
        return compute(hparams, weights, jnp.zeros(num_steps), None)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_follow_the_rule(rule, method):
    problem, weights = adversarial(RULES[rule], optax.sgd(0.2, momentum=0.5))
    hparams = {"rule": jnp.asarray(0.7), "l2": jnp.asarray(0.1)}
    truth = grad_of(problem, weights, dj.unrolled(), hparams).grad
    found = grad_of(problem, weights, EXACT[method], hparams).grad
    assert abs(float(truth["rule"])) > 1e-3
    for name, value in truth.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-6, err_msg=name)


def test_reversible_follows_the_rule():
    problem, weights = adversarial(reversed_by, dj.reversible_sgd(0.2, 0.9))
    hparams = {"rule": jnp.asarray(0.7), "l2": jnp.asarray(0.1)}
    truth = grad_of(problem, weights, dj.unrolled(), hparams).grad
    found = grad_of(problem, weights, dj.reversible(), hparams).grad
    np.testing.assert_allclose(found["rule"], truth["rule"], rtol=2e-3)


def test_implicit_differentiation_of_a_game():
    """At the rest of a game its Jacobian is not symmetric: the transpose has to be solved."""

    def inner(w, h, batch):
        towards = h["rule"] * (reversed_by(w[0], 1.0) - 0.2) ** 2
        return (w[0] - 1.0 + 0.3 * w[1]) ** 2 + (w[1] - w[0]) ** 2 + towards

    problem = dj.Problem(inner, lambda w, h, batch: w[0] + 2 * w[1], optax.sgd(0.1))
    hparams, weights = {"rule": jnp.asarray(0.3)}, jnp.zeros(2)
    truth = grad_of(problem, weights, dj.checkpointed(), hparams, 300).grad["rule"]
    solver = dj.neumann_series(num_terms=400, step_size=0.1)
    found = grad_of(problem, weights, dj.implicit(solver=solver), hparams, 300).grad["rule"]
    np.testing.assert_allclose(found, truth, rtol=1e-3)
    with pytest.warns(UserWarning, match=r"`reversed_by`.*symmetric.*neumann"):
        compute = dj.hypergradient(problem, num_steps=3, method=dj.implicit())
        compute(hparams, weights, jnp.zeros(3), None)


@pytest.mark.parametrize("method", [dj.stored(), dj.drmad(), dj.implicit(), dj.drmad(knots=4)])
def test_a_right_rule_that_calls_its_own_function(method):
    inner = lambda w, h, b: square(w - 1.0) + h * jnp.sum(w**2)
    problem = dj.Problem(inner, lambda w, h, b: jnp.sum((w - 1.0) ** 2), optax.sgd(0.1))
    found = grad_of(problem, jnp.zeros(2), method, jnp.asarray(0.1), 60).grad
    # w = 1/(1 + h) at rest.
    np.testing.assert_allclose(found, 4 * 0.1 / 1.1**3, rtol=1e-3)


def test_forward_mode_through_such_a_rule_is_refused_by_name():
    inner = lambda w, h, b: square(w - 1.0) + h * jnp.sum(w**2)
    problem = dj.Problem(inner, inner, optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"custom_vjp.*checkpointed\(\)"):
        grad_of(problem, jnp.zeros(2), dj.forward(), jnp.asarray(0.1))


def test_gauss_newton_does_not_reach_past_a_rule():
    """The true trajectory with Gauss-Newton asked for: the rule's own derivative, and a word."""
    predict = lambda w, h, b: reversed_by(w, h)
    loss = dj.composite_loss(predict, lambda o, h, b: jnp.sum((o - 1.0) ** 2))
    problem = dj.Problem(loss, lambda w, h, b: jnp.sum(w), optax.sgd(0.1))
    truth = grad_of(problem, jnp.zeros(2), dj.unrolled(), jnp.asarray(0.5)).grad
    with pytest.warns(UserWarning, match=r"`reversed_by`.*reverse over reverse"):
        compute = dj.hypergradient(problem, num_steps=T, method=dj.stored(curvature="gauss_newton"))
        found = compute(jnp.asarray(0.5), jnp.zeros(2), jnp.zeros(T), None).grad
    np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_rules_that_are_the_derivative_cost_nothing():
    inner = lambda w, h, b: jnp.sum(stable_elu(jax.nn.relu(w) - h) ** 2)
    problem = dj.Problem(inner, inner, optax.sgd(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute = dj.hypergradient(problem, num_steps=T, method=dj.checkpointed())
        compute(jnp.asarray(0.1), jnp.ones(2), jnp.zeros(T), None)


def test_rules_are_found_wherever_they_are():
    x, index = jnp.ones(4), jnp.arange(2)

    @jax.custom_jvp
    def take(x, index):
        return x[index]

    take.defjvp(lambda p, t: (take(*p), t[0][p[1]]))
    inside_scan = lambda x: jax.lax.scan(lambda c, _: (reversed_by(c, 1.0), None), x, index)[0]
    assert own_rules(inside_scan, x) == ["reversed_by"]
    assert own_rules(jax.jit(jax.vmap(lambda x: straight_through(x, 2.0))), x) == [
        "straight_through"
    ]
    assert own_rules(jax.checkpoint(lambda x: reversed_by(x, 1.0) + square(x)), x) == [
        "reversed_by", "square",
    ]  # fmt: skip
    assert own_rules(lambda x: take(jax.nn.softmax(x), index), x) == []


def test_a_package_whose_name_begins_as_jax_does_is_not_trusted():
    """Functions are told apart by the folder that they are written in."""
    source = "def rounded(x):\n    return jnp.round(x)"
    file = f"{Path(jax.__file__).parent}opt/rules.py"
    names = {"jnp": jnp}
    exec(compile(source, file, "exec"), names)
    rounded = jax.custom_jvp(names["rounded"])
    rounded.defjvp(lambda x, t: (jnp.round(x[0]), t[0]))
    assert own_rules(rounded, jnp.ones(3)) == ["rounded"]
