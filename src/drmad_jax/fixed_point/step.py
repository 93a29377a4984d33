"""One step of SGD with momentum in fixed point, and its two halves backwards.

Forwards v ← γ v + g(w), w ← w − α v. Backwards w ← w + α v, then, with g at the w so regained,
v ← (v − g(w)) / γ. Maclaurin, Duvenaud, Adams 2015, Alg. 2 and 3, in optax's convention.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from drmad_jax.fixed_point.buffer import Buffer, Ratio, divide_back, empty_buffer, multiply
from drmad_jax.fixed_point.numbers import Fixed, add, from_float, negate, to_float


class Block(NamedTuple):
    """Weights that share their rates, their velocity, and the bits that the velocity has lost."""

    weights: Fixed
    velocity: Fixed
    buffer: Buffer


class BlockRates(NamedTuple):
    """Rates of one block: learning rate and momentum, scalars, or one entry for each step."""

    learning_rate: Float[Array, "*steps"]
    momentum: Ratio


def init_block(
    weights: Float[Array, "*shape"],
    velocity: Float[Array, "*shape"],
    *,
    rows: int,
    fraction_bits: int,
) -> tuple[Block, Bool[Array, ""]]:
    """A block at the start of training.

    Args:
        weights: Initial weights.
        velocity: Initial velocity, same shape.
        rows: Rows of the buffer (see `information_buffer.rows_needed`).
        fraction_bits: Bits behind the binary point.

    Returns:
        The block, and whether every number is in range.
    """
    fixed, weights_fit = from_float(weights, fraction_bits)
    moving, velocity_fits = from_float(velocity, fraction_bits)
    block = Block(fixed, moving, empty_buffer(weights.shape, rows))
    return block, jnp.all(weights_fit & velocity_fits)


def step_block(
    block: Block, grad: Float[Array, "*shape"], rates: BlockRates, *, fraction_bits: int
) -> tuple[Block, Bool[Array, ""]]:
    """One step of training.

    Args:
        block: The block before the step.
        grad: The gradient at its weights.
        rates: Rates of this step, scalars.
        fraction_bits: Bits behind the binary point.

    Returns:
        The block after the step, and whether every number stayed in range.

    Example:
        >>> import jax.numpy as jnp
        >>> from drmad_jax.fixed_point.numbers import to_float
        >>> from drmad_jax.fixed_point.buffer import to_ratio
        >>> from drmad_jax.fixed_point.step import BlockRates, init_block, step_block
        >>> block, _ = init_block(jnp.ones(1), jnp.ones(1), rows=1, fraction_bits=52)
        >>> rates = BlockRates(jnp.float32(0.5), to_ratio(jnp.float32(0.5))[0])
        >>> block, in_range = step_block(block, jnp.ones(1), rates, fraction_bits=52)
        >>> to_float(block.weights, 52, jnp.float32).tolist(), bool(in_range)
        ([0.25], True)
    """
    velocity, buffer = multiply(block.velocity, block.buffer, rates.momentum)
    acceleration, grad_fits = from_float(grad, fraction_bits)
    velocity, velocity_fits = add(velocity, acceleration)
    move, move_fits = _move(velocity, rates, fraction_bits)
    weights, weights_fit = add(block.weights, move)
    in_range = jnp.all(grad_fits & velocity_fits & move_fits & weights_fit)
    return Block(weights, velocity, buffer), in_range


def undo_move(block: Block, rates: BlockRates, *, fraction_bits: int) -> Block:
    """The first half of a step backwards: the weights before the step.

    Args:
        block: The block after the step.
        rates: Rates of this step, scalars.
        fraction_bits: Bits behind the binary point.

    Returns:
        The block with the weights of before.
    """
    move, _ = _move(block.velocity, rates, fraction_bits)
    return block._replace(weights=add(block.weights, negate(move))[0])


def undo_acceleration(
    block: Block, grad: Float[Array, "*shape"], rates: BlockRates, *, fraction_bits: int
) -> Block:
    """The second half: the velocity before the step, and the buffer.

    Args:
        block: The block after `undo_move`.
        grad: The gradient at its weights, to the bit the one of the step.
        rates: Rates of this step, scalars.
        fraction_bits: Bits behind the binary point.

    Returns:
        The block before the step.
    """
    acceleration, _ = from_float(grad, fraction_bits)
    velocity, _ = add(block.velocity, negate(acceleration))
    velocity, buffer = divide_back(velocity, block.buffer, rates.momentum)
    return Block(block.weights, velocity, buffer)


def _move(velocity: Fixed, rates: BlockRates, fraction_bits: int) -> tuple[Fixed, Array]:
    speed = to_float(velocity, fraction_bits, rates.learning_rate.dtype)
    return from_float(-rates.learning_rate * speed, fraction_bits)
