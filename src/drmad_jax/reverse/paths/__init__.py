"""Paths: where each visited step is linearised. One file a path, one shared interface."""

from drmad_jax.reverse.paths.base import Path
from drmad_jax.reverse.paths.checkpoints import Checkpoints
from drmad_jax.reverse.paths.frozen import Frozen
from drmad_jax.reverse.paths.knots import Knots
from drmad_jax.reverse.paths.means import Means
from drmad_jax.reverse.paths.reversal import Reversal

__all__ = ["Checkpoints", "Frozen", "Knots", "Means", "Path", "Reversal"]
