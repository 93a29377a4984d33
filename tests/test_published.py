"""`published_drmad` against a plain NumPy transcription of the published update equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import drmad_jax as dj

SIZE, BATCH, NUM_STEPS, REVERSE_STEPS = 6, 4, 50, 5
STEP_SIZE, DRAG = 0.05, 0.95


def make_data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(NUM_STEPS, BATCH, SIZE)), rng.normal(size=(NUM_STEPS, BATCH))


# L(w, λ) = mean ½(x·w − y)² + ¼ Σ w⁴ + Σ exp(λ) w², with derivatives by hand.


def gradient(w, log_l2, x, y):
    return x.T @ (x @ w - y) / len(y) + w**3 + 2 * np.exp(log_l2) * w


def hessian_product(w, log_l2, v, x, y):
    return x.T @ (x @ v) / len(y) + 3 * w**2 * v + 2 * np.exp(log_l2) * v


def mixed_product(w, log_l2, v, x, y):
    return 2 * np.exp(log_l2) * w * v


def transcription(w_0, log_l2, xs, ys, outer_gradient):
    """Fu et al. 2016, Algorithm 2 as in its code: forward by momentum SGD, back along the line."""
    w, velocity = w_0.copy(), np.zeros_like(w_0)
    for x, y in zip(xs, ys, strict=True):
        velocity = DRAG * velocity - (1 - DRAG) * gradient(w, log_l2, x, y)
        w = w + STEP_SIZE * velocity
    w_final = w

    d_w, d_velocity = outer_gradient(w_final), np.zeros_like(w_0)
    d_log_l2 = np.zeros_like(log_l2)
    beta = np.linspace(0.001, 0.999, REVERSE_STEPS)
    for i in reversed(range(REVERSE_STEPS)):
        w = (1 - beta[i]) * w_0 + beta[i] * w_final
        d_velocity = d_velocity + STEP_SIZE * d_w
        d_w = d_w - (1 - DRAG) * hessian_product(w, log_l2, d_velocity, xs[i], ys[i])
        d_log_l2 = d_log_l2 - (1 - DRAG) * mixed_product(w, log_l2, d_velocity, xs[i], ys[i])
        d_velocity = DRAG * d_velocity
    return w_final, d_log_l2


def test_published_drmad_to_the_letter():
    xs, ys = make_data()
    w_0, log_l2 = np.linspace(-1, 1, SIZE), np.linspace(-4, -2, SIZE)
    target = np.full(SIZE, 0.1)
    final, expected = transcription(w_0, log_l2, xs, ys, lambda w: w - target)

    def inner(w, h, batch):
        x, y = batch
        fit = 0.5 * jnp.mean((x @ w - y) ** 2) + 0.25 * jnp.sum(w**4)
        return fit + jnp.sum(jnp.exp(h) * w**2)

    outer = lambda w, h, batch: 0.5 * jnp.sum((w - target) ** 2)
    # Optax's trace sums gradients where the paper averages them: the step size takes (1 − γ).
    optimizer = optax.sgd(STEP_SIZE * (1 - DRAG), momentum=DRAG)
    problem = dj.Problem(inner, outer, optimizer)
    method = dj.published_drmad(num_reverse_steps=REVERSE_STEPS)
    out = jax.jit(dj.hypergradient(problem, num_steps=NUM_STEPS, method=method))(
        jnp.asarray(log_l2), jnp.asarray(w_0), (jnp.asarray(xs), jnp.asarray(ys)), None
    )
    np.testing.assert_allclose(out.params, final, rtol=1e-12)
    np.testing.assert_allclose(out.grad, expected, rtol=1e-10)
    assert int(out.info.num_reverse_steps) == REVERSE_STEPS
