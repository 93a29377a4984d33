"""Paths: where each visited step is linearised. One file a path, one shared interface."""

from drmad_jax.reverse.paths.base import Path
from drmad_jax.reverse.paths.checkpoints import Recomputed
from drmad_jax.reverse.paths.frozen import Frozen
from drmad_jax.reverse.paths.knots import Interpolated
from drmad_jax.reverse.paths.means import Averaged
from drmad_jax.reverse.paths.reversal import Reversed

__all__ = ["Averaged", "Frozen", "Interpolated", "Path", "Recomputed", "Reversed"]
