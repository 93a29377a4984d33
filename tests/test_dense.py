"""Segments against their transcription in dense NumPy: every path, curvature and own term.

With as many products as weights Lanczos' space is the whole space, so that both agree to rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dense
import drmad_jax as dj

NUM_EXAMPLES, BATCH_SIZE, NUM_STEPS, NUM_BATCHES = 6, 3, 27, 4
HPARAMS = {
    "log_l2": np.array([-3.0, -2.0, -1.0]),
    "log_weight": np.linspace(-0.5, 0.5, NUM_EXAMPLES),
    "slope": 1.3,
    "lr": 0.07,
    "decay": 0.3,
    "log_scale": 0.1,
}
OPTIMIZERS = {
    "momentum": (dense.SGD(), lambda h: optax.sgd(h["lr"], momentum=h["momentum"])),
    "decayed": (
        dense.SGD(),
        lambda h: optax.chain(
            optax.trace(h["momentum"]),
            optax.add_decayed_weights(h["decay"]),
            optax.scale(-h["lr"]),
        ),
    ),
    "adamw": (
        dense.Adam(),
        lambda h: optax.adamw(
            h["lr"],
            b1=h["momentum"],
            b2=dense.Adam.b2,
            eps=dense.Adam.eps,
            eps_root=dense.Adam.eps_root,
            weight_decay=h["decay"],
        ),
    ),
}


def method_of(plan):
    return dj.drmad(
        path=dj.means() if plan.path == "means" else dj.knots(plan.path),
        curvature="gauss_newton" if plan.gauss_newton else "hessian",
        steps=dj.segments(
            plan.num_segments,
            num_products=dense.NUM_WEIGHTS + 1,
            num_batches=plan.num_batches,
            spacing="dense",
            num_terms=0 if plan.each_step else 1,
        ),
        exact_end=0,
    )


def predict(params, h, batch, key=None):
    noise = 0 if key is None else jax.random.uniform(key, (BATCH_SIZE,))
    return jnp.tanh(h["slope"] * (batch["x"] @ params["w"] + params["b"])) + noise


def criterion(outputs, h, batch):
    residual = outputs - batch["y"]
    weight = jnp.exp(h["log_weight"])[batch["i"]]
    return jnp.mean(weight * (residual**2 / 2 + residual**4 / 4))


def penalty(params, h):
    return jnp.sum(jnp.exp(h["log_l2"]) * (params["w"] ** 2 / 2 + params["w"] ** 4 / 4))


def outer_loss(params, h, batch):
    distance = jnp.append(params["w"], params["b"]) - dense.TARGET
    return 0.5 * jnp.sum(distance**2) + 0.1 * jnp.sum(h["log_l2"])


def scaled(params, h):
    return jax.tree.map(lambda leaf: jnp.exp(h["log_scale"]) * leaf, params)


def given(optimizer, num_steps):
    """Weights far from the data's, so that some curvature is negative; each batch another one."""
    rng = np.random.default_rng(4)
    h = HPARAMS | {"momentum": 0.9 if optimizer == "adamw" else 0.6}
    if optimizer == "momentum":
        del h["decay"]
    shape = (num_steps, BATCH_SIZE)
    batches = {
        "x": rng.normal(size=(*shape, dense.NUM_WEIGHTS)),
        "y": rng.uniform(-1, 1, shape),
        "i": rng.integers(0, NUM_EXAMPLES, shape),
    }
    return np.array([1.0, -0.8, 1.5, 0.4]), h, batches


def noisy(batches, key):
    """What the model adds to its outputs at every step, taken from the targets instead."""
    draw = lambda t: jax.random.uniform(jax.random.fold_in(key, t), (BATCH_SIZE,))
    noise = jax.vmap(draw)(jnp.arange(len(batches["y"])))
    return batches | {"y": batches["y"] - np.asarray(noise)}


@functools.cache
def both(optimizer, plan, seed=None):
    """The package's hypergradient, and the transcription's."""
    transcribed, factory = OPTIMIZERS[optimizer]
    theta, h, batches = given(optimizer, plan.num_steps)
    key = None if seed is None else jax.random.key(seed)
    loss = dj.composite_loss(predict, criterion, penalty)
    # Without its structure where that is not asked for.
    inner = loss if plan.gauss_newton or key is not None else lambda w, h, batch: loss(w, h, batch)
    problem = dj.Problem(inner, outer_loss, factory, initial_params=scaled)
    compute = jax.jit(dj.hypergradient(problem, num_steps=plan.num_steps, method=method_of(plan)))
    params = {"w": theta[: dense.NUM_WEIGHTS], "b": theta[dense.NUM_WEIGHTS]}
    arrays = jax.tree.map(jnp.asarray, (h, params, batches))
    with jax.numpy_dtype_promotion("standard"):
        out = compute(*arrays, None, key=key)
    batches = batches if key is None else noisy(batches, key)
    return out, dense.hypergradient(plan, transcribed, theta, h, batches)


def plan(path, curvature="hessian", num_steps=NUM_STEPS, num_segments=3, each_step=True):
    gauss_newton = curvature == "gauss_newton"
    return dense.Plan(num_steps, num_segments, path, gauss_newton, NUM_BATCHES, each_step)


CASES = {
    "one segment": ("momentum", plan("means", num_steps=9, num_segments=1)),
    "momentum on means": ("momentum", plan("means")),
    "decay on means, with noise": ("decayed", plan("means"), 5),
    "adamw on means": ("adamw", plan("means")),
    "pieces of several steps": ("adamw", plan("means", num_steps=45, num_segments=1)),
    "decay on the line": ("decayed", plan(2)),
    "adamw on knots": ("adamw", plan(4)),
    "one term a segment": ("decayed", plan("means", each_step=False)),
    "one term a segment of adamw": ("adamw", plan("means", each_step=False)),
    "gauss_newton on means": ("momentum", plan("means", "gauss_newton")),
    "gauss_newton on the line": ("momentum", plan(2, "gauss_newton")),
    "gauss_newton on knots": ("momentum", plan(4, "gauss_newton")),
}


# Each fault that was tried fails one of these.
QUICK = (
    "gauss_newton on means",
    "decay on means, with noise",
    "adamw on means",
    "pieces of several steps",
    "adamw on knots",
    "one term a segment of adamw",
)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES]
)
def test_segments_are_the_dense_ones(case):
    out, (grad, start, final, _) = both(*CASES[case])
    assert set(grad) == set(out.grad)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12)
    for name, expected in grad.items():
        near(np.ravel(out.grad[name]), expected, err_msg=name)
    for name, leaf in dense.LEAVES.items():
        near(np.ravel(out.params[name]), final[leaf], err_msg=name)
        near(np.ravel(out.initial_params_grad[name]), start[leaf], err_msg=name)


def test_the_cases_have_curvature_of_both_signs():
    """Or the positive part would not be tried."""
    for case in ("momentum on means", "adamw on means", "decay on the line"):
        spectra = np.array(both(*CASES[case])[1][-1])
        assert np.min(spectra) < -0.01 and np.max(spectra) > 0.1
