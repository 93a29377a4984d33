"""What tuning by each method reaches: 25 outer steps from several seeds, judged on fresh ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.problems.study import PROBLEMS, StudyProblem

NUM_OUTER_STEPS = 25
NUM_FRESH_SEEDS = 6
NUM_RUNS = {"conv_sgd": 1}


def tuning(name: str) -> dict[str, Any]:
    """Tuning from several seeds by each method, each end judged on the same fresh seeds."""
    study = PROBLEMS[name]()
    judge = jax.jit(lambda hparams: _judge(study, hparams))
    start = judge(study.hparams)
    results: dict[str, Any] = {"start": _losses([start])}
    for label, method in tqdm(lineup.methods(lineup.TUNERS, study.num_steps).items(), desc=name):
        step, init = outer_step(study, method, signs=label == "published")
        runs = [tune(step, init, study.hparams, seed) for seed in range(NUM_RUNS.get(name, 3))]
        judged = [judge(hparams) for hparams, _ in runs]
        results[label] = {"curves": [curve for _, curve in runs], **_losses(judged)}
        print(f"{label:35s} {results[label]['valid']} {results[label]['test']}", flush=True)
    return results


def outer_step(
    study: StudyProblem, method: lineup.Method, *, signs: bool
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


def tune(step: Callable, init: Callable, hparams: Any, seed: int) -> tuple[Any, list[float]]:
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
    train = dj.trained(study.problem, num_steps=study.num_steps)

    def losses(seed):
        run = study.sample(jax.random.fold_in(jax.random.key(777), seed))
        outer_batch = run.pop("outer_batch")
        state = train(hparams, **run)
        on = lambda batch: study.problem.outer(state.params, hparams, batch, state.model_state)
        return on(outer_batch), on(study.test)

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
