"""The study: how near each method comes to the exact hypergradient, and what tuning by it reaches.

    TFDS_DATA_DIR=... python -m benchmarks.accuracy [PART [NAME ...]]

PART is agreement, tuned, paths, learning_rates or tuning. Writes a record for each part and
problem; `python -m benchmarks.study` puts them into docs/study.md.
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from tqdm import tqdm

import drmad_jax as dj
from benchmarks.harness import write_record
from benchmarks.study_methods import methods, path_methods
from benchmarks.study_problems import (
    PROBLEMS,
    StudyProblem,
    learning_rates,
    ridge_closed_form,
)
from benchmarks.tuning import outer_step, tune, tuning

NUM_SEEDS = 8
SEEDS_OF = {"long": 3}
# Where the exact hypergradient leads nowhere, agreement with it says little: a few methods do.
FEWER = {"conv_sgd": ("published", "means, Hessian, 10 x 10, T/100 batches", "last T/10 steps")}
TUNED = ("mlp_stable", "mlp_chaotic", "mlp_adam", "conv_sgd", "conv_smooth")


def compared(
    study: StudyProblem,
    chosen: dict[str, dj.Method],
    *,
    hparams: PyTree = None,
    num_seeds: int = NUM_SEEDS,
    label: str,
) -> dict[str, Any]:
    """Methods against the exact one at some hyperparameters, by default where tuning starts."""
    runs = tqdm(
        (study.sample(jax.random.key(seed)) for seed in range(num_seeds)),
        desc=label, total=num_seeds,
    )  # fmt: skip
    compare = dj.compare(study.problem, chosen, num_steps=study.num_steps)
    found = compare(study.hparams if hparams is None else hparams, runs)
    print(found.to_markdown())
    return json.loads(found.to_json())


def agreement(name: str) -> dict[str, Any]:
    """Every method against the exact one, on the same seeds and on others."""
    study = PROBLEMS[name]()
    num_seeds = SEEDS_OF.get(name, NUM_SEEDS)
    chosen = methods(study.num_steps)
    chosen = {label: chosen[label] for label in FEWER.get(name, chosen)}
    results = compared(study, chosen, num_seeds=num_seeds, label=name)
    if name == "ridge":
        results["cosine with the closed form"] = _with_closed_form(study)
    return results


def tuned(name: str) -> dict[str, Any]:
    """The same at the hyperparameters that tuning by the exact method ends with."""
    study = PROBLEMS[name]()
    step, init = outer_step(study, dj.checkpointed(), signs=False)
    hparams, _ = tune(step, init, study.hparams, seed=0)
    return compared(study, methods(study.num_steps), hparams=hparams, label=f"{name}, tuned")


def _with_closed_form(study: StudyProblem) -> dict[str, float]:
    reference = ridge_closed_form(study.hparams)["log_l2"]
    run = study.sample(jax.random.key(0))
    cosines = {}
    for name, method in {**methods(study.num_steps), "exact": dj.checkpointed()}.items():
        compute = dj.hypergradient(study.problem, num_steps=study.num_steps, method=method)
        grad = jax.jit(compute)(study.hparams, **run).grad["log_l2"]
        norms = jnp.linalg.norm(grad) * jnp.linalg.norm(reference)
        cosines[name] = round(float(grad @ reference / norms), 4)
    return cosines


def paths(name: str) -> dict[str, Any]:
    """What knots, means and the optimizer's state on the path buy."""
    study = PROBLEMS[name]()
    return compared(study, path_methods(study), label=f"{name}, paths")


def rates() -> dict[str, Any]:
    """Learning rates of 20 blocks of steps: what a path knows of them."""
    study = learning_rates()
    chosen = {
        name: method
        for name, method in methods(study.num_steps).items()
        if not name.startswith(("implicit", "last"))
    }
    every = tuple(range(0, study.num_steps + 1, 10))
    chosen["201 knots, Hessian, all steps"] = dj.drmad(knots=every, curvature="hessian")
    return compared(study, chosen, label="learning rates")


def main(arguments: list[str]) -> None:
    part, names = (arguments[0] if arguments else None), arguments[1:]
    if part in (None, "agreement"):
        for name in names or PROBLEMS:
            print(write_record(f"agreement_{name}", agreement(name)))
    if part in (None, "paths"):
        for name in names or ("mlp_chaotic", "mlp_adam"):
            print(write_record(f"agreement_paths_{name}", paths(name)))
    if part in (None, "tuned"):
        for name in names or ("mlp_chaotic",):
            print(write_record(f"agreement_tuned_{name}", tuned(name)))
    if part in (None, "learning_rates"):
        print(write_record("agreement_learning_rates", rates()))
    if part in (None, "tuning"):
        for name in names or TUNED:
            print(write_record(f"tuning_{name}", tuning(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
