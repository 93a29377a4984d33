"""Watches the cotangent on the way back, where a stand-in path may expand and training did not."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from drmad_jax import tree
from drmad_jax.problem import TrainState
from drmad_jax.protocol import Info
from drmad_jax.reverse.steps import Visits
from drmad_jax.training.step import Cotangent, ReverseInfo

OnExpansion = Literal["continue", "truncate", "gauss_newton"]
ON_EXPANSION = ("continue", "truncate", "gauss_newton")

# On a true trajectory that trained well the norm stays near where it began.
EXPANSION = 10.0
NUM_BINS = 32


class Guard(NamedTuple):
    """What is watched, carried beside the cotangent; its size does not depend on T.

    Attributes:
        at_end: Norm of the weights' cotangent where the way back begins.
        latest: Its norm after the latest visit.
        largest: Its largest norm.
        profile: Its norm in each of 32 equal parts of training, −1 where nothing was visited.
        expanded: Whether it has outgrown `EXPANSION` times its norm at the end.
        num_visits: Visits taken.
        residual: The largest residual of a segment.
        drift: By how much, relative to the larger one, the curvature that the cotangent meets
            changes between two segments, at most.
        curvature: That at the end of the latest segment.
        compares: Whether there has been one.
    """

    at_end: Float[Array, ""]
    latest: Float[Array, ""]
    largest: Float[Array, ""]
    profile: Float[Array, "32"]
    expanded: Bool[Array, ""]
    num_visits: Int[Array, ""]
    residual: Float[Array, ""]
    drift: Float[Array, ""]
    curvature: Float[Array, ""]
    compares: Bool[Array, ""]

    def after(self, position: Float[Array, ""], info: ReverseInfo) -> "Guard":
        """With one more visit, at a position from 0 to 1 on the way of training."""
        part = jnp.minimum((position * NUM_BINS).astype(jnp.int32), NUM_BINS - 1)
        norm, guard = info.cotangent_norm, self
        if info.residual is not None and info.curvatures is not None:
            guard = self._after_segment(info.residual, info.curvatures)
        return guard._replace(
            latest=norm,
            largest=jnp.maximum(self.largest, norm),
            profile=self.profile.at[part].set(norm.astype(self.profile.dtype)),
            expanded=self.expanded | ~(norm <= EXPANSION * self.at_end),
            num_visits=self.num_visits + 1,
        )

    def _after_segment(self, residual: Array, curvatures: Array) -> "Guard":
        begin, end = curvatures.astype(self.curvature.dtype)
        larger = jnp.maximum(jnp.abs(begin), self.curvature)
        change = jnp.abs(begin - self.curvature) / jnp.where(larger > 0, larger, 1)
        drift = jnp.where(self.compares, jnp.maximum(self.drift, change), self.drift)
        residual = jnp.maximum(self.residual, residual.astype(self.residual.dtype))
        return self._replace(
            residual=residual, drift=drift, curvature=end, compares=jnp.array(True)
        )

    def info(self, *, of_segments: bool = False) -> Info:
        """What is reported."""
        return Info(
            segment_residual=self.residual if of_segments else None,
            segment_drift=self.drift if of_segments else None,
            num_reverse_steps=self.num_visits,
            cotangent_norm=self.largest,
            cotangent_norm_at_end=self.at_end,
            cotangent_norm_at_start=self.latest,
            cotangent_norm_profile=self.profile,
            expanded=self.expanded,
        )


def start_guard(cotangent: Cotangent) -> Guard:
    """The guard before the first visit."""
    norm = jnp.sqrt(tree.squared_norm(cotangent.state.params))
    # Not NaN, which jax.debug_nans would take for an error.
    profile = jnp.full(NUM_BINS, -1, jnp.float32)
    # Made of the norm, whose type knows of the mesh: JAX cannot batch a scan's other scalars on it.
    zero, no = jnp.zeros_like(norm, jnp.float32), jnp.zeros_like(norm, bool)
    return Guard(norm, norm, norm, profile, no, jnp.int32(0), zero, zero, zero, no)


def positions(
    visits: Visits, num_steps: int, before: int
) -> Callable[[TrainState, Guard], Float[Array, ""]]:
    """Where on the way of training, from 0 to 1, the next visit is linearised.

    Known by its number, not by its step: published DrMAD takes its batches elsewhere. `before`
    these visits the way back has made others.
    """
    if not visits.static:
        return lambda state, guard: state.step.astype(jnp.float32) / num_steps
    backwards = np.asarray(visits.position, np.float32)[::-1] / num_steps
    return lambda state, guard: jnp.asarray(backwards)[guard.num_visits - before]


def guarded(
    take: Callable[..., tuple[Cotangent, ReverseInfo]],
    on_expansion: OnExpansion,
    position: Callable[[TrainState, Guard], Array],
) -> Callable[..., tuple[Cotangent, Guard]]:
    """A visit that does what `on_expansion` says once the cotangent has expanded.

    Args:
        take: `(state, cotangent, weight, at, safe) -> (cotangent, info)`, one visit; `safe` asks
            for a curvature that cannot expand.
        on_expansion: "continue" only watches; "truncate" ends the way back before the visit that
            expands it; "gauss_newton" takes that visit and all after it with Gauss–Newton
            curvature.
        position: Where the next visit stands; made by `positions`.

    Returns:
        `((cotangent, guard), state, weight, at) -> (cotangent, guard)`.
    """

    def visit(carry, state, weight, at):
        cotangent, guard = carry
        cotangent, info = take(state, cotangent, weight, at, safe=False)
        return cotangent, guard.after(position(state, guard), info)

    if on_expansion == "continue":
        return visit

    def safe_visit(carry, state, weight, at):
        cotangent, guard = carry
        if on_expansion == "truncate":
            return cotangent, guard
        cotangent, info = take(state, cotangent, weight, at, safe=True)
        return cotangent, guard.after(position(state, guard), info)

    def visit_or_retry(carry, *where):
        tried = visit(carry, *where)
        instead = (carry[0], carry[1]._replace(expanded=tried[1].expanded))
        again = lambda: safe_visit(instead, *where)
        return jax.lax.cond(tried[1].expanded, again, lambda: tried)

    def guarded_visit(carry, *where):
        return jax.lax.cond(
            carry[1].expanded,
            lambda: safe_visit(carry, *where),
            lambda: visit_or_retry(carry, *where),
        )

    return guarded_visit
