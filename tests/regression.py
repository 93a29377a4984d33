"""Ridge and logistic regression on full batches, one log penalty for each input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import drmad_jax as dj

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((40, 5)) * [2.0, 1.5, 1.0, 0.7, 0.5]
TARGETS = FEATURES @ [1.0, -1.0, 0.5, 0.0, 2.0] + RNG.standard_normal(40)
TRAIN = {"x": FEATURES[:20], "y": TARGETS[:20]}
VALIDATION = {"x": FEATURES[20:], "y": TARGETS[20:]}
LOG_L2 = np.linspace(-4.0, -1.0, 5)
START = {"w": np.zeros(5)}


def forever(batch):
    """The same batch at every step."""
    return jax.tree_util.Partial(lambda batch, step: batch, batch)


def predict(params, hparams, batch):
    return batch["x"] @ params["w"]


def penalty(params, hparams):
    return jnp.sum(jnp.exp(hparams) * params["w"] ** 2)


CRITERIA = {
    "ridge": lambda outputs, h, batch: jnp.mean((outputs - batch["y"]) ** 2),
    "logistic": lambda outputs, h, batch: jnp.mean(
        jax.nn.softplus(-jnp.sign(batch["y"]) * outputs)
    ),
}


def outer_of(criterion):
    return lambda params, h, batch: criterion(predict(params, h, batch), h, batch)


@functools.cache
def problem(kind, composite=True):
    criterion = CRITERIA[kind]
    loss = dj.composite_loss(predict, criterion, penalty)
    inner = loss if composite else (lambda params, h, batch: loss(params, h, batch))
    step = 0.05 if kind == "ridge" else 0.5
    return dj.Problem(inner, outer_of(criterion), optax.sgd(step))


@functools.cache
def compiled(kind, method, num_steps=2000, composite=True):
    return jax.jit(dj.hypergradient(problem(kind, composite), num_steps=num_steps, method=method))


def run(kind, method, **options):
    return compiled(kind, method, **options)(LOG_L2, START, forever(TRAIN), VALIDATION)


@jax.jit
@jax.value_and_grad
def closed_form(log_l2):
    """Validation loss of the ridge regression's optimum."""
    x, y = TRAIN["x"], TRAIN["y"]
    w = jnp.linalg.solve(x.T @ x / 20 + jnp.diag(jnp.exp(log_l2)), x.T @ y / 20)
    return jnp.mean((VALIDATION["x"] @ w - VALIDATION["y"]) ** 2)


CG = dj.conjugate_gradient(tolerance=1e-10)
METHODS = {
    "cg": (dj.implicit(solver=CG), 1e-6),
    "cg, hessian": (
        dj.implicit(solver=CG, curvature="hessian"),
        1e-6,
    ),
    "neumann": (dj.implicit(solver=dj.neumann_series(num_terms=3000)), 1e-6),
    "nystrom": (dj.implicit(solver=dj.nystrom(rank=5), damping=1e-7), 1e-5),
}


def relative_error(value, reference):
    """In NumPy, since every operation on JAX arrays outside of jit is compiled by itself."""
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    value, reference = flat(value), flat(reference)
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)
