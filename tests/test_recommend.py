"""What is recommended, by situation; and that it does there what it is recommended for."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj

KEY = jax.random.key(0)
START = jnp.zeros(4)
OUTER = jnp.array([[0.8, 0.3, 0.1, 0.2]])
# Of the weights and of the step counter, and the latter's rate in a state of SGD.
BYTES = 4 * 8 + 4


def fit(w, h, x):
    return jnp.mean((w - jnp.mean(x, axis=0)) ** 2)


def penalised(w, h, x):
    return fit(w, h, x) + jnp.sum(jnp.exp(h) * w**2)


@jax.custom_vjp
def straight(x):
    return jnp.round(8 * x) / 8


straight.defvjp(lambda x: (straight(x), None), lambda _, cotangent: (cotangent,))


def rounded(w, h, x):
    return penalised(straight(w), h, x)


def with_state(w, h, x, *, model_state):
    mean = 0.9 * model_state + 0.1 * jnp.mean(x)
    return penalised(w, h, x - mean), mean


def dropped(w, h, x, *, key):
    kept = jax.random.bernoulli(key, 1 - jax.nn.sigmoid(h[0]), w.shape)
    return fit(jnp.where(kept, w, 0), h, x) + 0.2 * jnp.sum(w**2)


class Case(NamedTuple):
    """A situation, what is recommended there, and a word of why."""

    method: Any
    why: str
    inner: Any = penalised
    optimizer: Any = optax.sgd(0.2, momentum=0.5)
    hparams: Any = jnp.linspace(-3.0, 0.0, 4)
    num_steps: int = 100
    options: dict[str, Any] = {}
    least_cosine: float = 1 - 1e-6


def rates(h):
    schedule = dj.per_block(jnp.exp(h), num_steps=800)
    return optax.sgd(schedule, momentum=0.5)


CASES = {
    "few": Case(dj.forward(), "3 hyperparameters", hparams=jnp.array([-2.0, -1.0, 0.0]),
                inner=lambda w, h, x: fit(w, h, x) + jnp.sum(jnp.exp(h) * w[:3] ** 2)),
    "short": Case(dj.checkpointed(), "T = 100 is so short"),
    "little memory": Case(
        dj.checkpointed(budget=9), "in the 9 training states", optimizer=optax.sgd(0.2),
        options={"memory": 9 * BYTES + 7},
    ),
    "little memory, long": Case(
        dj.checkpointed(budget=30), "`memory` holds 30", optimizer=optax.sgd(0.2), num_steps=800,
        options={"memory": 30 * BYTES},
    ),
    "its own rule": Case(dj.checkpointed(), "rules of its own (`straight`)", inner=rounded),
    "misfit": Case(
        dj.checkpointed(), "begins with the weights: segments do not fit", num_steps=800,
        optimizer=optax.contrib.schedule_free_sgd(0.2),
    ),
    "model state": Case(
        dj.checkpointed(), "model has a state", inner=with_state, num_steps=800,
        options={"model_state": jnp.zeros(())},
    ),
    "reversible": Case(dj.reversible(), "undone", optimizer=dj.reversible_sgd(0.2, 0.5)),
    "long": Case(
        # In small steps: it serves tuning by the mean of the last states, one seed's noise apart.
        dj.drmad(), "for penalties", num_steps=800, optimizer=optax.sgd(0.02, momentum=0.5),
        least_cosine=0.95,
    ),
    "long, schedule": Case(
        dj.drmad(), "that read the steps", num_steps=800, optimizer=rates,
        inner=lambda w, h, x: fit(w, h, x), hparams=jnp.linspace(-4.0, -3.0, 8), least_cosine=0.9,
    ),
    "drawn": Case(
        dj.evolution_strategies(num_pairs=16, sigma=0.1), "`hparams` decides random draws",
        inner=dropped, hparams=jnp.array([-1.0, 0.0]), options={"key": KEY},
    ),
}  # fmt: skip


def problem_of(case):
    outer = fit
    if "model_state" in case.options:
        outer = lambda w, h, x, *, model_state: fit(w, h, x)
    return dj.Problem(case.inner, outer, case.optimizer)


def run(case):
    noise = 0.5 * jax.random.normal(KEY, (case.num_steps, 8, 4))
    return START, jnp.array([[[1.0, 0.5, -0.5, 0.2]]]) + noise


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_what_is_recommended(name):
    case = CASES[name]
    problem = problem_of(case)
    params, batches = run(case)
    found = dj.recommend(
        problem, case.hparams, params, num_steps=case.num_steps, inner_batches=batches,
        **case.options,
    )  # fmt: skip
    assert type(found.method) is type(case.method) and found.method == case.method
    assert case.why in found.why and found.why.endswith(".")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "drawn"])
@pytest.mark.filterwarnings("ignore")
def test_it_points_where_the_exact_hypergradient_does(name):
    case = CASES[name]
    problem = problem_of(case)
    options = {name: x for name, x in case.options.items() if name != "memory"}
    grads = []
    for method in (case.method, dj.stored() if name == "reversible" else dj.unrolled()):
        compute = jax.jit(dj.hypergradient(problem, num_steps=case.num_steps, method=method))
        out = compute(case.hparams, *run(case), OUTER, **options)
        grads.append(out.grad)
    assert dj.agreement(*grads).cosine > case.least_cosine


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_rate_that_is_drawn_is_followed_by_the_losses_alone():
    """Against the slope of the mean loss over many keys, which derivatives do not see."""
    case = CASES["drawn"]
    problem = problem_of(case)
    keys, outer = jax.random.split(KEY, 256), OUTER

    def mean(method):
        compute = dj.hypergradient(problem, num_steps=case.num_steps, method=method)
        each = lambda key: compute(case.hparams, *run(case), outer, key=key).grad
        return jnp.mean(jax.jit(lambda keys: jax.lax.map(each, keys, batch_size=32))(keys), 0)

    training = dj.trained(problem, num_steps=case.num_steps)

    @jax.jit
    def loss(hparams):
        end = lambda key: fit(training(hparams, *run(case), key=key).params, hparams, outer)
        return jnp.mean(jax.vmap(end)(jax.random.split(jax.random.key(1), 4096)))

    step = jnp.array([0.3, 0.0])
    slope = (loss(case.hparams + step) - loss(case.hparams - step)) / 0.6
    found = mean(case.method)[0]
    np.testing.assert_allclose(found, slope, rtol=0.25)
    assert abs(mean(dj.stored())[0]) < 0.1 * abs(slope)


def test_what_does_not_fit_is_said():
    problem, (params, batches) = dj.Problem(penalised, fit, optax.sgd(0.2)), run(CASES["short"])
    recommend = lambda **options: dj.recommend(
        problem, CASES["short"].hparams, params, num_steps=100, inner_batches=batches, **options
    )
    with pytest.raises(ValueError, match="`memory` holds 2 training states, .* takes 3 at least"):
        recommend(memory=2 * BYTES)
    with pytest.raises(ValueError, match="`memory` must be at least 1"):
        recommend(memory=0)
    with pytest.raises(TypeError, match="must be a drmad_jax.Problem"):
        dj.recommend(cast(Any, penalised), START, START, num_steps=3)
