"""What is timed and weighed: training alone, and training with a hypergradient after it.

Each is `(given, batches, outer_batch) -> result`, to be jitted by the caller; `given` holds
`hparams`, `params` and, where the model has them, `model_state` and `key`.
"""

from collections.abc import Callable

import jax
import optax
from jaxtyping import Array, PyTree

import drmad_jax as dj

OPTIMIZERS: dict[str, optax.GradientTransformation] = {
    "momentum": optax.sgd(0.0025, momentum=0.95),
    "adam": optax.adam(5e-4, eps_root=1e-8),
    "reversible momentum": dj.reversible_sgd(0.0025, 0.95),
}


def plain_training(problem: dj.Problem, num_steps: int) -> Callable[..., Array]:
    """Training by optax in a loop, and the outer loss after it: nothing of the package in it.

    Args:
        problem: The losses and the optimizer.
        num_steps: Steps T.

    Returns:
        `(given, batches, outer_batch) -> outer loss`.
    """

    def run(given: dict[str, PyTree], batches: Callable, outer_batch: PyTree) -> Array:
        hparams, key = given["hparams"], given.get("key")
        optimizer = problem.transformation(hparams)

        def step(t, state):
            params, opt_state, model_state = state
            step_key = None if key is None else jax.random.fold_in(key, t)
            loss = lambda p: problem.inner(p, hparams, batches(t), model_state, step_key)
            grads, model_state = jax.grad(loss, has_aux=True)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, model_state

        start = given["params"], optimizer.init(given["params"]), given.get("model_state")
        params, _, model_state = jax.lax.fori_loop(0, num_steps, step, start)
        return problem.outer(params, hparams, outer_batch, model_state)

    return run


def library_training(problem: dj.Problem, num_steps: int) -> Callable[..., Array]:
    """The same by `dj.train`, as `dj.compare` times it."""
    train = dj.train(problem, num_steps=num_steps, method=dj.truncated(num_reverse_steps=1))

    def run(given: dict[str, PyTree], batches: Callable, outer_batch: PyTree) -> Array:
        final = train(inner_batches=batches, **given)
        return problem.outer(final.params, given["hparams"], outer_batch, final.model_state)

    return run


def with_method(problem: dj.Problem, num_steps: int, method: dj.Method | dj.Estimator) -> Callable:
    """Outer loss and hypergradient."""
    compute = dj.hypergradient(problem, num_steps=num_steps, method=method)

    def run(given: dict[str, PyTree], batches: Callable, outer_batch: PyTree):
        out = compute(inner_batches=batches, outer_batch=outer_batch, **given)
        return out.value, out.grad

    return run
