"""The study: how near each method comes to the exact hypergradient, and what tuning by it reaches.

    TFDS_DATA_DIR=... python -m benchmarks.accuracy [PART [NAME ...]]

PART is agreement, tuned, paths, learning_rates, certificates or tuning. Writes a record for each
part and problem; `python -m benchmarks.study` puts them into docs/study.md.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.accuracy.certificates import STUDIED, certificates
from benchmarks.accuracy.tuning import outer_step, tune, tuning
from benchmarks.problems.study import PROBLEMS, StudyProblem, ridge_closed_form
from benchmarks.records import write_record

NUM_SEEDS = 8
SEEDS_OF = {"long": 3}
LINE_UPS = {
    "conv_sgd": lineup.ROUGH,
    "learning_rates": lineup.LEARNING_RATES,
    "example_weights": lineup.OF_STEPS,
}


def compared(
    study: StudyProblem,
    chosen: dict[str, lineup.Method],
    *,
    num_seeds: int = NUM_SEEDS,
    label: str,
) -> dict[str, Any]:
    """Methods against the exact one at the study's hyperparameters."""
    runs = (study.sample(jax.random.key(seed)) for seed in range(num_seeds))
    compare = dj.compare(study.problem, chosen, num_steps=study.num_steps)
    found = compare(study.hparams, tqdm(runs, desc=label, total=num_seeds))
    print(found.to_markdown())
    return json.loads(found.to_json())


def agreement(name: str) -> dict[str, Any]:
    """Every method against the exact one, on the same seeds and on others."""
    study = PROBLEMS[name]()
    chosen = lineup.methods(LINE_UPS.get(name, lineup.STUDY), study.num_steps)
    results = compared(study, chosen, num_seeds=SEEDS_OF.get(name, NUM_SEEDS), label=name)
    if name == "ridge":
        results["cosine with the closed form"] = _with_closed_form(study)
    return results


def tuned(name: str) -> dict[str, Any]:
    """The same at the hyperparameters that tuning by the exact method ends with."""
    study = PROBLEMS[name]()
    step, init = outer_step(study, lineup.method("exact", study.num_steps), signs=False)
    hparams, _ = tune(step, init, study.hparams, seed=0)
    chosen = lineup.methods(lineup.STUDY, study.num_steps)
    return compared(study._replace(hparams=hparams), chosen, label=f"{name}, tuned")


def _with_closed_form(study: StudyProblem) -> dict[str, float]:
    reference = ridge_closed_form(study.hparams)["log_l2"]
    run = study.sample(jax.random.key(0))
    cosines = {}
    for name, method in lineup.methods((*lineup.STUDY, "exact"), study.num_steps).items():
        compute = dj.hypergradient(study.problem, num_steps=study.num_steps, method=method)
        grad = jax.jit(compute)(study.hparams, **run).grad["log_l2"]
        norms = jnp.linalg.norm(grad) * jnp.linalg.norm(reference)
        cosines[name] = round(float(grad @ reference / norms), 4)
    return cosines


def paths(name: str) -> dict[str, Any]:
    """What knots, means and the optimizer's state on the path buy."""
    study = PROBLEMS[name]()
    by_distance = dj.drmad(knots=knots_by_distance(study, 8))
    chosen = {
        path: by_distance if path == lineup.BY_DISTANCE else lineup.method(path, study.num_steps)
        for path in lineup.PATHS
    }
    return compared(study, chosen, label=f"{name}, paths")


def knots_by_distance(study: StudyProblem, count: int) -> list[int]:
    """Steps between which one pilot run travels equal distances."""
    run, every = study.sample(jax.random.key(12345)), 10

    def positions(params, inner_batches):
        state = dj.init_state(study.problem, study.hparams, params)
        step = lambda s: dj.train_step(study.problem, s, study.hparams, inner_batches(s.step))[0]
        lengths = [every] * (study.num_steps // every) + [0]
        return dj.forward_scan(step, state, lengths, keep=lambda s: ravel_pytree(s.params)[0])[1]

    flat = np.asarray(jax.jit(positions)(run["params"], run["inner_batches"]))
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(flat, axis=0), axis=1))])
    wanted = np.linspace(0, travelled[-1], count)
    return [every * int(k) for k in np.searchsorted(travelled, wanted)]


# What each part measures, its record, and the problems that it takes unless told otherwise.
PARTS: dict[str, tuple[Callable[[str], dict[str, Any]], str, tuple[str, ...]]] = {
    "agreement": (
        agreement, "agreement_{}", tuple(name for name in PROBLEMS if name != "learning_rates"),
    ),
    "paths": (paths, "agreement_paths_{}", ("mlp_chaotic", "mlp_adam")),
    "tuned": (tuned, "agreement_tuned_{}", ("mlp_chaotic",)),
    # What a path knows of the learning rates of 20 blocks of steps.
    "learning_rates": (agreement, "agreement_{}", ("learning_rates",)),
    "certificates": (certificates, "certificates_{}", STUDIED),
    "tuning": (
        tuning, "tuning_{}", ("mlp_stable", "mlp_chaotic", "mlp_adam", "conv_sgd", "conv_smooth"),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("part", nargs="?", choices=PARTS, metavar="PART")
    parser.add_argument("names", nargs="*", metavar="NAME")
    asked = parser.parse_args()
    for measured, record, problems in [PARTS[asked.part]] if asked.part else PARTS.values():
        for name in asked.names or problems:
            print(write_record(record.format(name), measured(name)))


if __name__ == "__main__":
    main()
