"""How far each method is off, for each kind of hyperparameter, on two small problems.

A number is the largest relative error allowed: a method may get better. A pair is a record of what
the method does on purpose, held from both sides. `HIDDEN` are those that it cannot see, and says;
`NO` those that it is too wrong about for a number to mean anything.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj

NUM_STEPS, NUM_EXAMPLES, BATCH_SIZE = 30, 12, 6
KINDS = {
    "penalty": np.array([-3.0, -2.0, -2.5]),
    "weights": np.linspace(-0.3, 0.3, NUM_EXAMPLES),
    "lr": np.asarray(0.3),
    "momentum": np.asarray(0.6),
    "decay": np.asarray(0.05),
    "scale": np.asarray(0.3),
}
EXACT = 1e-10
HIDDEN, NO = "hidden", "no"


def linear(w, h, batch):
    return batch["x"] @ w


def saturating(w, h, batch):
    return jnp.tanh(batch["x"] @ w)


def logistic(outputs, batch):
    return jax.nn.softplus(-batch["y"] * outputs)


def squares(outputs, batch):
    return (outputs - batch["y"]) ** 2


def penalty(w, h):
    return jnp.sum(jnp.exp(h["penalty"]) * w**2)


def scaled(w, h):
    return jnp.exp(h["scale"]) * w


def momentum(h):
    return optax.chain(
        optax.trace(h["momentum"]), optax.add_decayed_weights(h["decay"]), optax.scale(-h["lr"])
    )


def adam(h):
    return optax.adamw(
        0.3 * h["lr"], b1=h["momentum"], b2=0.99, eps_root=1e-3, weight_decay=h["decay"]
    )


PROBLEMS = {
    "logistic": (linear, logistic, momentum),
    "adam": (saturating, squares, adam),
}


@functools.cache
def given():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_EXAMPLES, 3))
    y = np.sign(x @ [1.0, -1.0, 0.5] + 0.5 * rng.normal(size=NUM_EXAMPLES))
    data = {"x": x, "y": y, "i": np.arange(NUM_EXAMPLES)}
    judged = {"x": rng.normal(size=(8, 3))}
    judged["y"] = np.sign(judged["x"] @ [1.0, -1.0, 0.2])
    batches = dj.minibatches(data, BATCH_SIZE, jax.random.key(0), order="cyclic")
    return np.array([0.5, 0.5, -0.5]), batches, judged


def outer_loss(w, h, batch):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def parts(name, kinds):
    """Inner loss, optimizer and start with some of the hyperparameters, the others fixed."""
    predict, each, optimizer = PROBLEMS[name]
    fixed = {kind: x for kind, x in KINDS.items() if kind not in kinds}

    def criterion(outputs, h, batch):
        return jnp.mean(jnp.exp((fixed | h)["weights"])[batch["i"]] * each(outputs, batch))

    inner = dj.composite_loss(predict, criterion, lambda w, h: penalty(w, fixed | h))
    return inner, lambda h: optimizer(fixed | h), lambda w, h: scaled(w, fixed | h)


@functools.cache
def oracle(name):
    """JAX's own derivative of a Python loop, with none of the package's code in it."""
    loss, optimizer, start = parts(name, tuple(KINDS))
    w, batches, judged = given()

    @jax.jit
    def step(h, params, state, batch):
        updates, state = optimizer(h).update(jax.grad(loss)(params, h, batch), state, params)
        return optax.apply_updates(params, updates), state

    def outer(h):
        params = start(w, h)
        state = optimizer(h).init(params)
        for t in range(NUM_STEPS):
            params, state = step(h, params, state, taken[t])
        return outer_loss(params, h, judged)

    taken = [batches(t) for t in range(NUM_STEPS)]
    with jax.numpy_dtype_promotion("standard"):
        return jax.grad(outer)(KINDS)


SEGMENTS = dj.segments(10, num_products=10, num_batches=10)
METHODS = {
    "stored": dj.stored(),
    "forward": dj.forward(),
    "segments": dj.drmad(steps=SEGMENTS),
    "drmad": dj.drmad(steps=SEGMENTS, exact_end=10),
    "line": dj.drmad(knots=2, curvature="hessian"),
    "knots": dj.drmad(steps=dj.every_step()),
    "strided": dj.drmad(steps=dj.strided_steps(10)),
    "published": dj.published_drmad(num_reverse_steps=3),
    "truncated": dj.truncated(num_reverse_steps=10),
    "one step": dj.one_step(),
    "implicit": dj.implicit(curvature="gauss_newton", num_batches=2),
}
# fmt: off
TABLE = {
    # (problem, method): errors of penalty, weights, lr, momentum, decay, scale
    ("logistic", "stored"): (EXACT, EXACT, EXACT, EXACT, EXACT, EXACT),
    ("logistic", "forward"): (EXACT, EXACT, EXACT, EXACT, EXACT, EXACT),
    ("logistic", "segments"): (0.06, 0.02, 0.4, NO, 0.03, NO),
    ("logistic", "drmad"): (0.03, 0.035, 0.35, 0.3, 0.06, NO),
    ("logistic", "line"): (0.6, 0.1, NO, NO, 0.6, 0.1),
    ("logistic", "knots"): (0.04, 0.02, NO, NO, 0.08, 0.01),
    # A third of the decay, and each term three times.
    ("logistic", "strided"): ((1.2, 1.6), (1.1, 1.5), NO, NO, (0.8, 1.2), NO),
    ("logistic", "published"): ((1, 1.2), (0.5, 0.75), NO, NO, (0.5, 0.75), NO),
    ("logistic", "truncated"): (0.12, (0.06, 0.08), (0.06, 0.09), (0.18, 0.26), 1e-3, HIDDEN),
    ("logistic", "one step"): ((0.85, 0.95), (0.85, 0.95), NO, NO, (0.7, 0.85), HIDDEN),
    ("logistic", "implicit"): (0.12, 0.1, HIDDEN, HIDDEN, HIDDEN, HIDDEN),
    ("adam", "stored"): (EXACT, EXACT, EXACT, EXACT, EXACT, EXACT),
    ("adam", "segments"): (0.13, 0.035, NO, 0.05, 0.5, NO),
    ("adam", "drmad"): (0.04, 0.04, NO, 0.2, 0.02, 0.4),
    ("adam", "line"): (0.6, 0.35, NO, NO, NO, NO),
    ("adam", "knots"): (0.12, 0.2, NO, NO, 0.2, NO),
    ("adam", "truncated"): ((0.11, 0.17), (0.03, 0.06), (0.7, 1), (0.3, 0.5), (0.28, 0.42), HIDDEN),
}
# fmt: on


def hypergradient(name, method, kinds):
    inner, optimizer, start = parts(name, kinds)
    problem = dj.Problem(inner, outer_loss, optimizer, initial_params=start)
    compute = jax.jit(dj.hypergradient(problem, num_steps=NUM_STEPS, method=method))
    with jax.numpy_dtype_promotion("standard"):
        return compute({kind: KINDS[kind] for kind in kinds}, *given()).grad


@pytest.mark.parametrize(("name", "method"), TABLE, ids=lambda name: name)
def test_errors_are_those_of_the_table(name, method):
    cells = dict(zip(KINDS, TABLE[name, method], strict=True))
    seen = tuple(kind for kind, cell in cells.items() if cell is not HIDDEN)
    grad, outside = hypergradient(name, METHODS[method], seen), {}
    for kind in seen:
        exact = oracle(name)[kind]
        error = float(np.linalg.norm(grad[kind] - exact) / np.linalg.norm(exact))
        cell = cells[kind]
        low, high = cell if isinstance(cell, tuple) else (0, np.inf if cell is NO else cell)
        if not low <= error <= high:
            outside[kind] = error
    assert not outside, outside
    for kind in set(cells) - set(seen):
        with pytest.raises(ValueError, match=rf"cannot see `hparams\['{kind}'\]`"):
            hypergradient(name, METHODS[method], (kind,))
