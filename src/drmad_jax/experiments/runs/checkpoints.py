"""Checkpoints of the outer loop: what makes a killed run go on as if nothing had happened."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from drmad_jax.experiments.runs.outer_step import Carry

FOLDER = "checkpoints"


def checkpoints_of(folder: Path) -> ocp.CheckpointManager:
    """The last two checkpoints of a run, each of them written when `save` returns.

    Orbax writes beside the final folder and renames, so that a killed write is never picked up;
    the one before is kept all the same.

    Args:
        folder: The run folder.

    Returns:
        Orbax's manager, a context manager.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager((folder / FOLDER).absolute(), options=options)


def restore(checkpoints: ocp.CheckpointManager, *, like: Carry) -> tuple[int, Carry] | None:
    """Reads the latest complete checkpoint.

    Args:
        checkpoints: Those of the run.
        like: A carry of the same structure, shapes and dtypes.

    Returns:
        Outer steps done, and what the next one starts from; `None` if there is none.
    """
    step = checkpoints.latest_step()
    if step is None:
        return None
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return step, checkpoints.restore(step, args=ocp.args.StandardRestore(target))  # pyright: ignore
