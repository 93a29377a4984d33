"""drmad_jax."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax

import drmad_jax as dj
from benchmarks import mnist_mlp
from benchmarks.peers.case import Case
from benchmarks.peers.compiled import optimizer, prepare
from benchmarks.peers.subject import Answer, Prepared
from drmad_jax.fixed_point.buffer import rows_needed, to_ratio


def hypergradient(
    case: Case, method: dj.Method, rule: optax.GradientTransformation | None = None
) -> Prepared:
    """The hypergradient by one of our methods."""
    problem = mnist_mlp.problem(rule or optimizer(case))
    compute = dj.hypergradient(problem, num_steps=case.num_steps, method=method)

    def call(hparams, params, train, valid, indices, key):
        out = compute(hparams, params, dj.minibatches(train, case.batch_size, key), valid)
        return out.value, out.grad

    return prepare(case, call)


def training(case: Case) -> Prepared:
    """Training and the outer loss, without a hypergradient."""
    problem = mnist_mlp.problem(optimizer(case))
    train_all = dj.train(problem, num_steps=case.num_steps, method=dj.unrolled())

    def call(hparams, params, train, valid, indices, key):
        final = train_all(hparams, params, dj.minibatches(train, case.batch_size, key))
        return problem.outer(final.params, hparams, valid, None), None

    return prepare(case, call)


def reversible(case: Case) -> Prepared:
    """The hypergradient by bit-exact reversal, and what its buffer holds."""
    rule = dj.reversible_sgd(case.step_size, case.momentum)
    prepared = hypergradient(case, dj.reversible(), rule)
    count = sum(leaf.size for layer in case.params for leaf in layer.values())
    loss = int(to_ratio(jnp.float32(case.momentum))[0].loss)
    bits = 16 * rows_needed(np.full(case.num_steps, loss)) / case.num_steps

    def call() -> Answer:
        answer = prepared.call()
        # Weights and velocity in 8 bytes each, the digit and the integer that is not yet full.
        held = count * (2 * 8 + 2 + 4 + bits * case.num_steps / 8)
        return answer._replace(
            extra={
                "bits per weight and step": bits,
                "buffer_bytes": round(held),
                # It returns NaN where it does not come back to the start.
                "reversed to the bit": bool(np.isfinite(answer.grad).all()),
            }
        )

    return prepared._replace(call=call)


def _form(make: Callable[[int], dj.Method]) -> Callable[[Case], Prepared]:
    return lambda case: hypergradient(case, make(case.num_steps))


_LINE = functools.partial(dj.drmad, knots=2, curvature="gauss_newton")
FORMS = {
    "plain training": training,
    "unrolled()": _form(lambda T: dj.unrolled()),
    "stored()": _form(lambda T: dj.stored()),
    "checkpointed()": _form(lambda T: dj.checkpointed()),
    "drmad()": _form(lambda T: dj.drmad()),
    "drmad, line, Gauss-Newton, 5 x 8": _form(lambda T: _LINE(num_segments=5, num_products=8)),
    "drmad, T/10 steps": _form(lambda T: dj.drmad(num_reverse_steps=T // 10)),
    "published_drmad, T/10 steps": _form(lambda T: dj.published_drmad(num_reverse_steps=T // 10)),
    "published_drmad, T steps": _form(lambda T: dj.published_drmad(num_reverse_steps=T)),
    "reversible()": reversible,
    "implicit, CG": _form(lambda T: dj.implicit(solver="cg")),
}
