"""The methods that the benchmarks compare, by the names that tables and figures give them."""

import drmad_jax as dj

PLAIN = "plain training"
DEFAULT = "drmad()"
LINE_SEGMENTS = "line, Gauss-Newton, 5 x 8"
LINE_ALL = "line, Gauss-Newton, all steps"
LINE_HESSIAN = "line, Hessian, all steps"
LINE_TENTH = "line, Gauss-Newton, T/10 steps"
CHECKPOINTED, STORED, UNROLLED = "checkpointed", "stored", "unrolled"
REVERSIBLE = "reversible"
# What a sweep over many sizes can afford.
SWEPT = (DEFAULT, LINE_SEGMENTS, LINE_ALL, LINE_TENTH, CHECKPOINTED, UNROLLED)


def methods(num_steps: int) -> dict[str, dj.Method]:
    """Name to method, at T inner steps; the exact ones last."""
    tenth = max(1, num_steps // 10)
    line = {"knots": 2, "curvature": "gauss_newton"}
    return {
        DEFAULT: dj.drmad(),
        LINE_SEGMENTS: dj.drmad(**line, num_segments=5, num_products=8),
        LINE_ALL: dj.drmad(**line),
        LINE_HESSIAN: dj.drmad(knots=2, curvature="hessian"),
        LINE_TENTH: dj.drmad(**line, num_reverse_steps=tenth),
        "published, T/10 steps": dj.published_drmad(num_reverse_steps=tenth),
        "truncated, T/10 steps": dj.truncated(num_reverse_steps=tenth),
        "one_step": dj.one_step(),
        "implicit": dj.implicit(damping=1e-3),
        CHECKPOINTED: dj.checkpointed(),
        STORED: dj.stored(),
        REVERSIBLE: dj.reversible(),
        UNROLLED: dj.unrolled(),
    }


def further() -> dict[str, dj.Method | dj.Estimator]:
    """Name to method, for those whose cost grows with the number of hyperparameters or draws."""
    return {
        "forward": dj.forward(),
        "forward_gradient, 1 direction": dj.forward_gradient(num_directions=1),
        "evolution_strategies, 1 pair": dj.evolution_strategies(num_pairs=1, sigma=0.1),
    }
