"""The outer loop: means over seeds, the best so far, backing off, stopping, going on."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj

KEY = jax.random.key(0)
PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
T = 20


def fit(w, h, x):
    return jnp.mean((w - x) ** 2)


def inner(w, h, x):
    return fit(w, h, x) + h["l2"] * jnp.sum(w**2)


PROBLEM = dj.Problem(inner, fit, optax.sgd(0.2))
START = {"l2": jnp.asarray(0.0)}


def sample(key):
    noise = jax.random.normal(key, (T, 2))
    return {
        "params": jnp.zeros(2), "inner_batches": 1 + 0.1 * noise, "outer_batch": jnp.asarray(0.5),
    }  # fmt: skip


def loop(problem=PROBLEM, optimizer=None, **options):
    optimizer = optax.sgd(0.5) if optimizer is None else optimizer
    return dj.outer_loop(problem, sample, dj.outer_optimizer(optimizer), num_steps=T, **options)


def tuned(made, start=None, num_outer_steps=5, **options):
    start = START if start is None else start
    with jax.numpy_dtype_promotion("standard"):
        return dj.tune(made, start, num_outer_steps=num_outer_steps, key=KEY, **options)


def test_a_step_follows_the_mean_over_its_seeds():
    made = loop(num_seeds=3, method=dj.stored())
    with jax.numpy_dtype_promotion("standard"):
        state, info = jax.jit(made.step)(made.init(START), KEY)
    compute = dj.hypergradient(PROBLEM, num_steps=T, method=dj.stored())
    outs = [compute(START, **sample(key)) for key in jax.random.split(KEY, 3)]
    np.testing.assert_allclose(info.values, [out.value for out in outs])
    mean = np.mean([out.grad["l2"] for out in outs])
    np.testing.assert_allclose(info.grad["l2"], mean)
    np.testing.assert_allclose(state.hparams["l2"], -0.5 * mean)
    np.testing.assert_allclose(info.state.params, outs[0].params)


def test_one_seed_is_a_plain_loop():
    outer, hparams = dj.outer_optimizer(optax.adam(0.1)), START
    state = outer.init(hparams)
    compute = jax.jit(dj.hypergradient(PROBLEM, num_steps=T, method=dj.stored()))
    found = tuned(loop(optimizer=optax.adam(0.1), method=dj.stored()))
    with jax.numpy_dtype_promotion("standard"):
        for index in range(5):
            out = compute(hparams, **sample(jax.random.fold_in(KEY, index)))
            np.testing.assert_allclose(found.history[index]["outer_loss"], out.value)
            hparams, state = outer.update(out.grad, state, hparams)
    np.testing.assert_allclose(found.state.hparams["l2"], hparams["l2"])


def test_the_best_is_kept_whatever_comes_after():
    found = tuned(loop(optimizer=optax.sgd(8.0), method=dj.stored()), num_outer_steps=8)
    losses = [line["outer_loss"] for line in found.history]
    best = int(np.nanargmin(losses))
    assert 0 < best < 7 and found.value == losses[best]
    again = tuned(loop(optimizer=optax.sgd(8.0), method=dj.stored()), num_outer_steps=best)
    np.testing.assert_array_equal(found.hparams["l2"], again.state.hparams["l2"])


def rates(h):
    return optax.sgd(h["lr"])


def test_it_backs_off_where_training_diverges():
    """One step too far, and training overflows: back to the best, and on in shorter steps."""
    problem = dj.Problem(lambda w, h, x: 40 * fit(w, h, x), lambda w, h, x: fit(w, h, 1.0), rates)
    start = {"lr": jnp.asarray(1e-4)}
    # Up to .05 training converges; at 1e3 it leaves every range of numbers.
    made = loop(problem, optax.sign_sgd(1e20), method=dj.stored())
    found = tuned(made, start, num_outer_steps=4)
    taken = [line["taken"] for line in found.history]
    assert taken == [True, False, True, False]
    assert float(found.hparams["lr"]) == float(start["lr"])
    made = loop(problem, optax.sign_sgd(1e20), method=dj.stored())
    found = tuned(made, start, num_outer_steps=400)
    assert "however short" in found.stopped and len(found.history) < 60
    assert float(found.hparams["lr"]) == float(start["lr"])


@dataclasses.dataclass(frozen=True)
class Uphill:
    """An estimator that is wrong."""

    def estimate(self, evaluate, hparams, key):
        value, final = evaluate(hparams)
        wrong = jax.grad(lambda h: -evaluate(h)[0])(hparams)
        return value, final, wrong, dj.Info()


def test_a_whole_step_is_the_optimizers_to_the_bit():
    """A step of length 1 is no sum of rounded parts: what was projected stays where it is."""
    at, wanted = jnp.asarray(-3.0), 0.1
    outer = dj.outer_optimizer(
        optax.sgd(1.0), project=lambda h: {"l2": jnp.full_like(h["l2"], wanted)}
    )
    assert float(at + (jnp.asarray(wanted) - at)) != wanted
    made = dj.outer_loop(PROBLEM, sample, outer, num_steps=T, method=dj.stored())
    with jax.numpy_dtype_promotion("standard"):
        state, _ = jax.jit(made.step)(made.init({"l2": at}), KEY)
    assert float(state.hparams["l2"]) == wanted


def test_a_certificate_keeps_it_from_going_uphill():
    blind = tuned(loop(method=Uphill(), optimizer=optax.sgd(0.01)))
    assert all(line["taken"] for line in blind.history)
    seeing = tuned(loop(method=Uphill(), certify=0))
    assert not any(line["taken"] for line in seeing.history)
    assert all(line["certified_slope"] < 0 for line in seeing.history)
    assert float(seeing.state.hparams["l2"]) == 0.0
    right = tuned(loop(method=dj.stored(), certify=0, num_seeds=2))
    assert all(line["taken"] and line["certified_slope"] > 0 for line in right.history)


def test_it_stops_for_a_reason():
    assert tuned(loop()).stopped == "5 outer steps"
    still = loop(optimizer=optax.sgd(0.0))
    fixed = dj.outer_loop(
        PROBLEM, lambda key: sample(KEY), dj.outer_optimizer(optax.sgd(0.0)), num_steps=T
    )
    assert len(tuned(fixed, num_outer_steps=50, patience=3).history) == 4
    assert "no lower outer loss in 3" in tuned(fixed, num_outer_steps=50, patience=3).stopped
    seen = []
    stopped = tuned(still, callback=lambda state, info: seen.append(state.step) or len(seen) == 2)
    assert stopped.stopped == "the callback said so" and len(stopped.history) == 2
    lines = []
    measure = lambda state, hparams: {"norm": jnp.linalg.norm(state.params)}
    tuned(loop(measure=measure, num_seeds=2), num_outer_steps=2, log=lines.append)
    assert [line["step"] for line in lines] == [0, 1] and lines[0]["norm"] > 0
    assert all(isinstance(line["outer_loss"], float) for line in lines)


def test_a_start_that_diverges_is_an_error():
    problem = dj.Problem(lambda w, h, x: 40 * fit(w, h, x), fit, rates)
    with pytest.raises(FloatingPointError, match="at the start the outer loss is"):
        tuned(loop(problem, method=dj.stored()), {"lr": jnp.asarray(1e30)})


def test_a_loop_goes_on_as_if_it_had_not_stopped():
    made = loop(optimizer=optax.adam(0.1), num_seeds=2)
    whole = tuned(made, num_outer_steps=6)
    first = tuned(made, num_outer_steps=3)
    rest = tuned(made, num_outer_steps=6, state=first.state)
    jax.tree.map(np.testing.assert_array_equal, rest.state, whole.state)
    assert first.history + rest.history == whole.history


@pytest.mark.slow
def test_a_loop_is_saved_by_orbax_as_the_page_says(tmp_path):
    code = next(part for part in PAGE.split("```python\n") if "CheckpointManager" in part)
    code = code.partition("```")[0].replace("num_outer_steps=50", "num_outer_steps=count")
    made, found = loop(optimizer=optax.adam(0.1)), []
    for count in (2, 4):
        names = {
            "folder": tmp_path,
            "loop": made,
            "hparams": START,
            "key": KEY,
            "count": count,
            "dj": dj,
        }
        with jax.numpy_dtype_promotion("standard"):
            exec(code, names)
        found.append(names["tuned"])
    assert [len(each.history) for each in found] == [2, 2]
    whole = tuned(made, num_outer_steps=4)
    jax.tree.map(np.testing.assert_array_equal, found[1].state, whole.state)


def test_what_is_wrong_is_said():
    with pytest.raises(TypeError, match="wrap your optax optimizer"):
        dj.outer_loop(PROBLEM, sample, optax.sgd(0.1), num_steps=T)
    with pytest.raises(ValueError, match="`num_seeds` must be at least 1"):
        loop(num_seeds=0)
    with pytest.raises(TypeError, match="`key` must be"):
        dj.tune(loop(), START, num_outer_steps=1, key=0)
    with pytest.raises(ValueError, match="`patience` must be at least 1"):
        tuned(loop(), patience=0)


def test_the_optimizer_gets_the_value():
    """Those that wait on a plateau, or take Polyak's steps, look at it."""

    def update(grads, state, params, *, value, **more):
        return jax.tree.map(lambda g: -0.1 * g, grads), value

    seeing = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    found = tuned(loop(optimizer=seeing), num_outer_steps=2)
    np.testing.assert_array_equal(found.state.outer_state, found.history[-1]["outer_loss"])
