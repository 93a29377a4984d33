"""drmad_jax."""

import functools

import jax.numpy as jnp
import numpy as np
import optax

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.peers.subject import Answer, Case, Prepared
from benchmarks.peers.with_jax import optimizer, prepare
from benchmarks.problems import mlp
from drmad_jax.fixed_point.buffer import rows_needed, to_ratio


def form(case: Case, name: str, rule: optax.GradientTransformation | None = None) -> Prepared:
    """The hypergradient by one of the line-up's methods, or its training alone."""
    run = lineup.run_of(mlp.problem(rule or optimizer(case)), name, case.num_steps)

    def call(hparams, params, train, valid, indices, key):
        given = {"hparams": hparams, "params": params}
        found = run(given, dj.minibatches(train, case.batch_size, key), valid)
        return (found, None) if name == lineup.LIBRARY else found

    return prepare(case, call)


def reversible(case: Case) -> Prepared:
    """The hypergradient by bit-exact reversal, and what its buffer holds."""
    rule = dj.reversible_sgd(case.step_size, case.momentum)
    prepared = form(case, lineup.REVERSIBLE, rule)
    loss = int(to_ratio(jnp.float32(case.momentum))[0].loss)
    bits = 16 * rows_needed(np.full(case.num_steps, loss)) / case.num_steps

    def call() -> Answer:
        answer = prepared.call()
        # Weights and velocity in 8 bytes each, the digit and the integer that is not yet full.
        held = case.num_weights * (2 * 8 + 2 + 4 + bits * case.num_steps / 8)
        extra = {
            "bits per weight and step": bits,
            "buffer_bytes": round(held),
            # It returns NaN where it does not come back to the start.
            "reversed to the bit": bool(np.isfinite(np.asarray(answer.grad)).all()),
        }
        return answer._replace(extra=extra)

    return prepared._replace(call=call)


# Name of the subject to that of the line-up.
_METHODS = {
    "plain training": lineup.LIBRARY,
    "unrolled()": lineup.UNROLLED,
    "stored()": lineup.STORED,
    "checkpointed()": lineup.CHECKPOINTED,
    "drmad()": lineup.DEFAULT,
    "drmad, line, Gauss-Newton, 5 x 8": lineup.LINE_SEGMENTS,
    "drmad, T/10 steps": "8 knots, T/10 steps",
    "published_drmad, T/10 steps": "published, T/10 steps",
    "published_drmad, T steps": "published, T steps",
    "implicit, CG": "implicit, CG",
}
FORMS = {
    "reversible()": reversible,
    **{k: functools.partial(form, name=name) for k, name in _METHODS.items()},
}
