"""A long run in chunks: batches fetched ahead, something saved between, any stream of batches."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_count
from drmad_jax.hypergradient import Hypergradient, Pieces, in_pieces
from drmad_jax.loops.sources import Place, Saved, source_of
from drmad_jax.problem import Problem
from drmad_jax.protocol import Method


class Progress(NamedTuple):
    """How far a run in chunks has come.

    Attributes:
        phase: "training" or "way back".
        done: Steps, or visits.
        total: Of how many.
    """

    phase: Literal["training", "way back"]
    done: int
    total: int


def in_chunks(
    problem: Problem,
    *,
    num_steps: int,
    method: Method | None = None,
    chunk_size: int = 100,
    save: Callable[[Saved], Any] | None = None,
    progress: Callable[[Progress], Any] | None = None,
    place: Place = jax.device_put,
) -> Callable[..., Hypergradient]:
    """A hypergradient as a loop on the host: for long runs, streams, machines that are taken away.

    It is `in_pieces` with its functions compiled, once for arguments of the same shapes. While the
    device computes one chunk, the batches of the next are fetched.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_steps: Number of inner steps T.
        method: How; `drmad()` if `None`.
        chunk_size: Steps in a chunk, and batches on the device at a time; more where one visit of
            the way back reads more.
        save: Gets, after each chunk of either direction, all that is needed to go on: a dict of
            arrays, as NumPy's `savez`, Orbax and others take it.
        progress: Gets a `Progress` after each chunk.
        place: Puts a pytree of stacked batches from the host on the devices.

    Returns:
        A function with the arguments of a hypergradient, and `saved`, what `save` got last: it goes
        on from there. `inner_batches` may be, besides what `hypergradient` takes,
        `host_batches(…)`, fetched ahead here; or an iterator over batches, such as
        `iter(torch_data_loader)`, gone through once: those that the way back reads stay on the host
        (a few hundred for `drmad()`, whatever T is, and all for an exact method). To go on, it has
        to stand behind the batches of the steps that were done, `saved["done"]`.

    Raises:
        ValueError: If a stream ends too early, or the method decides on its visits on the way and
            the batches are not on the device.
        TypeError, ValueError: On arguments of the wrong kind, shape or dtype.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, numpy as np, optax
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, lambda w, l2, x: jnp.sum((w - x) ** 2), optax.sgd(0.1))
        >>> stream = (np.ones(1, np.float32) for _ in range(50))
        >>> run = dj.in_chunks(problem, num_steps=50, chunk_size=20, progress=print)
        >>> out = run(1.0, jnp.zeros(1), stream, jnp.ones(1))
        Progress(phase='training', done=20, total=50)
        Progress(phase='training', done=40, total=50)
        Progress(phase='training', done=50, total=50)
        Progress(phase='way back', done=16, total=50)
        Progress(phase='way back', done=31, total=50)
        Progress(phase='way back', done=50, total=50)
        >>> round(float(out.grad), 4)  # w = 1/(1+l2)
        0.25
    """
    check_count("in_chunks", "chunk_size", chunk_size)
    make, compiled = in_pieces(problem, num_steps=num_steps, method=method), {}

    def call(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
        saved: Saved | None = None,
    ) -> Hypergradient:
        source = source_of(inner_batches, num_steps, place)
        given, sample = {"model_state": model_state, "key": key}, source.sample()
        kinds = _kinds((hparams, params, sample, outer_batch, given))
        if kinds not in compiled:
            pieces = make(hparams, params, sample, outer_batch, **given)
            compiled[kinds] = _Compiled(pieces, chunk_size, source.is_read)
        run: _Compiled = compiled[kinds]
        source.hold(run.wanted)

        def note(done: int, left: int | None, travels: PyTree) -> None:
            if save is not None:
                where = {"done": done} | ({} if left is None else {"left": left})
                save(_flat(travels) | source.held(done) | jax.tree.map(np.int64, where))
            if progress is not None and left is None:
                progress(Progress("training", done, num_steps))
            elif progress is not None and left is not None:
                total = run.pieces.num_visits
                progress(Progress("way back", total - left, total))

        if saved is None:
            done, left, travels = 0, None, run.start(hparams, params, **given)
        else:
            source.restore(saved)
            done, left, travels = run.restored(saved, hparams, params, sample, outer_batch, given)
        following = source.ahead(done, chunk_size)
        while done < num_steps:
            count = min(chunk_size, num_steps - done)
            # One chunk computes and one waits, no more: batches do not pile up.
            jax.block_until_ready(travels)
            travels, done = run.advance(travels, hparams, following, count), done + count
            following = source.ahead(done, chunk_size)
            note(done, None, travels)
        if left is None:
            travels = run.turn(travels, hparams, following, outer_batch)
            left = run.pieces.num_visits
        count, steps = run.group(left)
        following = source.chosen(steps, run.size)
        while left:
            jax.block_until_ready(travels)
            travels, left = run.retreat(travels, hparams, following, count), left - count
            count, steps = run.group(left)
            following = source.chosen(steps, run.size)
            note(done, left, travels)
        return run.finish(travels, hparams, params, following, model_state=model_state)

    return call


class _Compiled:
    """The functions of `Pieces`, compiled, and how the way back is divided."""

    def __init__(self, pieces: Pieces, chunk_size: int, is_read: bool):
        self.pieces = pieces
        self.start, self.finish = jax.jit(pieces.start), jax.jit(pieces.finish)
        # What travels is handed on, and not held twice.
        handed_on = pieces.advance, pieces.turn, pieces.retreat
        self.advance, self.turn, self.retreat = (jax.jit(f, donate_argnums=0) for f in handed_on)
        self._reads = pieces.reads if is_read else [()] * (1 + pieces.num_visits)
        self._chunk_size = chunk_size
        # Room for the batches of any visit.
        self.size = max(chunk_size, *map(len, self._reads))
        self.wanted = frozenset(int(step) for steps in self._reads for step in steps)

    def group(self, left: int) -> tuple[int, list[int]]:
        """How many of the visits that are left are made in one go, and which steps they read.

        Those that `finish` reads, where none is left.
        """
        if left == 0:
            return 0, sorted(map(int, self._reads[0]))
        count, steps = 0, set()
        while count < min(left, self._chunk_size):
            more = steps | set(map(int, self._reads[left - count]))
            if count and len(more) > self.size:
                break
            count, steps = count + 1, more
        return count, sorted(steps)

    def restored(self, saved, hparams, params, sample, outer_batch, given):
        """Steps done, visits left, and what travels."""
        like = jax.eval_shape(self.pieces.start, hparams, params, **given)
        if "left" not in saved:
            return int(saved["done"]), None, _unflat(saved, like)
        turn = lambda tape: self.pieces.turn(tape, hparams, sample, outer_batch)
        return int(saved["done"]), int(saved["left"]), _unflat(saved, jax.eval_shape(turn, like))


def _kinds(pytree: PyTree) -> Any:
    leaves, structure = jax.tree.flatten(pytree)
    of = lambda x: (jnp.shape(x), str(jnp.result_type(x))) if hasattr(x, "dtype") else type(x)
    return structure, tuple(map(of, leaves))


def _flat(travels: PyTree) -> dict[str, Array]:
    """Its leaves by number."""
    return {f"leaf.{i}": x for i, x in enumerate(jax.tree.leaves(tree.with_key_data(travels)))}


def _unflat(saved: Saved, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(jax.eval_shape(tree.with_key_data, like))

    def restored(index: int, like: jax.ShapeDtypeStruct) -> Array:
        x = jnp.asarray(saved[f"leaf.{index}"])
        if x.shape != like.shape or x.dtype != like.dtype:
            raise ValueError(
                f"in_chunks: `saved` is of another run: {x.dtype}{list(x.shape)} is no "
                f"{like.dtype}{list(like.shape)}"
            )
        return x

    if sum(name.startswith("leaf.") for name in saved) != len(leaves):
        raise ValueError("in_chunks: `saved` is of another run: it holds another number of arrays")
    plain = jax.tree.unflatten(structure, [restored(*each) for each in enumerate(leaves)])
    return tree.with_keys(plain, like)
