import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drmad_jax.experiments.models import MLP, init_params

IMAGES = np.ones((2, 8, 8, 1), np.float32)


def test_layers_are_named_and_shaped():
    params = init_params(MLP((30, 20, 10)), jax.random.key(0), IMAGES, -3.0)
    kernels = {name: layer["kernel"].shape for name, layer in params.items()}
    assert kernels == {"dense_0": (64, 30), "dense_1": (30, 20), "dense_2": (20, 10)}


def test_published_scale_holds_for_weights_and_biases():
    params = init_params(MLP((200, 10)), jax.random.key(0), IMAGES, -3.0)
    for leaf in (params["dense_0"]["kernel"], params["dense_0"]["bias"]):
        np.testing.assert_allclose(np.std(leaf), np.exp(-3.0), rtol=0.15)


def test_lecun_scale_is_fan_in():
    params = init_params(MLP((200, 10)), jax.random.key(0), IMAGES, "lecun")
    np.testing.assert_allclose(np.std(params["dense_0"]["kernel"]), 1 / 8, rtol=0.1)
    assert not params["dense_0"]["bias"].any()


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "silu"])
def test_output_is_the_formula(activation):
    model = MLP((4, 3), activation)
    params = init_params(model, jax.random.key(0), IMAGES, -1.0)
    hidden = IMAGES.reshape(2, 64) @ params["dense_0"]["kernel"] + params["dense_0"]["bias"]
    function = jnp.tanh if activation == "tanh" else getattr(jax.nn, activation)
    expected = function(hidden) @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    actual = model.apply({"params": params}, IMAGES)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
