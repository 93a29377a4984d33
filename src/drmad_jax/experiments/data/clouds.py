"""Satellite images with clouds and their shadows, made up: terrain, fractal clouds, a low sun."""

import numpy as np
from jaxtyping import Float, Int32

from drmad_jax.experiments.data.datasets import Images, Splits

CLASSES = ("clear", "shadow", "cloud")
BANDS = ("blue", "green", "red", "near_infrared")
# The label of pixels that say nothing, such as those outside a scene's frame.
NO_VALUE = -1

# Reflectances of the bands, seen through a clear sky.
_WATER = np.array([0.07, 0.06, 0.04, 0.02])
_PLANTS = np.array([0.04, 0.08, 0.05, 0.38])
_SOIL = np.array([0.11, 0.15, 0.20, 0.28])
_BRIGHT = np.array([0.24, 0.28, 0.32, 0.38])
_HAZE = np.array([0.060, 0.035, 0.020, 0.008])
# What a full shadow takes of the light: the sky is blue, and lights shadows.
_SHADE = np.array([0.45, 0.55, 0.62, 0.70])
_CLOUD = np.array([0.74, 0.73, 0.72, 0.76])
# From this opacity an observer draws the outline of a cloud, and of its shadow.
_VISIBLE = 0.35


def make_splits(size: int, *, num_train: int, num_test: int) -> Splits:
    """Makes patches up, each a scene of its own; the same ones at every call.

    Args:
        size: Pixels along each side.
        num_train: Patches to train and validate on.
        num_test: Patches to test with.

    Returns:
        Both splits: reflectances of `BANDS`, about 0 to 1; each pixel's class by its number.
    """
    return Splits(
        _make_patches(np.random.default_rng([0, size]), size, num_train),
        _make_patches(np.random.default_rng([1, size]), size, num_test),
    )


def make_scene(
    rng: np.random.Generator, size: int
) -> tuple[Float[np.ndarray, "size size 4"], Int32[np.ndarray, "size size"]]:
    """Makes up one scene.

    Terrain of water, plants, soil and bright ground, lit along the slope; clouds of fractal noise
    with soft edges; their shadows on the ground, displaced along the sun's direction by the clouds'
    height; haze, and the sensor's noise. Where both are, the cloud hides the shadow.

    Args:
        rng: Source of randomness.
        size: Pixels along each side.

    Returns:
        Reflectances and labels.
    """
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.35) * size
    row, column = np.rint(height * np.array([np.sin(azimuth), np.cos(azimuth)])).astype(int)
    margin = max(abs(row), abs(column))
    inside = slice(margin, margin + size)
    ground = _terrain(rng, size, azimuth)
    opacity, brightness = _clouds(rng, size + 2 * margin)
    cloud = opacity[inside, inside]
    shade = np.roll(opacity, (row, column), (0, 1))[inside, inside]
    lit = ground * (1 - _SHADE * shade[..., None])
    white = _CLOUD * brightness[inside, inside, None]
    cover = cloud[..., None]
    image = (1 - cover) * (lit + _HAZE * rng.uniform(0.5, 1.5)) + cover * white
    image = np.clip(image + rng.normal(0, 0.006, image.shape), 0, 1.2)
    labels = np.where(cloud > _VISIBLE, 2, np.where(shade > _VISIBLE, 1, 0))
    return image, labels.astype(np.int32)


def _make_patches(rng: np.random.Generator, size: int, count: int) -> Images:
    images, labels = zip(*(make_scene(rng, size) for _ in range(count)), strict=True)
    return Images(np.array(images, np.float32), np.array(labels))


def _terrain(rng: np.random.Generator, size: int, azimuth: float) -> Float[np.ndarray, "s s 4"]:
    """Reflectances of the ground, mixed by smooth noise and shaded by its slopes."""
    heights = _noise(rng, size, 2.2)
    plants = _ramp(_noise(rng, size, 1.6), rng.uniform(-1, 1), 0.6)[..., None]
    bright = _ramp(_noise(rng, size, 1.2), rng.uniform(1.2, 2.4), 0.3)[..., None]
    water = _ramp(-heights, rng.uniform(0.5, 2.5), 0.08)[..., None]
    soil = _SOIL * rng.uniform(0.7, 1.4)
    land = plants * _PLANTS * rng.uniform(0.7, 1.2) + (1 - plants) * soil
    land = (1 - bright) * land + bright * _BRIGHT * rng.uniform(0.7, 1.5)
    down, right = np.gradient(heights)
    slope = np.sin(azimuth) * down + np.cos(azimuth) * right
    texture = 1 + 0.08 * _noise(rng, size, 0.6) - rng.uniform(0, 0.8) * slope
    land = land * np.clip(texture, 0.4, 1.6)[..., None]
    return (1 - water) * land + water * _WATER * rng.uniform(0.6, 1.6)


def _clouds(
    rng: np.random.Generator, size: int
) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """Opacity from 0 to 1, and brightness about 1."""
    depth = _noise(rng, size, rng.uniform(1.6, 2.2)) - rng.uniform(-0.2, 1.4)
    opacity = 1 - np.exp(-rng.uniform(1.5, 5) * np.maximum(depth, 0))
    brightness = rng.uniform(0.7, 1.1) + 0.08 * _noise(rng, size, 1.2)
    return opacity, brightness


def _noise(rng: np.random.Generator, size: int, power: float) -> Float[np.ndarray, "s s"]:
    """Noise with a spectrum that falls as frequency^-power, of mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) * frequency**-power
    values = np.fft.irfft2(spectrum, (size, size))
    return values / values.std()


def _ramp(values: Float[np.ndarray, "s s"], start: float, width: float) -> np.ndarray:
    """From 0 at `start` to 1, `width` above."""
    return np.clip((values - start) / width, 0, 1)
