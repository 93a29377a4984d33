"""What a hypergradient is worth, beside the exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems

NUM_HPARAMS = 5 + 24 + 3


def arguments():
    return problems.hparams(), problems.params(), problems.batches(), problems.data()


def hypergradient(method, **options):
    compute = dj.hypergradient(
        problems.problem(), num_steps=problems.NUM_STEPS, method=method, **options
    )
    return jax.jit(compute)(*arguments())


def cosine(a, b):
    return a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)


def test_the_exact_hypergradient_is_worth_itself():
    """By reverse mode first, then by tangents."""
    out = hypergradient(dj.stored(), certify=3)
    found, norm = out.info.certificate, jnp.linalg.norm(problems.flat(out.grad))
    np.testing.assert_allclose(found.ratio, 1, rtol=1e-9)
    np.testing.assert_allclose((found.slope, found.norm), norm, rtol=1e-9)
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-9)


@pytest.mark.slow
def test_of_an_estimate_with_all_directions_nothing_is_left_to_chance():
    out = hypergradient(dj.one_step(), certify=NUM_HPARAMS + 7)
    exact, found = problems.flat(hypergradient(dj.stored()).grad), out.info.certificate
    estimate = problems.flat(out.grad)
    np.testing.assert_allclose(found.norm, jnp.linalg.norm(exact), rtol=1e-9)
    np.testing.assert_allclose(found.cosine, cosine(estimate, exact), rtol=1e-9)
    np.testing.assert_allclose(found.ratio, estimate @ exact / jnp.sum(estimate**2), rtol=1e-9)
    assert float(found.cosine_error) == 0.0
    assert hypergradient(dj.one_step(), certify=0).info.certificate.cosine is None
    assert hypergradient(dj.one_step()).info.certificate is None


def test_the_cosine_is_told_within_its_error():
    """Over many vectors and draws: the mean error is none, and its size the one that is said."""
    num, count, draws = 40, 5, 200
    loss = lambda w, h, x: 0.5 * jnp.sum((w - h) ** 2)
    true = jax.random.normal(jax.random.key(0), (num,))
    problem = dj.Problem(loss, lambda w, h, x: jnp.sum(w * x), optax.sgd(1.0))
    certify = dj.certify(problem, num_steps=1, num_directions=count)

    def draw(key):
        estimate = true + 1.2 * jax.random.normal(key, (num,))
        found = certify(estimate, jnp.zeros(num), jnp.ones(num), jnp.zeros(1), true, key=key)
        return found.cosine - cosine(estimate, true), found.cosine_error

    errors, said = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), draws))
    assert abs(jnp.mean(errors)) < 0.4 * jnp.std(errors)
    np.testing.assert_allclose(jnp.std(errors), jnp.sqrt(jnp.mean(said**2)), rtol=0.25)


def test_an_estimate_of_another_shape_is_refused():
    certify = dj.certify(problems.problem(), num_steps=problems.NUM_STEPS)
    hparams, *others = arguments()
    with pytest.raises(ValueError, match="`estimate` must be like `hparams`"):
        certify(hparams | {"lr": jnp.zeros(2)}, hparams, *others)
