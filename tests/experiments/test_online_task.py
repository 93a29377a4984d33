import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.runs.judge import make_trial
from drmad_jax.experiments.tasks import make_task


def make(tiny, **task):
    changes = {"task": {"kind": "online", **task}, "outer": tiny["outer"] | {"num_steps": 0}}
    config = configs.parse(tiny | changes)
    return config, make_task(config)


@pytest.mark.slow
def test_is_training_with_both_online_optimizers(tiny):
    """Against a plain loop over the same batches, each gradient taken by itself."""
    tiny["inner"]["num_steps"] = 5
    config, task = make(tiny, log_step=0.1, initial_log_l2=-3.0)
    data = task.load_data()
    inputs = task.sample(jax.random.key(0), data)
    rates = dj.online_learning_rates(optax.trace(0.5), init=0.2, log_step=0.1)
    optimizer = dj.online_penalties(rates, init=2 * np.exp(-3.0), log_step=0.1)
    params, state = inputs.params, optimizer.init(inputs.params)

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            logits = task.network(params, batch.images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

        return jax.grad(loss)(params)

    for step in range(5):
        batch = inputs.inner_batches(step)
        grads, outer = gradient(params, batch.training), gradient(params, batch.validation)
        updates, state = optimizer.update(grads, state, params, outer_grad=outer)
        params = optax.apply_updates(params, updates)

    train = dj.trained(task.problem, num_steps=config.inner.num_steps)
    trained = train({}, inputs.params, inputs.inner_batches, key=inputs.key)
    for found in trained.params:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, params
        )
    logs = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.log_values)])
    found = task.evaluate(trained, {}, data)["mean_log_penalties"]
    np.testing.assert_allclose(found, logs.mean(), rtol=1e-4)


@pytest.mark.slow
def test_validation_examples_are_not_trained_on(tiny):
    _, task = make(tiny)
    inputs = task.sample(jax.random.key(0), task.load_data())
    both = [batches.data for batches in inputs.inner_batches.args[0]]
    training, validation = (np.asarray(split.images).reshape(30, -1) for split in both)
    assert not (training[:, None] == validation).all(axis=-1).any()
    np.testing.assert_array_equal(inputs.outer_batch.images, both[1].images)


def test_one_adapts_without_the_other(tiny):
    for tuned, other in (("penalties", "learning_rates"), ("learning_rates", "penalties")):
        config, task = make(tiny, tuned=[tuned])
        found = jax.eval_shape(make_trial(config, task), {}, jax.random.key(0), task.load_data())
        assert f"mean_log_{tuned}" in found
        assert f"mean_log_{other}" not in found


def test_outer_steps_are_refused(tiny):
    with pytest.raises(ConfigError, match="outer.num_steps: task 'online' .* set 0, got 3"):
        make_task(configs.parse(tiny | {"task": {"kind": "online"}}))
