"""The hypergradient of a whole run, and what any vector is worth as one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from drmad_jax import tree
from drmad_jax._checks.arguments import check_count, check_inexact
from drmad_jax.hypergradient.given import check_losses, check_problem, chosen, given
from drmad_jax.hypergradient.outcome import Hypergradient, finished, turned
from drmad_jax.methods.certificate import certificate
from drmad_jax.problem import Problem, TrainState
from drmad_jax.protocol import Certificate, Estimator, Method, resolved
from drmad_jax.training.run import Run, started


def hypergradient(
    problem: Problem,
    *,
    num_steps: int,
    method: Method | Estimator | None = None,
    certify: int | None = None,
) -> Callable[..., Hypergradient]:
    """The gradient of the outer loss after training, with respect to the hyperparameters.

    dE/dλ of E(w_T(λ), λ), where w_T comes from `num_steps` optimizer steps on the inner loss.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_steps: Number of inner steps T.
        method: How; `drmad()` if `None`.
        certify: With `info.certificate`, what the hypergradient is worth, from one tangent of the
            true training along it (about two trainings more) and this number of further ones in
            random directions; `None` for without.

    Returns:
        A pure function `(hparams, params, inner_batches, outer_batch, *, model_state=None,
        key=None) -> Hypergradient`, to be jitted, vmapped and sharded by the caller.
        `hparams`: any pytree of floating-point arrays. `params`: initial weights; or a whole
        `TrainState`, from which training goes on. `inner_batches`: a pytree with leading axis T,
        one entry for each of these steps, or a function `step -> batch` such as `minibatches`,
        which is asked for the state's own steps; `None` for losses that take no batch. A function
        of one's own has to be made inside what is jitted, or be a `jax.tree_util.Partial`.
        `outer_batch`: whatever the outer loss takes. `model_state`: initial model state. `key`:
        key of the run; step t passes `jax.random.fold_in(key, t)` to an inner loss (or a
        composite's `predict`) that takes the keyword `key`, and methods that draw derive their own
        from it.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind, shape or dtype, when called.

    Warns:
        UserWarning: If the method differentiates the optimizer, and that has no finite derivative
            where a gradient is exactly zero (`optax.adam` without `eps_root`); and of
            hyperparameters that the method gets wrong, by name.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, l2, x: jnp.sum((w - x) ** 2) + l2 * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, lambda w, l2, x: jnp.sum((w - x) ** 2), optax.sgd(0.1))
        >>> step = jax.jit(dj.hypergradient(problem, num_steps=50, method=dj.stored()))
        >>> out = step(1.0, jnp.zeros(1), jnp.ones((50, 1)), jnp.ones(1))
        >>> round(float(out.value), 4), round(float(out.grad), 4)  # w = 1/(1+l2)
        (0.25, 0.25)
    """
    method = chosen(problem, num_steps, method)
    if certify is not None:
        check_count("hypergradient", "certify", certify, least=0)

    def compute(
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Hypergradient:
        hparams, params, run = given(
            problem, num_steps, hparams, params, inner_batches, model_state, key
        )
        start = started(run, hparams, params, model_state)
        check_losses(run, start.state, hparams, outer_batch)
        if isinstance(method, Estimator):
            out = _estimate(method, run, hparams, outer_batch)
        else:
            outer = lambda h: run.problem.outer(
                start.state.params, h, outer_batch, start.state.model_state
            )
            by = resolved(method, run, start.state, hparams, outer)
            final, trace = by.forward(run, start.state, hparams)
            value, cotangent = turned(run, by, final, trace, hparams, outer_batch)
            cotangent, info = by.backward(run, trace, hparams, cotangent)
            out = finished(run, by, start, hparams, value, final, cotangent, info)
        if certify is None:
            return out
        found = certificate(
            run, start.state, hparams, outer_batch, out.grad, num_directions=certify
        )
        return out._replace(info=out.info._replace(certificate=found))

    return compute


def certify(
    problem: Problem, *, num_steps: int, num_directions: int = 0
) -> Callable[..., Certificate]:
    """What any vector is worth as a hypergradient: one of one's own, of another seed, a mean.

    Args:
        problem: Inner loss, outer loss and optimizer.
        num_steps: Number of inner steps T.
        num_directions: Number of random directions across the vector that tell the true
            hypergradient's norm, and so the cosine: each a tangent of training, all in one `vmap`.

    Returns:
        A pure function `(estimate, hparams, params, inner_batches, outer_batch, *,
        model_state=None, key=None) -> Certificate`; `estimate` is like `hparams`, the other
        arguments are those of a hypergradient.

    Raises:
        ValueError, TypeError: On arguments of the wrong kind, shape or dtype.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: 0.5 * jnp.sum((w - h) ** 2)
        >>> problem = dj.Problem(loss, lambda w, h, x: jnp.sum(w * x), optax.sgd(1.0))
        >>> certify = jax.jit(dj.certify(problem, num_steps=1, num_directions=1))
        >>> target, outer = jnp.zeros(2), jnp.array([3.0, 4.0])  # The hypergradient is `outer`.
        >>> found = certify(jnp.array([2.0, 0.0]), target, jnp.ones(2), jnp.zeros(1), outer)
        >>> [round(float(x), 4) for x in (found.slope, found.ratio, found.norm, found.cosine)]
        [3.0, 1.5, 5.0, 0.6]
    """
    check_problem(problem, num_steps)
    check_count("certify", "num_directions", num_directions, least=0)

    def call(
        estimate: PyTree,
        hparams: PyTree,
        params: PyTree,
        inner_batches: PyTree,
        outer_batch: PyTree,
        *,
        model_state: PyTree = None,
        key: Array | None = None,
    ) -> Certificate:
        hparams, params, run = given(
            problem, num_steps, hparams, params, inner_batches, model_state, key
        )
        estimate = check_inexact("estimate", estimate)
        shapes = lambda pytree: jax.tree.map(jnp.shape, pytree)
        if shapes(estimate) != shapes(hparams):
            raise ValueError(
                f"certify: `estimate` must be like `hparams`, {shapes(hparams)}, got "
                f"{shapes(estimate)}"
            )
        state = run.start(hparams)
        check_losses(run, state, hparams, outer_batch)
        return certificate(
            run, state, hparams, outer_batch, estimate, num_directions=num_directions
        )

    return call


def _estimate(method: Estimator, run: Run, hparams: PyTree, outer_batch: PyTree) -> Hypergradient:
    """The hypergradient by a method that only asks for the outer losses of whole runs."""

    def evaluate(hparams: PyTree) -> tuple[Float[Array, ""], TrainState]:
        final = run.train(run.start(hparams), hparams)
        return run.problem.outer(final.params, hparams, outer_batch, final.model_state), final

    key = None if run.key is None else run.draw_key()
    value, final, grad, info = method.estimate(evaluate, hparams, key)
    grad = tree.cast_like(grad, hparams)
    info = info._replace(finite=tree.all_finite((value, grad)))
    final = run.counted(final)
    return Hypergradient(value, grad, final.params, final, None, info)
