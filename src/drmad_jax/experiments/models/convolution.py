"""Convolution as a matrix product, for training loops on CPUs."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def conv(channels: int, size: int, *, stride: int = 1, name: str, **options: Any) -> nn.Conv:
    """A convolution that is fast here: `by_patches` on CPUs, by XLA's own way elsewhere.

    Args:
        channels: Output channels.
        size: Side of the kernels.
        stride: Steps between outputs, along both sides.
        name: Name of the layer.
        options: As `flax.linen.Conv`'s.

    Returns:
        The layer.
    """
    here = by_patches if jax.default_backend() == "cpu" else None
    sides, strides = (size, size), (stride, stride)
    return nn.Conv(
        channels, sides, strides=strides, name=name, conv_general_dilated=here, **options
    )


def by_patches(
    images: Float[Array, "n h w c"],
    kernel: Float[Array, "rows columns c features"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    precision: Any = None,
    **layout: Any,
) -> Float[Array, "n p q features"]:
    """The convolution of `flax.linen.Conv(..., conv_general_dilated=by_patches)`.

    XLA compiles the convolutions of a loop's body for CPUs without its fast kernels; one product of
    the kernel with all shifted copies of the images takes a third of the time or less, derivatives
    included, at the memory of these copies.

    Args:
        images: What is convolved.
        kernel: Weights.
        strides: Steps between outputs.
        padding: "SAME", "VALID" or widths in front and behind, for rows and columns.
        lhs_dilation: Must be 1.
        rhs_dilation: Steps between the kernel's rows and columns.
        feature_group_count: Must be 1.
        precision: As `jax.lax.dot_general`'s.
        layout: Flax's layout, the one above.

    Returns:
        The same as `jax.lax.conv_general_dilated`, up to rounding.

    Raises:
        ValueError: On transposed or grouped convolutions.
    """
    del layout
    if tuple(lhs_dilation) != (1, 1) or feature_group_count != 1:
        raise ValueError("by_patches: neither transposed nor grouped convolutions are supported")
    sizes = [(size - 1) * d + 1 for size, d in zip(kernel.shape, rhs_dilation, strict=False)]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], sizes, strides, padding)
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))

    def shifts(images: Array, axis: int) -> Array:
        """All copies of the images that the kernel meets along one axis, as channels."""
        size, dilation, stride = kernel.shape[axis - 1], rhs_dilation[axis - 1], strides[axis - 1]
        end = images.shape[axis] - (size - 1) * dilation
        starts = range(0, size * dilation, dilation)
        slices = [
            jax.lax.slice_in_dim(images, start, start + end, stride, axis) for start in starts
        ]
        return jnp.concatenate(slices, axis=-1)

    # Along one axis after the other: the fewest operations to compile.
    patches = shifts(shifts(images, 1), 2)
    flat = kernel.transpose(1, 0, 2, 3).reshape(-1, kernel.shape[-1])
    return jnp.dot(patches, flat, precision=precision)
