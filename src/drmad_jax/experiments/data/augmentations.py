"""Random changes of images whose strengths are differentiable.

What is drawn (a direction, a place) does not depend on the strengths, which only say how far it
goes: so a changed image has a derivative in them, at the same draw.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from drmad_jax import transforms

# Strengths lie between 0 and 1, tuning moves their logits.
STRENGTH_TRANSFORM = transforms.sigmoid()
_GEOMETRY = ("shift", "rotation", "zoom")


def augment(
    key: Array,
    images: Float[Array | np.ndarray, "n h w c"],
    strengths: Mapping[str, Float[Array, ""]],
) -> Float[Array, "n h w c"]:
    """Changes every image at random, each in its own way.

    In this order: shift, rotation and zoom by one bilinear resampling with black outside, contrast
    about the image's mean, brightness, normal noise of each value, and a black square hole with its
    centre anywhere in the image (cutout, DeVries and Taylor 2017).

    Args:
        key: Key of the draw.
        images: Intensities.
        strengths: Largest change by name, scalars from 0, of which each image draws its own, evenly
            between both directions: "shift" and the side of the hole of "cutout" in shares of the
            image's side, "rotation" in radians, "zoom" and "contrast" as logs of a factor,
            "brightness" in intensities, "noise" as its standard deviation. What is missing is left
            out.

    Returns:
        Images of the same shape. Intensities may leave their range by brightness and noise.
    """
    images = jnp.asarray(images)
    draw_key, noise_key = jax.random.split(key)
    draws = jax.random.uniform(draw_key, (8, len(images)), images.dtype, -1.0, 1.0)
    if any(name in strengths for name in _GEOMETRY):
        shift, rotation, zoom = (strengths.get(name, 0.0) for name in _GEOMETRY)
        images = _warp(images, shift * draws[:2], rotation * draws[2], jnp.exp(zoom * draws[3]))
    if "contrast" in strengths:
        factor = jnp.exp(strengths["contrast"] * draws[4])[:, None, None, None]
        mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
        images = mean + factor * (images - mean)
    if "brightness" in strengths:
        images = images + (strengths["brightness"] * draws[5])[:, None, None, None]
    if "noise" in strengths:
        images = images + strengths["noise"] * jax.random.normal(noise_key, images.shape)
    if "cutout" in strengths:
        images = images * (1 - _hole(images.shape[1:3], draws[6:], strengths["cutout"]))
    return images


def _warp(
    images: Float[Array | np.ndarray, "n h w c"],
    shift: Float[Array, "2 n"],
    angle: Float[Array, " n"],
    factor: Float[Array, " n"],
) -> Float[Array, "n h w c"]:
    """Each pixel takes the value of the place that the change brings to it."""
    height, width = images.shape[1:3]
    rows = jnp.arange(height)[None, :, None] - (height - 1) / 2
    columns = jnp.arange(width)[None, None, :] - (width - 1) / 2
    rows = rows - height * shift[0][:, None, None]
    columns = columns - width * shift[1][:, None, None]
    cosine, sine = ((f(angle) / factor)[:, None, None] for f in (jnp.cos, jnp.sin))
    rows, columns = cosine * rows - sine * columns, sine * rows + cosine * columns
    places = rows + (height - 1) / 2, columns + (width - 1) / 2
    of_channel = lambda image, *places: map_coordinates(image, places, order=1)
    return jax.vmap(jax.vmap(of_channel, (-1, None, None), -1))(images, *places)


def _hole(
    shape: Sequence[int], centre: Float[Array, "2 n"], side: Float[Array, ""]
) -> Float[Array, "n h w 1"]:
    """The share of each pixel's area that lies in a square hole."""

    def covered(size: int, centre: Float[Array, " n"]) -> Float[Array, "n size"]:
        half = side * math.sqrt(math.prod(shape)) / 2
        middle = (centre * size / 2)[:, None]
        pixels = jnp.arange(size) - (size - 1) / 2
        first = jnp.maximum(pixels - 0.5, middle - half)
        last = jnp.minimum(pixels + 0.5, middle + half)
        return jnp.maximum(last - first, 0)

    rows, columns = (covered(size, c) for size, c in zip(shape, centre, strict=True))
    return rows[:, :, None, None] * columns[:, None, :, None]
