"""An exact end, segments before it, and what the end serves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax.reverse.method import EXACT
from drmad_jax.reverse.stretches import Stretches

NUM_STEPS, NUM_LAST = 23, 7
SEGMENTS = dj.segments(3, num_products=4, num_batches=2)


def hypergradient(method, num_steps=NUM_STEPS):
    compute = jax.jit(dj.hypergradient(problems.problem(), num_steps=num_steps, method=method))
    return compute(problems.hparams(), problems.params(), problems.batches(), problems.data())


def ended(exact_end, serves="this_run"):
    return dj.drmad(steps=SEGMENTS, exact_end=exact_end, serves=serves)


def test_two_exact_stretches_are_one():
    """The border between stretches changes nothing where both are exact."""
    out = hypergradient(Stretches(EXACT, NUM_LAST, "this_run", save=False))
    expected = hypergradient(dj.stored())
    assert problems.relative_error(out.grad, expected.grad) < 1e-11
    start = problems.relative_error(out.initial_params_grad, expected.initial_params_grad)
    assert start < 1e-11
    assert int(out.info.num_reverse_steps) == NUM_STEPS


def test_tuning_is_served_by_the_mean_of_the_last_states():
    """Against jax.grad of the outer loss at the mean of the last K + 1 weights, by a plain loop."""
    problem, params, batches = problems.problem(), problems.params(), problems.batches()

    def outer(hparams):
        state, states = dj.init_state(problem, hparams, params), []
        for step in range(NUM_STEPS):
            state, _ = dj.train_step(problem, state, hparams, batches(jnp.int32(step)))
            states.append(state.params)
        last = states[-NUM_LAST - 1 :]
        mean = jax.tree.map(lambda *x: sum(x) / len(x), *last)
        return problem.outer(mean, hparams, problems.data(), None)

    out = hypergradient(Stretches(EXACT, NUM_LAST, "tuning", save=False))
    expected = jax.jit(jax.grad(outer))(problems.hparams())
    assert problems.relative_error(out.grad, expected) < 1e-9
    # What is reported is the loss of the run.
    np.testing.assert_allclose(out.value, hypergradient(dj.stored()).value, rtol=1e-12)


def test_an_end_as_long_as_the_run_is_exact():
    expected = hypergradient(dj.stored())
    for method in (ended(NUM_STEPS), ended(NUM_STEPS + 5), dj.drmad(exact_end=None)):
        assert problems.relative_error(hypergradient(method).grad, expected.grad) < 1e-11


@pytest.mark.slow
def test_a_longer_end_is_nearer_to_the_exact_one():
    expected = hypergradient(dj.stored())
    errors = [
        problems.relative_error(hypergradient(ended(count)).grad, expected.grad)
        for count in (0 or 1, 8, 16)
    ]
    assert errors[0] > errors[1] > errors[2] > 1e-6


def test_the_end_serves_what_the_hyperparameters_are():
    """Penalties read nothing of a step; a learning rate under a schedule does."""
    loss = lambda w, h, x: jnp.sum((w - x) ** 2) + h["l2"] * jnp.sum(w**2)
    fixed = lambda h: optax.sgd(0.1)
    scheduled = lambda h: optax.sgd(lambda count: h["rate"] * jnp.exp(-0.001 * count.astype(float)))
    weighted = lambda w, h, x: h["weight"] * jnp.sum((w @ jnp.ones((2, 2)) - x) ** 2)
    for inner, optimizer, h, serves, terms in (
        (loss, fixed, {"l2": 0.1}, "tuning", 1),
        (loss, scheduled, {"l2": 0.1, "rate": 0.1}, "this_run", 0),
        (weighted, fixed, {"weight": 1.0}, "this_run", 50),
    ):
        problem = dj.Problem(inner, inner, optimizer)
        start = lambda h, p=problem: dj.init_state(p, h, jnp.ones(2))
        run = dj.training.run.Run(problem, 40, jnp.ones((40, 2)), None, start)
        with jax.numpy_dtype_promotion("standard"):
            method = ended(4, "auto").resolve(run, start(h), h)
        assert (method.serves, method.first.steps.num_terms) == (serves, terms)


def test_the_end_serves_this_run_where_the_model_has_a_state():
    """Running statistics are not those of averaged weights."""

    def loss(w, h, x, *, model_state):
        return jnp.sum((w - x) ** 2) + h * jnp.sum(w**2), 0.9 * model_state + 0.1 * x

    outer = lambda w, h, x, *, model_state: jnp.sum((w - model_state) ** 2)
    problem = dj.Problem(loss, outer, optax.sgd(0.1))
    start = lambda h: dj.init_state(problem, h, jnp.ones(2), model_state=jnp.zeros(2))
    run = dj.training.run.Run(problem, 40, jnp.ones((40, 2)), None, start)
    assert ended(4, "auto").resolve(run, start(0.1), 0.1).serves == "this_run"


def test_info_says_what_segments_leave_and_what_the_end_brings():
    """A quadratic: its curvature drifts with the step size alone, which doubles at half time."""
    curvature = jnp.array([3.0, 1.0, 0.2])
    loss = lambda w, h, x: 0.5 * jnp.sum(curvature * (w - h) ** 2)
    rate = lambda count: jnp.where(count < 10, 0.05, 0.1)
    problem = dj.Problem(loss, lambda w, h, x: jnp.sum(w * x), optax.sgd(rate))

    def call(method, num_steps=20):
        compute = jax.jit(dj.hypergradient(problem, num_steps=num_steps, method=method))
        return compute(jnp.ones(3), jnp.zeros(3), jnp.zeros(num_steps), jnp.ones(3))

    segments = lambda m: dj.segments(2, num_products=m, num_batches=1, spacing="even")
    info = call(dj.drmad(steps=segments(3))).info
    np.testing.assert_allclose(info.segment_drift, 0.5, rtol=1e-6)
    assert info.segment_residual < 1e-9 and info.exact_share is None
    assert call(dj.drmad(steps=segments(1))).info.segment_residual > 0.01
    ended = call(dj.drmad(steps=segments(3), exact_end=5, serves="this_run"))
    of_end = jnp.linalg.norm(call(dj.truncated(num_reverse_steps=5)).grad)
    rest = jnp.linalg.norm(ended.grad - call(dj.truncated(num_reverse_steps=5)).grad)
    np.testing.assert_allclose(ended.info.exact_share, of_end / (of_end + rest), rtol=1e-9)
    exact = call(dj.stored()).info
    assert exact.segment_drift is None and exact.segment_residual is None


def test_every_steps_own_rate_gets_its_own_gradient():
    """One rate a step: with one term a segment all but one entry of each would be zero.

    With little noise: a segment knows the mean gradient, not that of each step.
    """
    loss = lambda w, h, x: 0.5 * jnp.sum((w - x) ** 2)
    problem = dj.Problem(loss, loss, lambda h: optax.sgd(lambda count: h[count]))
    batches = 0.1 * jax.random.normal(jax.random.key(0), (60, 4)) + 1

    def grad(method):
        compute = jax.jit(dj.hypergradient(problem, num_steps=60, method=method))
        return compute(jnp.full(60, 0.01), jnp.zeros(4), batches, jnp.ones(4)).grad

    exact, segments = grad(dj.stored()), grad(ended(10))
    cosine = exact @ segments / jnp.linalg.norm(exact) / jnp.linalg.norm(segments)
    assert jnp.all(segments != 0) and cosine > 0.9
    np.testing.assert_allclose(segments[-10:], exact[-10:], rtol=1e-9)


def test_what_the_optimizer_only_hands_on_keeps_its_gradient():
    """A decay that `inject_hyperparams` puts into the state is that given directly."""
    loss = lambda w, h, x: jnp.mean((w - x) ** 2)
    decay = optax.add_decayed_weights
    direct = lambda h: optax.chain(decay(jnp.exp(h)), optax.sgd(0.05))
    injected = lambda h: optax.chain(
        optax.inject_hyperparams(decay)(weight_decay=jnp.exp(h)), optax.sgd(0.05)
    )
    grads = []
    for optimizer in (direct, injected):
        for method in (ended(0, "auto"), ended(10)):
            problem = dj.Problem(loss, loss, optimizer)
            compute = jax.jit(dj.hypergradient(problem, num_steps=60, method=method))
            grads.append(compute(-2.0, jnp.ones(3), jnp.arange(60.0), 0.5).grad)
    np.testing.assert_allclose(grads[:2], grads[2:], rtol=1e-9)
    assert abs(grads[0]) > 1e-3


def test_weights_that_do_not_answer_are_followed_apart():
    """Signs of gradients: no weight answers, and the cotangent stays what it was."""
    loss = lambda w, h, x: 0.5 * jnp.sum((w - x) ** 2) + 0.5 * jnp.exp(h) * jnp.sum(w**2)
    labels = {"moved": "sgd", "signed": "sign"}
    both = optax.multi_transform({"sgd": optax.sgd(0.01), "sign": optax.sign_sgd(1e-3)}, labels)
    tie = lambda w, h, x: loss(w["moved"], h, x) + jnp.sum((w["moved"] - w["signed"]) ** 2)
    problem = dj.Problem(tie, lambda w, h, x: tie(w, 0.0, x), both)
    weights = {"moved": jnp.array([0.5, -1.0]), "signed": jnp.array([1.0, 2.0])}

    def call(method):
        compute = jax.jit(dj.hypergradient(problem, num_steps=60, method=method))
        return compute(-1.0, weights, jnp.ones((60, 2)), jnp.ones(2))

    many = dj.drmad(steps=dj.segments(12, num_products=4, num_batches=2))
    out, exact = call(many), call(dj.stored())
    np.testing.assert_allclose(out.grad, exact.grad, rtol=0.05)
    start, expected = out.initial_params_grad, exact.initial_params_grad
    np.testing.assert_allclose(start["moved"], expected["moved"], rtol=0.1)
    np.testing.assert_allclose(start["signed"], expected["signed"], rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"serves": "tuning", "knots": 2}, "give `exact_end`, too"),
        ({"exact_end": 3, "steps": dj.every_step()}, "`exact_end` is for segments"),
        ({"exact_end": -1}, "exact_end"),
        ({"exact_end": 3, "serves": "all"}, "`serves` must be one of"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dj.drmad(**options)


MISFITS = {
    "schedule-free": (optax.contrib.schedule_free_sgd(0.05), "begins with the weights"),
    "waits": (optax.chain(optax.sgd(0.05), optax.apply_every(4)), "from step to step"),
    "every other step": (optax.sgd(lambda count: 0.1 * (count % 2)), "from step to step"),
    "layers' norms": (optax.lamb(0.01, eps_root=1e-8), "beyond a decay"),
    "orthogonal": (optax.contrib.muon(0.01), "entry by entry|from step to step"),
    "keeps a maximum": (optax.amsgrad(0.05, eps_root=1e-8), "some gradients only"),
    "set by its first step": (optax.contrib.adopt(0.05), "first step sets"),
    "reads the loss": (optax.polyak_sgd(0.1), "reads the value of the loss"),
    "projection": (optax.chain(optax.sgd(0.1), optax.keep_params_nonnegative()), "sets weights"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this optimizer has no finite derivative")
@pytest.mark.parametrize("name", MISFITS)
def test_optimizers_that_segments_do_not_fit_are_gone_back_through_exactly(name):
    optimizer, reason = MISFITS[name]
    loss = lambda w, h, x: jnp.mean((x @ w - 1) ** 2) + jnp.exp(h) * jnp.sum(w**2)
    x = jax.random.normal(jax.random.key(0), (40, 6, 3))
    x = x @ jnp.diag(jnp.array([1.0, 0.5, 2.0]))
    problem = dj.Problem(loss, lambda w, h, x: loss(w, -jnp.inf, x), optimizer)
    weights = jnp.full((3, 2), 0.3)

    def call(method):
        compute = jax.jit(dj.hypergradient(problem, num_steps=40, method=method))
        return compute(-2.0, weights, x, x[0])

    # optax itself mixes dtypes in some of these.
    with jax.numpy_dtype_promotion("standard"):
        with pytest.warns(UserWarning, match=reason):
            out = call(ended(0, "auto"))
        np.testing.assert_allclose(out.grad, call(dj.checkpointed()).grad, rtol=1e-9)
