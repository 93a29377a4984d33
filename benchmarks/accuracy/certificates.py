"""What a certificate and the free figures of `info` say of a hypergradient, beside the truth."""

from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.problems.study import PROBLEMS
from drmad_jax.experiments.runs.outer_step import NUM_DIRECTIONS

STUDIED = (
    "mlp_stable", "mlp_chaotic", "mlp_adam", "conv_smooth", "example_weights", "learning_rates",
)  # fmt: skip
NUM_SEEDS = 4
COSINE, CERTIFIED, ERROR = "cosine", "certified cosine", "its error"
RATIO, RESIDUAL, DRIFT, SHARE = "certified ratio", "residual", "drift", "exact share"


def certificates(name: str) -> dict[str, Any]:
    """Each method's figures, a list of seeds: the true cosine first."""
    study = PROBLEMS[name]()
    certify = jax.jit(
        dj.certify(study.problem, num_steps=study.num_steps, num_directions=NUM_DIRECTIONS)
    )
    runs = [study.sample(jax.random.key(seed)) for seed in range(NUM_SEEDS)]

    def hypergradients(method: lineup.Method) -> list[dj.Hypergradient]:
        compute = dj.hypergradient(study.problem, num_steps=study.num_steps, method=method)
        compute = jax.jit(compute)
        return [compute(study.hparams, **run) for run in runs]

    exact = hypergradients(lineup.method("exact", study.num_steps))
    found = {}
    for label, method in tqdm(lineup.methods(lineup.CERTIFIED, study.num_steps).items(), desc=name):
        rows = []
        for run, out, true in zip(runs, hypergradients(method), exact, strict=True):
            worth = certify(out.grad, study.hparams, **run)
            rows.append({
                COSINE: dj.agreement(out.grad, true.grad).cosine, CERTIFIED: worth.cosine,
                ERROR: worth.cosine_error, RATIO: worth.ratio,
                RESIDUAL: out.info.segment_residual, DRIFT: out.info.segment_drift,
                SHARE: out.info.exact_share,
            })  # fmt: skip
        keys = {key: [_number(row[key]) for row in rows] for key in rows[0]}
        found[label] = {key: values for key, values in keys.items() if None not in values}
    return found


def _number(value: Any) -> float | None:
    return None if value is None or not jnp.isfinite(value) else float(f"{float(value):.4g}")
