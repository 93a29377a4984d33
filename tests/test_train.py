"""`train` as a differentiable function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from problems import NUM_STEPS, relative_error


@pytest.fixture(scope="module")
def inputs():
    return problems.hparams(), problems.params(), problems.batches()


def gradients(method, inputs, chain="adam"):
    train = dj.train(problems.problem(problems.CHAINS[chain]), num_steps=NUM_STEPS, method=method)

    def objective(hparams, params):
        """Reads every part of the final state, as a user's own outer problem might."""
        state = train(hparams, params, inputs[2])
        floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.sin(x)) for x in floats)

    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(jax.grad(objective, argnums=(0, 1)))(inputs[0], inputs[1])


@pytest.mark.slow
def test_gradient_of_anything_after_training_uses_the_method(inputs):
    reference = gradients(dj.unrolled(), inputs)
    assert relative_error(gradients(dj.stored(), inputs), reference) < 1e-10
    all_knots = dj.drmad(knots=NUM_STEPS + 1, curvature="hessian")
    assert relative_error(gradients(all_knots, inputs), reference) < 1e-10


def test_train_and_hypergradient_agree(inputs):
    data = problems.data()
    problem, method = problems.problem(), dj.drmad(steps=dj.strided_steps(3))
    train = dj.train(problem, num_steps=NUM_STEPS, method=method)
    objective = lambda h: problems.outer_loss(train(h, *inputs[1:]).params, h, data)
    out = jax.jit(dj.hypergradient(problem, num_steps=NUM_STEPS, method=method))(*inputs, data)
    value, grad = jax.jit(jax.value_and_grad(objective))(inputs[0])
    np.testing.assert_allclose(value, out.value, rtol=1e-12)
    assert relative_error(grad, out.grad) < 1e-12


def small(method):
    loss = lambda w, h, x: jnp.sum((w - x) ** 2) + h * jnp.sum(w**2)
    problem = dj.Problem(loss, loss, optax.sgd(0.1))
    return dj.train(problem, num_steps=4, method=method)


def test_batches_are_refused_by_name():
    objective = lambda x: jnp.sum(small(dj.stored())(1.0, jnp.zeros(2), x).params)
    with pytest.raises(ValueError, match="not differentiable in `inner_batches`.*hparams"):
        jax.grad(objective)(jnp.ones((4, 2)))


def test_initial_params_are_refused_by_methods_that_do_not_see_them():
    method = dj.truncated(num_reverse_steps=2)
    objective = lambda w: jnp.sum(small(method)(1.0, w, jnp.ones((4, 2))).params)
    with pytest.raises(ValueError, match="not differentiable in `params`.*checkpointed"):
        jax.grad(objective)(jnp.zeros(2))


def test_unrolled_differentiates_batches_and_forwards():
    train = small(dj.unrolled())
    objective = lambda x: jnp.sum(train(1.0, jnp.zeros(2), x).params)
    batches = jnp.ones((4, 2))
    grad = jax.grad(objective)(batches)
    _, tangent = jax.jvp(objective, (batches,), (batches,))
    np.testing.assert_allclose(jnp.sum(grad * batches), tangent, rtol=1e-12)


def test_vmap_of_grad():
    train = small(dj.stored())
    objective = lambda h: jnp.sum(train(h, jnp.zeros(2), jnp.ones((4, 2))).params)
    many = jax.vmap(jax.grad(objective))(jnp.array([0.5, 1.0]))
    alone = [float(jax.grad(objective)(h)) for h in (0.5, 1.0)]
    np.testing.assert_allclose(many, alone, rtol=1e-12)
