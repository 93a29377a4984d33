import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.config.models import DenseNetConfig
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.models import network as networks
from drmad_jax.experiments.models.network import classifier
from drmad_jax.experiments.tasks import make_task

CIFAR = ImagesConfig(dataset="cifar10", num_train=50000, num_valid=5000, num_test=10000)
DIGITS = ImagesConfig(dataset="digits", num_train=60, num_valid=30, num_test=40)
SMALL = DenseNetConfig(depth=7, growth=2, stem_channels=3)


def test_published_depth_has_the_published_size():
    """Huang et al. 2017, table 2: 1.0 M parameters for 40 layers with growth 12."""
    network, images = classifier(DenseNetConfig(), CIFAR), jnp.zeros((1, 32, 32, 3))
    params, _ = jax.eval_shape(network.init, jax.random.key(0), images)
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 1) == 1.0
    assert len(network.kernels((32, 32, 3))) == 40


def test_layers_see_all_layers_before_them():
    assert classifier(SMALL, DIGITS).kernels((8, 8, 1)) == {
        "stem": (3, 3, 1, 3),
        "block_0_conv_0": (3, 3, 3, 2),
        "transition_0": (1, 1, 5, 5),
        "block_1_conv_0": (3, 3, 5, 2),
        "transition_1": (1, 1, 7, 7),
        "block_2_conv_0": (3, 3, 7, 2),
        "head": (9, 10),
    }


@pytest.mark.parametrize("depth", [4, 9, 41])
def test_depths_that_are_none_are_named(depth):
    with pytest.raises(ConfigError, match=f"model.depth: expected 3n . 4, .* got {depth}"):
        classifier(DenseNetConfig(depth=depth), DIGITS)


def test_kind_that_does_not_fit_is_named():
    table = copy.deepcopy(TINY) | {"model": {"kind": "pyramid"}}
    with pytest.raises(
        ConfigError, match="works with 'mlp' or 'conv' or 'densenet', got 'pyramid'"
    ):
        make_task(configs.parse(table))


@pytest.fixture(scope="module")
def small():
    network = classifier(SMALL, DIGITS)
    images = jax.random.normal(jax.random.key(0), (7, 9, 9, 1))
    return network, images, *network.init(jax.random.key(1), images)


@pytest.mark.slow
def test_statistics_and_dropout_belong_to_training(small):
    network, images, params, state = small
    first, second = jax.random.split(jax.random.key(2))
    outputs, new_state = network.train(params, images, model_state=state, key=first)
    others, _ = network.train(params, images, model_state=state, key=second)
    assert not np.allclose(outputs, others)
    old, new = state["head_norm"]["mean"], new_state["head_norm"]["mean"]
    assert not np.allclose(old, new)
    used = network(params, images, model_state=state)
    module = network.module.apply({"params": params, "batch_stats": state}, images, train=False)
    np.testing.assert_allclose(used, module, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_judging_in_parts_is_judging_at_once(small, monkeypatch):
    network, images, params, state = small

    def loss(params):
        return jnp.sum(jnp.square(network(params, images, model_state=state)))

    whole = jax.value_and_grad(loss)(params)
    monkeypatch.setattr(networks, "_AT_ONCE", 3)
    parts = jax.value_and_grad(loss)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, parts)
