"""The methods that the study compares."""

import dataclasses

import jax
import numpy as np

import drmad_jax as dj
from benchmarks.profiled_path import ProfiledLine
from benchmarks.study_problems import StudyProblem


def methods(num_steps: int) -> dict[str, dj.Method]:
    """The choices on the three axes that the study compares; in short runs also fewer batches."""
    tenth = max(1, num_steps // 10)
    forty = {"num_segments": 5, "num_products": 8, "batches_per_product": 10}
    hundred = {"num_segments": 10, "num_products": 10, "batches_per_product": 10}
    drmad = lambda knots, curvature, **steps: dj.drmad(knots=knots, curvature=curvature, **steps)
    fewer = hundred | {"batches_per_product": max(1, num_steps // 100)}
    short = (
        {"means, Hessian, 10 x 10, T/100 batches": drmad("means", "hessian", **fewer)}
        if num_steps < 1000
        else {}
    )
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
        **short,
        "last T/10 steps": dj.truncated(num_reverse_steps=tenth),
        "last step": dj.one_step(),
        "implicit, 20 batches": dj.implicit(num_batches=min(20, num_steps), damping=1e-3),
    }


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
