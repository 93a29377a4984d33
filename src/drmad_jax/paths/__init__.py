"""Paths: where each visited step is linearised. One file a path, one shared interface."""

from drmad_jax.paths.averaged import Averaged
from drmad_jax.paths.base import Path
from drmad_jax.paths.frozen import Frozen
from drmad_jax.paths.interpolated import Interpolated
from drmad_jax.paths.recomputed import Recomputed
from drmad_jax.paths.reversed import Reversed

__all__ = ["Averaged", "Frozen", "Interpolated", "Path", "Recomputed", "Reversed"]
