"""The study: how near each method comes to the exact hypergradient, and what tuning by it reaches.

    TFDS_DATA_DIR=... python -m benchmarks.accuracy [PART [NAME ...]]

PART is agreement, paths, learning_rates or tuning. Writes a record for each part and problem;
`python -m benchmarks.study` puts them into docs/study.md.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import drmad_jax as dj
from benchmarks.harness import write_record
from benchmarks.profiled_path import ProfiledLine
from benchmarks.study_problems import (
    PROBLEMS,
    StudyProblem,
    learning_rates,
    ridge_closed_form,
)

NUM_SEEDS = 8
SEEDS_OF = {"long": 3}
NUM_OUTER_STEPS = 25
NUM_FRESH_SEEDS = 6
NUM_RUNS = {"conv_sgd": 1}
TUNED = ("mlp_stable", "mlp_chaotic", "mlp_adam", "conv_sgd", "conv_smooth")


def methods(num_steps: int) -> dict[str, dj.Method]:
    """The choices on the three axes that the study compares."""
    tenth = max(1, num_steps // 10)
    forty, hundred = {"num_segments": 5, "num_products": 8}, {"num_segments": 10}
    drmad = lambda knots, curvature, **steps: dj.drmad(knots=knots, curvature=curvature, **steps)
    return {
        "published": dj.published_drmad(num_reverse_steps=tenth),
        "line, Hessian, all steps": drmad(2, "hessian"),
        "line, filtered Hessian, all steps": drmad(2, "filtered_hessian"),
        "line, Gauss-Newton, all steps": drmad(2, "gauss_newton"),
        "line, Gauss-Newton, T/10 steps": drmad(2, "gauss_newton", num_reverse_steps=tenth),
        "line, Gauss-Newton, 5 x 8": drmad(2, "gauss_newton", **forty),
        "line, Hessian, 5 x 8": drmad(2, "hessian", **forty),
        "8 knots, Gauss-Newton, 5 x 8": drmad(8, "gauss_newton", **forty),
        "8 knots, Hessian, 5 x 8": drmad(8, "hessian", **forty),
        "8 knots, Gauss-Newton, 10 x 10": drmad(8, "gauss_newton", **hundred),
        "8 knots, Hessian, 10 x 10": drmad(8, "hessian", **hundred),
        "means, Gauss-Newton, 10 x 10": drmad("means", "gauss_newton", **hundred),
        "means, Hessian, 5 x 8": drmad("means", "hessian", **forty),
        "means, Hessian, 10 x 10": drmad("means", "hessian", **hundred),
        "last T/10 steps": dj.truncated(num_reverse_steps=tenth),
        "last step": dj.one_step(),
        "implicit, 20 batches": dj.implicit(num_batches=min(20, num_steps), damping=1e-3),
    }


def agreement(name: str) -> dict[str, Any]:
    """Every method against the exact one, on the same seeds and on others."""
    study = PROBLEMS[name]()
    num_seeds = SEEDS_OF.get(name, NUM_SEEDS)
    runs = tqdm(
        (study.sample(jax.random.key(seed)) for seed in range(num_seeds)),
        desc=name, total=num_seeds,
    )  # fmt: skip
    compare = dj.compare(study.problem, methods(study.num_steps), num_steps=study.num_steps)
    found = compare(study.hparams, runs)
    print(found.to_markdown())
    results = json.loads(found.to_json())
    if name == "ridge":
        results["cosine with the closed form"] = _with_closed_form(study)
    return results


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


TUNERS = (
    "published",
    "line, Gauss-Newton, all steps",
    "line, Gauss-Newton, T/10 steps",
    "line, Gauss-Newton, 5 x 8",
    "8 knots, Hessian, 5 x 8",
    "8 knots, Gauss-Newton, 10 x 10",
    "8 knots, Hessian, 10 x 10",
    "means, Gauss-Newton, 10 x 10",
    "means, Hessian, 5 x 8",
    "means, Hessian, 10 x 10",
    "last T/10 steps",
)


FEWER_TUNERS = (
    "published",
    "line, Gauss-Newton, T/10 steps",
    "8 knots, Hessian, 10 x 10",
    "means, Hessian, 10 x 10",
    "last T/10 steps",
)


def tuning(name: str) -> dict[str, Any]:
    """Tuning from several seeds by each method, each end judged on the same fresh seeds."""
    study = PROBLEMS[name]()
    judge = jax.jit(lambda hparams: _judge(study, hparams))
    start = judge(study.hparams)
    results: dict[str, Any] = {"start": _losses([start])}
    chosen = methods(study.num_steps)
    labels = TUNERS if name.startswith("mlp") else FEWER_TUNERS
    tuners = {"exact": dj.checkpointed(), **{label: chosen[label] for label in labels}}
    for label, method in tqdm(tuners.items(), desc=name):
        step, init = _outer_step(study, method, signs=label == "published")
        runs = [_tune(step, init, study.hparams, seed) for seed in range(NUM_RUNS.get(name, 3))]
        judged = [judge(hparams) for hparams, _ in runs]
        results[label] = {"curves": [curve for _, curve in runs], **_losses(judged)}
        print(f"{label:35s} {results[label]['valid']} {results[label]['test']}", flush=True)
    return results


def _outer_step(
    study: StudyProblem, method: dj.Method, *, signs: bool
) -> tuple[Callable, Callable]:
    compute = dj.hypergradient(study.problem, num_steps=study.num_steps, method=method)
    adam = optax.adam(0.3)
    # The published method's magnitudes mean nothing: its authors take signs.
    signed = optax.chain(optax.stateless(lambda grad, _: jax.tree.map(jnp.sign, grad)), adam)
    outer = dj.outer_optimizer(signed if signs else adam)

    @jax.jit
    def step(hparams, state, key):
        out = compute(hparams, **study.sample(key))
        hparams, state = outer.update(out.grad, state, hparams)
        return hparams, state, out.value, out.info.finite

    return step, outer.init


def _tune(step: Callable, init: Callable, hparams: Any, seed: int) -> tuple[Any, list[float]]:
    """25 outer steps, or as many as stay finite."""
    state, curve = init(hparams), []
    for index in range(NUM_OUTER_STEPS):
        key = jax.random.fold_in(jax.random.key(1000 + seed), index)
        *new, value, finite = step(hparams, state, key)
        curve.append(round(float(value), 4))
        if not bool(finite):
            break
        hparams, state = new
    return hparams, curve


def _judge(study: StudyProblem, hparams: Any) -> tuple[jax.Array, jax.Array]:
    train = dj.train(study.problem, num_steps=study.num_steps, method=dj.unrolled())

    def losses(seed):
        run = study.sample(jax.random.fold_in(jax.random.key(777), seed))
        outer_batch = run.pop("outer_batch")
        state = train(hparams, **run)
        valid = study.problem.outer(state.params, hparams, outer_batch, state.model_state)
        return valid, study.test_loss(state, hparams)

    return jax.lax.map(losses, jnp.arange(NUM_FRESH_SEEDS))


def _losses(judged: list[tuple[jax.Array, jax.Array]]) -> dict[str, Any]:
    """Means over fresh seeds for each tuning run, and their standard error over the runs."""
    found = {}
    for name, losses in zip(("valid", "test"), zip(*judged, strict=True), strict=True):
        ends = [round(float(jnp.mean(loss)), 4) for loss in losses]
        found[name] = round(float(np.mean(ends)), 4)
        found[f"{name} of each run"] = ends
        if len(ends) > 1:
            error = float(np.std(ends, ddof=1)) / len(ends) ** 0.5
            found[f"{name} standard error"] = round(error, 4)
    return found


def path_methods(study: StudyProblem) -> dict[str, dj.Method]:
    """Paths and what stands for the optimizer's state on them, all with 10 segments of 10."""
    drmad = lambda knots, **given: dj.drmad(
        knots=knots, curvature="hessian", num_segments=10, **given
    )
    num_steps = study.num_steps
    even = [round(num_steps * k / 7) for k in range(8)]
    return {
        "line": drmad(2),
        "line, interpolated state": drmad(2, optimizer_state="interpolated"),
        "line, progress by leaf": dataclasses.replace(drmad(2), path=ProfiledLine()),
        "4 knots": drmad(4),
        "8 knots": drmad(8),
        "8 knots, final state": drmad(8, optimizer_state="final"),
        "8 knots, even in time": drmad(even),
        "8 knots, even in distance": drmad(knots_by_distance(study, 8)),
        "16 knots": drmad(16),
        "32 knots": drmad(32),
        "means": drmad("means"),
    }


def knots_by_distance(study: StudyProblem, count: int) -> list[int]:
    """Steps between which one pilot run travels equal distances."""
    run, every = study.sample(jax.random.key(12345)), 10

    def positions(params, inner_batches):
        state = dj.init_state(study.problem, study.hparams, params)
        step = lambda s: dj.train_step(study.problem, s, study.hparams, inner_batches(s.step))[0]
        lengths = [every] * (study.num_steps // every) + [0]
        return dj.forward_scan(step, state, lengths, keep=lambda s: s.params)[1]

    kept = jax.jit(positions)(run["params"], run["inner_batches"])
    flat = np.concatenate(
        [np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(kept)], axis=1
    )
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(flat, axis=0), axis=1))])
    wanted = np.linspace(0, travelled[-1], count)
    return [every * int(k) for k in np.searchsorted(travelled, wanted)]


def paths(name: str) -> dict[str, Any]:
    """What knots, means and the optimizer's state on the path buy."""
    study = PROBLEMS[name]()
    runs = (study.sample(jax.random.key(seed)) for seed in range(NUM_SEEDS))
    compare = dj.compare(study.problem, path_methods(study), num_steps=study.num_steps)
    found = compare(study.hparams, runs)
    print(found.to_markdown())
    return json.loads(found.to_json())


def rates() -> dict[str, Any]:
    """Learning rates of 20 blocks of steps: what a path knows of them."""
    study = learning_rates()
    runs = (study.sample(jax.random.key(seed)) for seed in range(NUM_SEEDS))
    chosen = {
        name: method
        for name, method in methods(study.num_steps).items()
        if not name.startswith(("implicit", "last"))
    }
    every = tuple(range(0, study.num_steps + 1, 10))
    chosen["201 knots, Hessian, all steps"] = dj.drmad(knots=every, curvature="hessian")
    compare = dj.compare(study.problem, chosen, num_steps=study.num_steps)
    found = compare(study.hparams, runs)
    print(found.to_markdown())
    return json.loads(found.to_json())


def main(arguments: list[str]) -> None:
    part, names = (arguments[0] if arguments else None), arguments[1:]
    if part in (None, "agreement"):
        for name in names or PROBLEMS:
            print(write_record(f"agreement_{name}", agreement(name)))
    if part in (None, "paths"):
        for name in names or ("mlp_chaotic", "mlp_adam"):
            print(write_record(f"agreement_paths_{name}", paths(name)))
    if part in (None, "learning_rates"):
        print(write_record("agreement_learning_rates", rates()))
    if part in (None, "tuning"):
        for name in names or TUNED:
            print(write_record(f"tuning_{name}", tuning(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
