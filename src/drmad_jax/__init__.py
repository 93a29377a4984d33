"""Hypergradients of whole training runs in JAX, at the memory of one training state."""

from drmad_jax import transforms
from drmad_jax.batches import Minibatches, host_batches, minibatches
from drmad_jax.gradient import curvature_product, inner_gradient
from drmad_jax.hypergradient import Hypergradient, hypergradient, train
from drmad_jax.method import Info, Method
from drmad_jax.methods import (
    checkpointed,
    drmad,
    measured_steps,
    published_drmad,
    stored,
    truncated,
    unrolled,
)
from drmad_jax.outer import OuterOptimizer, outer_optimizer
from drmad_jax.problem import CompositeLoss, Problem, TrainState, composite_loss, init_state
from drmad_jax.step import (
    Cotangent,
    ReverseInfo,
    StepInfo,
    init_cotangent,
    reverse_step,
    train_step,
)
from drmad_jax.unroll import forward_scan, reverse_scan

__all__ = [
    "CompositeLoss",
    "Cotangent",
    "Hypergradient",
    "Info",
    "Method",
    "Minibatches",
    "OuterOptimizer",
    "Problem",
    "ReverseInfo",
    "StepInfo",
    "TrainState",
    "checkpointed",
    "composite_loss",
    "curvature_product",
    "drmad",
    "forward_scan",
    "host_batches",
    "hypergradient",
    "init_cotangent",
    "init_state",
    "inner_gradient",
    "measured_steps",
    "minibatches",
    "outer_optimizer",
    "published_drmad",
    "reverse_scan",
    "reverse_step",
    "stored",
    "train",
    "train_step",
    "transforms",
    "truncated",
    "unrolled",
]
__version__ = "0.1.0.dev0"
