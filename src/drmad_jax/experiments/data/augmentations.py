"""Random changes of images whose strengths are differentiable.

What is drawn (a direction, a place) does not depend on the strengths, which only say how far it
goes: so a changed image has a derivative in them, at the same draw.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
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
        images = images * (
            1 - _hole((images.shape[1], images.shape[2]), draws[6:], strengths["cutout"])
        )
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
    return _bilinear(
        images,
        cosine * rows - sine * columns + (height - 1) / 2,
        sine * rows + cosine * columns + (width - 1) / 2,
    )


def _bilinear(
    images: Float[Array | np.ndarray, "n h w c"],
    rows: Float[Array, "n h w"],
    columns: Float[Array, "n h w"],
) -> Float[Array, "n h w c"]:
    """Values at places between pixels, 0 outside."""
    count, height, width, channels = images.shape
    # A black border takes in whatever lies outside.
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(count, -1, channels)
    rows, columns = jnp.clip(rows + 1, 0, height + 1), jnp.clip(columns + 1, 0, width + 1)
    top = jnp.minimum(jnp.floor(rows), height)
    left = jnp.minimum(jnp.floor(columns), width)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    corner = (top * (width + 2) + left).astype(jnp.int32)

    def at(offset: int) -> Float[Array, "n h w c"]:
        places = (corner + offset).reshape(count, -1, 1)
        return jnp.take_along_axis(padded, places, axis=1).reshape(images.shape)

    upper = (1 - right) * at(0) + right * at(1)
    lower = (1 - right) * at(width + 2) + right * at(width + 3)
    return (1 - down) * upper + down * lower


def _hole(
    shape: tuple[int, int], centre: Float[Array, "2 n"], side: Float[Array, ""]
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
