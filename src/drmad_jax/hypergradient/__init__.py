"""The entry points: the hypergradient in one go or in pieces, and training with a rule for it.

`given` makes of what a user hands over a `Run` and checks it; `outcome` is what comes out, and what
is computed where training ends and where the way back does. `whole`, `pieces` and `training` are
these around one method's way there and back.
"""

from drmad_jax.hypergradient.outcome import Hypergradient
from drmad_jax.hypergradient.pieces import Pieces, in_pieces
from drmad_jax.hypergradient.training import train, trained
from drmad_jax.hypergradient.whole import certify, hypergradient

__all__ = [
    "Hypergradient", "Pieces", "certify", "hypergradient", "in_pieces", "train", "trained",
]  # fmt: skip
