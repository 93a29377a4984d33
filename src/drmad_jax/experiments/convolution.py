"""Convolution as a matrix product, for training loops on CPUs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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

    def shifted(row: int, column: int) -> Float[Array, "n p q c"]:
        starts = (row * rhs_dilation[0], column * rhs_dilation[1])
        ends = (n - k + 1 for n, k in zip(images.shape[1:3], sizes, strict=True))
        rows, columns = (
            slice(start, start + end, stride)
            for start, end, stride in zip(starts, ends, strides, strict=True)
        )
        return images[:, rows, columns]

    height, width, _, features = kernel.shape
    patches = [shifted(row, column) for row in range(height) for column in range(width)]
    flat = kernel.reshape(-1, features)
    return jnp.dot(jnp.concatenate(patches, axis=-1), flat, precision=precision)
