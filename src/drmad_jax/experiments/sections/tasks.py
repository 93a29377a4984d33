"""The kinds of section `[task]`."""

import dataclasses
from typing import ClassVar, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2Config:
    """Section `[task]`: learn L2 penalties of the weights (biases have none).

    Attributes:
        headline: The metric of `evaluate` that figures and tables show beside the outer loss.
        kind: "l2".
        granularity: What shares one penalty: the weights out of one input "unit", those of one
            "layer", each "parameter" alone, or all weights ("global").
        coordinates: "penalty" adds Σ exp(log_l2)·w² to the loss. "rescaled" is the published
            form: the network uses w = z·exp(t), training moves z, the penalty is exp(-4)·‖z‖²,
            and t is the hyperparameter, so that log_l2 = -4 - 2t.
        initial_log_l2: Natural log of the initial penalties; published: -4.4 (t = .2).
    """

    headline: ClassVar[str] = "test_error"

    kind: Literal["l2"] = "l2"
    granularity: Literal["unit", "layer", "parameter", "global"] = "unit"
    coordinates: Literal["penalty", "rescaled"] = "penalty"
    initial_log_l2: float = -4.4
