"""Hypergradients of whole training runs in JAX, in memory that does not grow with their length."""

from drmad_jax import transforms
from drmad_jax.diagnostics.agreement import Agreement, agreement, agreement_with_other_seeds
from drmad_jax.diagnostics.compare import compare
from drmad_jax.diagnostics.metasmoothness import Metasmoothness, metasmoothness
from drmad_jax.diagnostics.recommend import Recommendation, recommend
from drmad_jax.diagnostics.report import Comparison, MethodReport
from drmad_jax.fixed_point.sgd import reversible_sgd
from drmad_jax.hypergradient import (
    Hypergradient,
    Pieces,
    certify,
    hypergradient,
    in_pieces,
    train,
    trained,
)
from drmad_jax.loops.adaptation import OnlineState
from drmad_jax.loops.chunks import Progress, in_chunks
from drmad_jax.loops.online import online_learning_rates, online_penalties
from drmad_jax.loops.outer import OuterOptimizer, outer_optimizer
from drmad_jax.loops.persistent_es import ParticleInfo, ParticleState, PersistentES, persistent_es
from drmad_jax.loops.real_time import RealTime, RealTimeInfo, RealTimeState, real_time
from drmad_jax.loops.tuning import OuterInfo, OuterLoop, OuterState, Tuned, outer_loop, tune
from drmad_jax.methods.choices import (
    every_step,
    knots,
    means,
    measured_steps,
    segments,
    strided_steps,
)
from drmad_jax.methods.drmad import drmad, published_drmad
from drmad_jax.methods.exact import checkpointed, reversible, stored, unrolled
from drmad_jax.methods.forward import forward, forward_gradient
from drmad_jax.methods.implicit import conjugate_gradient, implicit, neumann_series, nystrom
from drmad_jax.methods.linear_solve import LinearSolver
from drmad_jax.methods.truncated import one_step, truncated
from drmad_jax.methods.zero_order import evolution_strategies
from drmad_jax.problem import CompositeLoss, Problem, TrainState, composite_loss, init_state
from drmad_jax.protocol import Certificate, Estimator, Info, Method
from drmad_jax.training.batches import host_batches, some_batches
from drmad_jax.training.curvature import curvature_product, inner_gradient
from drmad_jax.training.minibatches import Minibatches, minibatches
from drmad_jax.training.run import forward_scan, reverse_scan
from drmad_jax.training.schedules import per_block
from drmad_jax.training.step import (
    Cotangent,
    ReverseInfo,
    StepInfo,
    init_cotangent,
    reverse_step,
    train_step,
)
from drmad_jax.training.tangents import initial_tangents, tangent_step

__all__ = [
    "Agreement",
    "Certificate",
    "Comparison",
    "CompositeLoss",
    "Cotangent",
    "Estimator",
    "Hypergradient",
    "Info",
    "LinearSolver",
    "Metasmoothness",
    "Method",
    "MethodReport",
    "Minibatches",
    "OnlineState",
    "OuterInfo",
    "OuterLoop",
    "OuterOptimizer",
    "OuterState",
    "ParticleInfo",
    "ParticleState",
    "PersistentES",
    "Pieces",
    "Problem",
    "Progress",
    "RealTime",
    "RealTimeInfo",
    "RealTimeState",
    "Recommendation",
    "ReverseInfo",
    "StepInfo",
    "TrainState",
    "Tuned",
    "agreement",
    "agreement_with_other_seeds",
    "certify",
    "checkpointed",
    "compare",
    "composite_loss",
    "conjugate_gradient",
    "curvature_product",
    "drmad",
    "every_step",
    "evolution_strategies",
    "forward",
    "forward_gradient",
    "forward_scan",
    "host_batches",
    "hypergradient",
    "implicit",
    "init_cotangent",
    "init_state",
    "initial_tangents",
    "in_chunks",
    "in_pieces",
    "inner_gradient",
    "knots",
    "means",
    "measured_steps",
    "metasmoothness",
    "minibatches",
    "neumann_series",
    "nystrom",
    "one_step",
    "online_learning_rates",
    "online_penalties",
    "outer_loop",
    "outer_optimizer",
    "per_block",
    "persistent_es",
    "published_drmad",
    "real_time",
    "recommend",
    "reverse_scan",
    "reverse_step",
    "reversible",
    "reversible_sgd",
    "segments",
    "some_batches",
    "stored",
    "strided_steps",
    "tangent_step",
    "train",
    "train_step",
    "trained",
    "transforms",
    "truncated",
    "tune",
    "unrolled",
]
__version__ = "0.1.0.dev0"
