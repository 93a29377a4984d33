"""Pytree helpers: telling apart what has a derivative from what has none."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compute_on import compute_on
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree


def is_inexact(leaf: object) -> bool:
    """Whether a leaf is a floating-point array or scalar, hence has a derivative."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def partition(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a pytree into its floating-point leaves and the rest, `None` filling the gaps."""
    inexact = jax.tree.map(lambda x: x if is_inexact(x) else None, tree)
    rest = jax.tree.map(lambda x: None if is_inexact(x) else x, tree)
    return inexact, rest


def combine(first: PyTree, second: PyTree) -> PyTree:
    """Undoes `partition`: takes each leaf from whichever tree has it."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None
    )


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros in the shape of every leaf."""
    return jax.tree.map(jnp.zeros_like, tree)


def add(first: PyTree, second: PyTree) -> PyTree:
    """Leafwise sum, in the dtype of the first tree."""
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), first, second)


def placed_like(x: Array, like: Array | jax.ShapeDtypeStruct) -> Array:
    """In the sharding that `like` has in its type, under an explicit mesh; leading axes whole."""
    sharding = explicit_sharding(like)
    if sharding is None:
        return x
    leading = (None,) * (x.ndim - len(like.shape))
    spec = PartitionSpec(*leading, *sharding.spec)
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, spec))


def whole(x: Array) -> Array:
    """The same on every device of an explicit mesh."""
    sharding = replicated(x)
    return x if sharding is None else jax.sharding.reshard(x, sharding)


def replicated(x: Array) -> NamedSharding | None:
    """That sharding; `None` where no mesh is explicit."""
    sharding = explicit_sharding(x)
    return None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())


def explicit_sharding(x: Array | jax.ShapeDtypeStruct) -> NamedSharding | None:
    """The sharding in the type of an array under an explicit mesh; `None` under others."""
    kind: Any = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    is_explicit = kind.sharding is not None and AxisType.Explicit in kind.sharding.mesh.axis_types
    return kind.sharding if is_explicit else None


def rows(tree: PyTree, count: int) -> PyTree:
    """Room for `count` pytrees like this one, along a leading axis."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (count, *jnp.shape(x))), tree)


def row(rows: PyTree, index: Array | int) -> PyTree:
    """One entry of the leading axis of every leaf, in the memory of the device."""
    take = lambda x, i: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)

    def of_leaf(x):
        x = jnp.asarray(x)
        return on_device(by_host(take, x, index)) if is_on_host(x) else take(x, index)

    return jax.tree.map(of_leaf, rows)


def put(rows: PyTree, index: Array | int, tree: PyTree, when: Array | bool = True) -> PyTree:
    """With another entry at `index` of the leading axis of every leaf, where `when` is true."""
    write = lambda buffer, x, i: jax.lax.dynamic_update_index_in_dim(buffer, x, i, 0)

    def of_leaf(buffer, x):
        if when is not True:
            x = jnp.where(when, x, row(buffer, index))
        if is_on_host(buffer):
            return by_host(write, buffer, x, index)
        return write(buffer, x, index)

    return jax.tree.map(of_leaf, rows, tree)


def on_host(tree: PyTree) -> PyTree:
    """Every leaf in the memory of the host."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Host), tree)


def by_host(function: Callable[..., Array], *args: Array | int) -> Array:
    """What the host computes of what it holds, and is handed; there the result is, too."""
    return compute_on("device_host")(jax.jit(function))(*on_host(args))


def either(which: Array, first: Callable[[], PyTree], second: Callable[[], PyTree]) -> PyTree:
    """One of two, or both under an explicit mesh and one of them chosen.

    JAX 0.10 cannot batch a `jax.lax.cond` that holds anything in parts: `which` has none there.
    """
    like = jax.tree.leaves(jax.eval_shape(first))
    if all(explicit_sharding(leaf) is None for leaf in like):
        return jax.lax.cond(which, first, second)
    choose = lambda a, b: jnp.where(placed_like(jnp.broadcast_to(which, a.shape), a), a, b)
    return jax.tree.map(choose, first(), second())


def is_on_host(x: object) -> bool:
    """Whether an array is kept in the host's memory (`memory_kind="pinned_host"`)."""
    if not isinstance(x, jax.Array) or not hasattr(jax, "memory"):
        return False
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def on_device(tree: PyTree) -> PyTree:
    """Every leaf in the memory of the device, where JAX computes."""
    move = lambda x: jax.device_put(x, jax.memory.Space.Device) if is_on_host(x) else x
    return jax.tree.map(move, tree)


def is_key(leaf: object) -> bool:
    """Whether a leaf is a typed key of random draws."""
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def with_key_data(tree: PyTree) -> PyTree:
    """Keys of random draws by the numbers that they are made of: what can be saved and sent."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def with_keys(plain: PyTree, like: PyTree) -> PyTree:
    """Undoes `with_key_data`, for a tree like another one, or like its shapes."""

    def key(data, like):
        found = []
        jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
        return jax.random.wrap_key_data(data, impl=found[0])

    return jax.tree.map(lambda x, y: key(x, y) if is_key(y) else x, plain, like)


def num_bytes(tree: PyTree) -> int:
    """Of all leaves, in whole."""
    of_key = lambda leaf: jax.eval_shape(jax.random.key_data, leaf)
    leaves = [of_key(leaf) if is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def squared_norm(tree: PyTree) -> Float[Array, ""]:
    """Sum of squares of every entry, accumulated in at least float32."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32
    total = jnp.zeros((), dtype)
    for leaf in leaves:
        total = total + jnp.sum(
            jnp.square(jnp.abs(leaf.astype(accumulation_dtype(leaf.dtype))))
        ).astype(dtype)
    return total


def all_finite(tree: PyTree) -> Array:
    """Whether every entry of every leaf is finite, a boolean scalar."""
    finite = jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        finite = finite & jnp.all(jnp.isfinite(leaf))
    return finite


def accumulation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which thousands of terms may be summed: at least float32."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def widen(tree: PyTree) -> PyTree:
    """Every leaf in a dtype in which thousands of terms may be summed."""
    return jax.tree.map(lambda x: x.astype(accumulation_dtype(x.dtype)), tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Casts every leaf to the dtype of its counterpart in `like`, weak types included."""
    cast = lambda x, y: x if is_key(y) else jnp.asarray(x, jnp.result_type(y))
    return jax.tree.map(cast, tree, like)


def dot(first: PyTree, second: PyTree) -> Float[Array, ""]:
    """The inner product of two pytrees of one dtype."""
    # A sum, since a matrix unit would multiply with ten bits of mantissa by default.
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), first, second)
    return jax.tree.reduce(jnp.add, products)


def distance(first: PyTree, second: PyTree) -> Float[Array, ""]:
    """The L2 norm of the difference of two pytrees, in at least float32."""
    return jnp.sqrt(squared_norm(jax.tree.map(jnp.subtract, first, second)))


def add_scaled(first: PyTree, scale: Float[Array, ""] | float | int, second: PyTree) -> PyTree:
    """The sum first + scale · second, in the dtypes of the first."""
    return jax.tree.map(lambda a, b: a + scale * b.astype(a.dtype), first, second)
