"""The parts of a training step and of a reverse step, each as a loop of its own.

Every part is a function `(given, data, key) -> result` that repeats it `count` times; each
iteration depends on the one before, so that XLA can leave nothing out. `given` holds `hparams`,
`params` and, where the model has them, `model_state` and `key`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj
from drmad_jax import tree

Part = Callable[[dict[str, Any], PyTree, Array], Any]
SMALL = 1e-6


def forward_parts(problem: dj.Problem, batch_size: int, count: int) -> dict[str, Part]:
    """A whole training step, and what it consists of."""

    def step(given, data, key):
        batches, options = dj.minibatches(data, batch_size, key), {"key": given.get("key")}
        body = lambda t, state: dj.train_step(
            problem, state, given["hparams"], batches(t), **options, curvature=None
        )[0]
        return jax.lax.fori_loop(0, count, body, _state(problem, given))

    def indices(given, data, key):
        rows = jnp.arange(len(jax.tree.leaves(data)[0]))
        return _last(dj.minibatches(rows, batch_size, key), count)

    def batch(given, data, key):
        return _last(dj.minibatches(data, batch_size, key), count)

    def gradient(given, data, key):
        batch = dj.minibatches(data, batch_size, key)(0)

        def body(t, carry):
            params, model_state = carry
            loss = lambda p: _inner(problem, given, p, batch, model_state, t)
            grads, model_state = jax.grad(loss, has_aux=True)(params)
            return _add_small(params, grads), model_state

        return jax.lax.fori_loop(0, count, body, (given["params"], given.get("model_state")))

    def update(given, data, key):
        optimizer = problem.transformation(given["hparams"])

        def body(_, carry):
            params, opt_state = carry
            updates, opt_state = optimizer.update(params, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        start = given["params"], optimizer.init(given["params"])
        return jax.lax.fori_loop(0, count, body, start)

    return {
        "training step": step, "random indices": indices, "batch": batch,
        "gradient": gradient, "optimizer update": update,
    }  # fmt: skip


def reverse_parts(problem: dj.Problem, batch_size: int, count: int) -> dict[str, Part]:
    """A whole reverse step on the line for each curvature, and what it consists of."""

    def path(given, data, key):
        between = _line(given["params"])
        return jax.lax.fori_loop(0, count, lambda t, _: between(t / count), given["params"])

    def update_back(given, data, key):
        optimizer, params = problem.transformation(given["hparams"]), given["params"]
        inexact, rest = tree.partition(optimizer.init(params))

        def apply(grads, opt_state, params):
            updates, opt_state = optimizer.update(grads, tree.combine(opt_state, rest), params)
            return optax.apply_updates(params, updates), tree.partition(opt_state)[0]

        def body(_, carry):
            # Linearised where the cotangent leads, or XLA would do half of it once.
            _, pull = jax.vjp(apply, carry[0], inexact, params)
            d_grads, d_opt_state, d_params = pull(carry)
            return _add_small(d_params, d_grads), d_opt_state

        return jax.lax.fori_loop(0, count, body, (params, inexact))

    made: dict[str, Part] = {"path": path, "optimizer update, backwards": update_back}
    for curvature in ("gauss_newton", "hessian"):
        made[f"product, {curvature}"] = products(problem, batch_size, count, curvature)
        made[f"reverse step, {curvature}"] = _reverse_steps(problem, batch_size, count, curvature)
    return made


def segment_parts(problem: dj.Problem, batch_size: int, segments: Any) -> dict[str, Part]:
    """All curvature products of a method's `steps` by segments, and all batches they take."""

    def gathered(data, key, number):
        first = segments.num_batches * number
        batches = dj.minibatches(data, batch_size, key)
        return jax.vmap(batches)(first + jnp.arange(segments.num_batches))

    def batches(given, data, key):
        return _last(lambda number: gathered(data, key, number), segments.count)

    def all_products(given, data, key):
        def segment(number, carry):
            params, vector = carry
            many, model_state = gathered(data, key, number), given.get("model_state")

            def loss(p):
                one = lambda batch: _inner(problem, given, p, batch, model_state, number)[0]
                return jnp.mean(jax.vmap(one)(many))

            _, product = jax.linearize(jax.grad(loss), params)
            body = lambda _, v: _add_small(v, product(v))
            vector = jax.lax.fori_loop(0, segments.num_products, body, vector)
            return _add_small(params, vector), vector

        return jax.lax.fori_loop(0, segments.count, segment, (given["params"], given["params"]))

    return {
        "batches of all segments": batches,
        "products of all segments, batches too": all_products,
    }


def products(problem: dj.Problem, batch_size: int, count: int, curvature: Any) -> Part:
    """Curvature products on one batch, each on what the last one gave."""

    def run(given, data, key):
        batch = dj.minibatches(data, batch_size, key)(0)
        options = {name: given[name] for name in ("model_state", "key") if name in given}

        def body(_, carry):
            params, vector, total = carry
            product, mixed = dj.curvature_product(
                problem, curvature, params, given["hparams"], batch, vector, **options
            )
            vector = _add_small(vector, product)
            return _add_small(params, vector), vector, jax.tree.map(jnp.add, total, mixed)

        start = given["params"], given["params"], tree.zeros_like(given["hparams"])
        return jax.lax.fori_loop(0, count, body, start)

    return run


def _reverse_steps(problem: dj.Problem, batch_size: int, count: int, curvature: Any) -> Part:
    def steps(given, data, key):
        batches, options = dj.minibatches(data, batch_size, key), {"key": given.get("key")}
        state, between = _state(problem, given), _line(given["params"])

        def body(t, cotangent):
            here = state._replace(params=between(t / count), step=t)
            given_step = problem, here, given["hparams"], batches(t), cotangent
            return dj.reverse_step(*given_step, **options, curvature=curvature)[0]

        start = dj.init_cotangent(state, given["hparams"], params=given["params"])
        return jax.lax.fori_loop(0, count, body, start)

    return steps


def _state(problem: dj.Problem, given: dict[str, Any]) -> dj.TrainState:
    model_state = given.get("model_state")
    state = dj.init_state(problem, given["hparams"], given["params"], model_state=model_state)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)


def _inner(problem, given, params, batch, model_state, t) -> tuple[Array, PyTree]:
    key = None if given.get("key") is None else jax.random.fold_in(given["key"], t)
    return problem.inner(params, given["hparams"], batch, model_state, key)


def _line(params: PyTree) -> Callable[[Array], PyTree]:
    """The line between two states, as the method keeps them: stacked."""
    ends = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), params)
    return lambda beta: jax.tree.map(lambda x: (1 - beta) * x[0] + beta * x[1], ends)


def _last(make: Callable[[Array], PyTree], count: int) -> PyTree:
    """Makes `count` things and returns the last."""
    return jax.lax.fori_loop(1, count, lambda t, _: make(t), make(jnp.int32(0)))


def _add_small(first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a - SMALL * b, first, second)
