import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drmad_jax.experiments.models.convolution import by_patches
from drmad_jax.experiments.models.feedforward import MLP, ConvNet
from drmad_jax.experiments.models.network import Network

IMAGES = np.ones((2, 8, 8, 1), np.float32)


def test_layers_are_named_and_shaped():
    params = Network(MLP((30, 20, 10)), -3.0).init(jax.random.key(0), IMAGES)[0]
    kernels = {name: layer["kernel"].shape for name, layer in params.items()}
    assert kernels == {"dense_0": (64, 30), "dense_1": (30, 20), "dense_2": (20, 10)}


def test_published_scale_holds_for_weights_and_biases():
    params = Network(MLP((200, 10)), -3.0).init(jax.random.key(0), IMAGES)[0]
    for leaf in (params["dense_0"]["kernel"], params["dense_0"]["bias"]):
        np.testing.assert_allclose(np.std(leaf), np.exp(-3.0), rtol=0.15)


def test_lecun_scale_is_fan_in():
    params = Network(MLP((200, 10)), "lecun").init(jax.random.key(0), IMAGES)[0]
    np.testing.assert_allclose(np.std(params["dense_0"]["kernel"]), 1 / 8, rtol=0.1)
    assert not params["dense_0"]["bias"].any()


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "silu"])
def test_output_is_the_formula(activation):
    model = MLP((4, 3), activation)
    params = Network(model, -1.0).init(jax.random.key(0), IMAGES)[0]
    hidden = IMAGES.reshape(2, 64) @ params["dense_0"]["kernel"] + params["dense_0"]["bias"]
    function = jnp.tanh if activation == "tanh" else getattr(jax.nn, activation)
    expected = function(hidden) @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    actual = model.apply({"params": params}, IMAGES)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 3))])
@pytest.mark.parametrize(("strides", "dilation"), [((1, 1), 1), ((2, 3), 1), ((1, 1), 2)])
def test_convolution_by_patches(padding, strides, dilation):
    images = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
    options = {"strides": strides, "kernel_dilation": dilation, "padding": padding}
    plain = nn.Conv(4, (3, 2), **options)
    params = plain.init(jax.random.key(1), images)
    fast = nn.Conv(4, (3, 2), **options, conv_general_dilated=by_patches)
    np.testing.assert_allclose(
        fast.apply(params, images), plain.apply(params, images), rtol=1e-4, atol=1e-5
    )


def test_convolution_by_patches_refuses_groups():
    layer = nn.Conv(4, (3, 3), feature_group_count=2, conv_general_dilated=by_patches)
    with pytest.raises(ValueError, match="by_patches: neither transposed nor grouped"):
        layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))


def test_convolutional_network_is_the_formula():
    model = ConvNet((4,), 3, 10, "tanh")
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    params = model.init(jax.random.key(1), images)["params"]
    assert {k: v["kernel"].shape for k, v in params.items()} == {
        "conv_0": (3, 3, 1, 4),
        "dense": (64, 10),
    }
    layer = nn.Conv(4, (3, 3), strides=(2, 2))
    hidden = jnp.tanh(layer.apply({"params": params["conv_0"]}, images)).reshape(2, -1)
    expected = hidden @ params["dense"]["kernel"] + params["dense"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, images), expected, rtol=1e-4)
