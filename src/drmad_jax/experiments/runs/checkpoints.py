"""Checkpoints of the outer loop: what makes a killed run go on as if nothing had happened."""

from pathlib import Path
from typing import Self

import jax
import orbax.checkpoint as ocp

from drmad_jax.experiments.runs.outer_step import Carry

FOLDER = "checkpoints"


class Checkpoints:
    """The last two checkpoints of a run; a context manager.

    Orbax writes beside the final folder and renames, so that a killed write is never picked up;
    the one before is kept all the same.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager((folder / FOLDER).absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def save(self, step: int, carry: Carry) -> None:
        """Writes a checkpoint, and returns when it is complete.

        Args:
            step: Outer steps done so far.
            carry: What the next step starts from.
        """
        self._manager.save(step, args=ocp.args.StandardSave(carry))  # pyright: ignore

    def restore(self, like: Carry) -> tuple[int, Carry] | None:
        """Reads the latest complete checkpoint.

        Args:
            like: A carry of the same structure, shapes and dtypes.

        Returns:
            Outer steps done, and what the next one starts from; `None` if there is none.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return step, self._manager.restore(step, args=ocp.args.StandardRestore(target))  # pyright: ignore
