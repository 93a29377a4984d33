"""Asks a method what it takes: hyperparameters, optimizers, model state; by tracing, at no cost."""

import functools
import warnings

import jax
import jax.numpy as jnp
import optax

from drmad_jax.fixed_point.sgd import reversible_sgd
from drmad_jax.hypergradient import hypergradient
from drmad_jax.problem import Problem, composite_loss
from drmad_jax.protocol import Estimator, Method
from drmad_jax.training.minibatches import minibatches

# Kinds of hyperparameters, each with a value at which the methods are asked about it.
KINDS = {
    "penalties": -3.0,
    "example weights": (0.5, 1.0, 1.5, 1.0),
    "learning rates": 0.1,
    "momenta": 0.5,
    "initial weights": 1.0,
}
OPTIMIZERS = {
    "SGD with momentum": lambda rate, momentum: optax.sgd(rate, momentum=momentum),
    "Adam": lambda rate, momentum: optax.adam(rate, b1=momentum, eps_root=1e-8),
    "`reversible_sgd`": reversible_sgd,
}


def seen_kinds(method: Method | Estimator) -> tuple[str, ...]:
    """The kinds of hyperparameters that the method does not refuse.

    Args:
        method: A method that can go back over nine steps.

    Returns:
        Names in `KINDS`.

    Example:
        >>> import drmad_jax as dj
        >>> from tools.probes import seen_kinds
        >>> seen_kinds(dj.implicit())
        ('penalties', 'example weights')
    """
    names = {f"hparams['{kind}']": kind for kind in KINDS}
    unseen = _refused(method, _first_optimizer(method), tuple(names), kinds=tuple(KINDS))
    return tuple(kind for name, kind in names.items() if name not in unseen)


def distorted_kinds(method: Method | Estimator) -> tuple[str, ...]:
    """The kinds of hyperparameters that the method takes, and warns that it gets wrong.

    Args:
        method: A method that can go back over nine steps.

    Returns:
        Names in `KINDS`.

    Example:
        >>> import drmad_jax as dj
        >>> from tools.probes import distorted_kinds
        >>> distorted_kinds(dj.drmad(curvature="gauss_newton"))
        ('learning rates', 'momenta')
    """
    with warnings.catch_warnings(record=True, action="always") as caught:
        _trace(method, _first_optimizer(method), kinds=seen_kinds(method))
    said = " ".join(str(w.message) for w in caught if "inside the optimizer" in str(w.message))
    return tuple(kind for kind in KINDS if f"hparams['{kind}']" in said)


def taken_optimizers(method: Method | Estimator) -> tuple[str, ...]:
    """The optimizers that the method does not refuse.

    Args:
        method: A method that can go back over nine steps.

    Returns:
        Names in `OPTIMIZERS`.
    """
    return tuple(name for name in OPTIMIZERS if not _refused(method, name, ("`optimizer`",)))


def takes_model_state(method: Method | Estimator) -> bool:
    """Whether the method does not refuse models with state, such as batch normalisation.

    Args:
        method: A method that can go back over nine steps.
    """
    return not _refused(method, _first_optimizer(method), ("`model_state`",), with_state=True)


def _first_optimizer(method: Method | Estimator) -> str:
    return taken_optimizers(method)[0]


@functools.cache
def _refused(
    method: Method | Estimator,
    optimizer: str,
    names: tuple[str, ...],
    *,
    kinds: tuple[str, ...] = ("penalties",),
    with_state: bool = False,
) -> tuple[str, ...]:
    """Traces the method on a tiny problem; which of the names a `ValueError` complains of.

    An error that names none of them is a fault of these probes, and passes.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            _trace(method, optimizer, kinds=kinds, with_state=with_state)
    except ValueError as error:
        named = tuple(name for name in names if name in str(error))
        if not named:
            raise
        return named
    return ()


def _trace(
    method: Method | Estimator,
    optimizer: str,
    *,
    kinds: tuple[str, ...],
    with_state: bool = False,
) -> None:
    hparams = {kind: jnp.asarray(KINDS[kind], jnp.float32) for kind in kinds}
    data = {"x": jnp.ones((4, 2), jnp.float32), "y": jnp.ones(4, jnp.float32), "i": jnp.arange(4)}
    key, params = jax.random.key(0), jnp.ones(2, jnp.float32)
    model_state = jnp.zeros((), jnp.float32) if with_state else None
    compute = hypergradient(regression(optimizer), num_steps=9, method=method)
    compute = functools.partial(compute, model_state=model_state, key=key)
    # Optax's Adam promotes dtypes, which a user may have forbidden.
    with jax.numpy_dtype_promotion("standard"):
        jax.eval_shape(compute, hparams, params, minibatches(data, 2, key), data)


def regression(optimizer: str) -> Problem:
    """Linear regression in which a hyperparameter of each kind acts.

    Args:
        optimizer: A name in `OPTIMIZERS`.

    Returns:
        A problem whose hyperparameters are a dictionary with some of `KINDS`; the others stay at
        their value there. Batches are dictionaries of inputs "x", targets "y" and indices "i".
    """
    get = lambda hparams, kind: hparams.get(kind, KINDS[kind])

    def predict(params, hparams, batch, *, model_state=None, key=None):
        outputs = batch["x"] @ params
        return outputs if model_state is None else (outputs, model_state + jnp.mean(outputs))

    def criterion(outputs, hparams, batch):
        weights = jnp.asarray(get(hparams, "example weights"), outputs.dtype)[batch["i"]]
        return jnp.mean(weights * (outputs - batch["y"]) ** 2)

    def outer_loss(params, hparams, batch, *, model_state=None):
        return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)

    return Problem(
        composite_loss(
            predict,
            criterion,
            penalty=lambda params, hparams: jnp.exp(get(hparams, "penalties")) * jnp.sum(params**2),
        ),
        outer_loss,
        lambda hparams: OPTIMIZERS[optimizer](
            get(hparams, "learning rates"), get(hparams, "momenta")
        ),
        initial_params=lambda params, hparams: get(hparams, "initial weights") * params,
    )
