"""A hypergradient in pieces: training and the way back cut anywhere, saved, and gone on with."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from drmad_jax.hypergradient.given import check_losses, chosen, given
from drmad_jax.hypergradient.outcome import Hypergradient, finished, turned
from drmad_jax.problem import Problem, TrainState
from drmad_jax.protocol import Estimator, Method, resolved
from drmad_jax.training.run import Run, started


class Tape(NamedTuple):
    """What travels with training: a pytree of fixed shape, to be saved, sharded and donated.

    Attributes:
        done: Number of steps taken.
        first: The step from which the run goes on; 0 for one that begins.
        key: Key of the run, or `None`.
        of_method: What the method remembers, around the training state.
    """

    done: Int[Array, ""]
    first: Int[Array, ""]
    key: Array | None
    of_method: Any


class Back(NamedTuple):
    """What travels back: a pytree of fixed shape, too.

    Attributes:
        left: Number of visits still to be made.
        first, key: As of the tape.
        of_method: What the method takes back, around the cotangent.
        value: The outer loss.
        final: The state at the end of training.
    """

    left: Int[Array, ""]
    first: Int[Array, ""]
    key: Array | None
    of_method: Any
    value: Float[Array, ""]
    final: TrainState


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The functions that a hypergradient is made of; made by `in_pieces`.

    All are pure, to be jitted and sharded by the caller: `start`, then `advance` until all steps
    are taken, `turn`, `retreat` until no visit is left, and `finish`. Any way of cutting gives the
    same.

    Attributes:
        problem: The problem.
        num_steps: Number of inner steps T.
        method: The method, all of its choices made.
        num_visits: How many visits the way back makes: single steps, whole segments for segments.
    """

    problem: Problem
    num_steps: int
    method: Method
    num_visits: int

    @functools.cached_property
    def reads(self) -> list[np.ndarray]:
        """The steps whose batches the way back reads.

        Those of `finish` first, then those of each visit, whose last one is made first.

        Raises:
            ValueError: Of a method that decides on its visits once training has ended.
        """
        return self.method.reads(Run(self.problem, self.num_steps, None, None, _no_start))

    def start(
        self,
        hparams: PyTree,
        params: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Tape:
        """Before the first step; the arguments are those of `hypergradient`."""
        hparams, params, run = self._given(hparams, params, None, model_state, key)
        of_method = self.method.begin(run, run.start(hparams), hparams)
        return Tape(jnp.int32(0), jnp.asarray(run.first, jnp.int32), key, of_method)

    def advance(
        self,
        tape: Tape,
        hparams: PyTree,
        inner_batches: PyTree,
        num_steps: Int[Array, ""] | int | None = None,
    ) -> Tape:
        """Trains on.

        Args:
            tape: What `start` or `advance` returned.
            hparams: The same hyperparameters.
            inner_batches: The same source of batches, or one that knows those of the steps that
                are taken here (`some_batches`).
            num_steps: How many steps, which may be traced: one compiled function serves all
                numbers. `None` for all that are left; what is more than that is left out.

        Returns:
            The tape after these steps.
        """
        run = self._run(tape, inner_batches)
        left = self.num_steps - tape.done
        until = tape.done + (left if num_steps is None else jnp.minimum(num_steps, left))
        of_method = self.method.advance(run, tape.of_method, hparams, tape.done, until)
        return tape._replace(done=jnp.asarray(until, jnp.int32), of_method=of_method)

    def turn(self, tape: Tape, hparams: PyTree, inner_batches: PyTree, outer_batch: PyTree) -> Back:
        """Evaluates the outer loss where training ended; NaN if it has not."""
        run = self._run(tape, inner_batches)
        final, trace = self.method.ended(run, tape.of_method, hparams)
        value, cotangent = turned(run, self.method, final, trace, hparams, outer_batch)
        # A value for a run that is not at its end would look right.
        ended = tape.done == self.num_steps
        value = jnp.where(ended, value, jnp.nan)
        cotangent = jax.tree.map(lambda x: jnp.where(ended, x, jnp.nan), cotangent)
        of_method = self.method.turn(run, trace, hparams, cotangent)
        left = jnp.int32(self.num_visits)
        return Back(left, tape.first, tape.key, of_method, value, final)

    def retreat(
        self,
        back: Back,
        hparams: PyTree,
        inner_batches: PyTree,
        num_visits: Int[Array, ""] | int | None = None,
    ) -> Back:
        """Goes back by some visits, which may be traced; `None` for all that are left."""
        run = self._run(back, inner_batches)
        left = jnp.int32(0)
        if num_visits is not None:
            left = jnp.asarray(jnp.maximum(back.left - num_visits, 0), jnp.int32)
        of_method = self.method.retreat(run, back.of_method, hparams, left, back.left)
        return back._replace(left=left, of_method=of_method)

    def finish(
        self,
        back: Back,
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        *,
        model_state: PyTree = None,
    ) -> Hypergradient:
        """What `hypergradient` returns; NaN if there are visits left.

        Args:
            back: What `retreat` returned.
            hparams: The same hyperparameters.
            params: The same initial weights, or `TrainState`.
            inner_batches: The same source of batches, for methods that read some here.
            model_state: The same initial model state.
        """
        hparams, params, run = self._given(hparams, params, None, model_state, back.key)
        run = dataclasses.replace(run, inner_batches=inner_batches)
        cotangent, info = self.method.arrived(run, back.of_method, hparams)
        cotangent = jax.tree.map(lambda x: jnp.where(back.left == 0, x, jnp.nan), cotangent)
        start = started(run, hparams, params, model_state)
        return finished(run, self.method, start, hparams, back.value, back.final, cotangent, info)

    def _given(self, hparams, params, inner_batches, model_state, key):
        return given(self.problem, self.num_steps, hparams, params, inner_batches, model_state, key)

    def _run(self, of: Tape | Back, inner_batches: PyTree) -> Run:
        """The run, its start left behind."""
        return Run(self.problem, self.num_steps, inner_batches, of.key, _no_start, of.first)


def in_pieces(
    problem: Problem, *, num_steps: int, method: Method | None = None
) -> Callable[..., Pieces]:
    """A hypergradient in pieces: cut anywhere, saved, sharded, and gone on with.

    What `hypergradient` does in one call, in the caller's own loop: with checkpoints on disk,
    batches from a stream, progress, on machines that are taken away. `in_chunks` is such a loop.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_steps: Number of inner steps T.
        method: How; `drmad()` if `None`.

    Returns:
        A function `(hparams, params, inner_batches, outer_batch, *, model_state=None, key=None) ->
        Pieces`, with the arguments of a hypergradient, of which only structures, shapes and dtypes
        matter: nothing is computed. The method makes its choices and says what it has to.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind, shape or dtype, and of a method that
            cannot be cut: JAX's own reverse mode, estimates from whole runs.

    Warns:
        UserWarning: As `hypergradient`.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, lambda w, l2, x: jnp.sum((w - x) ** 2), optax.sgd(0.1))
        >>> h, w, batches, outer = 1.0, jnp.zeros(1), jnp.ones((50, 1)), jnp.ones(1)
        >>> pieces = dj.in_pieces(problem, num_steps=50)(h, w, batches, outer)
        >>> tape, advance = pieces.start(h, w), jax.jit(pieces.advance)
        >>> for _ in range(5):
        ...     tape = advance(tape, h, batches, 10)  # Save `tape` here.
        >>> back, retreat = pieces.turn(tape, h, batches, outer), jax.jit(pieces.retreat)
        >>> for _ in range(pieces.num_visits):
        ...     back = retreat(back, h, batches, 1)  # And `back` here.
        >>> round(float(pieces.finish(back, h, w, batches).grad), 4)  # w = 1/(1+l2)
        0.25
    """
    checked = chosen(problem, num_steps, method)
    if isinstance(checked, Estimator) or type(checked).forward is not Method.forward:
        raise ValueError(
            f"in_pieces: {checked} takes whole runs alone: use a method that goes back, such as "
            "drmad(), checkpointed() or reversible(), or forward()"
        )

    def call(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Pieces:
        found = []

        def look(hparams, params, model_state, key):
            hparams, _, run = given(
                problem, num_steps, hparams, params, inner_batches, model_state, key
            )
            state = run.start(hparams)
            check_losses(run, state, hparams, outer_batch)
            outer = lambda h: problem.outer(state.params, h, outer_batch, state.model_state)
            by = resolved(checked, run, state, hparams, outer)
            found.append(Pieces(problem, num_steps, by, by.num_visits(run)))

        jax.eval_shape(look, hparams, params, model_state, key)
        return found[0]

    return call


def _no_start(hparams: PyTree) -> TrainState:
    raise NotImplementedError("the initial state is asked for in the middle of a run")
