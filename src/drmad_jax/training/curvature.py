"""The inner gradient and its derivative: the one place where curvature is computed.

A step of training needs g = ∇_w L(w, λ). Its reverse pass needs, for a cotangent v of g, the
curvature product ∂(vᵀg)/∂w and the mixed term ∂(vᵀg)/∂λ. Both come out of one differentiation,
forward over reverse (MixFlow-MG, arXiv 2505.00793), instead of reverse over reverse: the same
wherever g is the gradient of a function. Where the loss holds a derivative rule of its own it need
not be, and both are taken as they are written.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from drmad_jax import tree
from drmad_jax._checks.own_rules import own_rules
from drmad_jax.problem import CompositeLoss, Problem

Curvature = Literal["hessian", "gauss_newton", "filtered_hessian"]
CURVATURES = ("hessian", "gauss_newton")
# What single reverse steps can take besides: not linear, hence nothing for a linear solve.
STEP_CURVATURES = (*CURVATURES, "filtered_hessian")

# (params, hparams, model_state, batch, key) -> (gradient, (loss, new_model_state))
Gradient = Callable[[PyTree, PyTree, PyTree, PyTree, Array | None], tuple[PyTree, tuple]]


def resolve_curvature(problem: Problem, curvature: str) -> Curvature:
    """Turns "auto" into the best curvature that the inner loss allows, and checks the others.

    Args:
        problem: The problem whose inner loss decides.
        curvature: "auto", "hessian", "gauss_newton" or "filtered_hessian".

    Returns:
        "gauss_newton" for "auto" on a `composite_loss`, "hessian" for "auto" on any other.

    Raises:
        ValueError: On an unknown name, or on "gauss_newton" without a `composite_loss`.
    """
    composite = isinstance(problem.inner_loss, CompositeLoss)
    if curvature == "auto":
        return "gauss_newton" if composite else "hessian"
    if curvature == "gauss_newton" and not composite:
        raise ValueError(
            'curvature="gauss_newton" needs to know which part of the inner loss is the model: '
            "write inner_loss=drmad_jax.composite_loss(predict, criterion, penalty), "
            'or use curvature="hessian"'
        )
    if curvature not in STEP_CURVATURES:
        raise ValueError(
            f'`curvature` must be "auto" or one of {STEP_CURVATURES}, got {curvature!r}'
        )
    return cast(Curvature, curvature)


def inner_gradient(problem: Problem, curvature: Curvature | None) -> Gradient:
    """The gradient of the inner loss, with the chosen derivative of its own.

    Args:
        problem: The problem whose inner loss is differentiated.
        curvature: What stands for ∂g/∂w in reverse mode: "hessian" (exact) or "gauss_newton"
            (positive semi-definite; the mixed term stays exact), or "filtered_hessian" (exact, and
            left out where vᵀHv < 0). `None` leaves plain JAX differentiation, the only choice
            that forward mode can use.

    Returns:
        `(params, hparams, model_state, batch, key) -> (gradient, (loss, new_model_state))`.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: h * jnp.sum(w**3)
        >>> gradient = dj.inner_gradient(dj.Problem(loss, loss, optax.sgd(0.1)), "hessian")
        >>> slope = lambda w: jnp.sum(gradient(w, 2.0, None, None, None)[0])
        >>> jax.grad(slope)(jnp.ones(2)).tolist()  # H 1 = 6 h w
        [12.0, 12.0]
    """

    def plain(params, hparams, model_state, batch, key):
        loss = lambda p: problem.inner(p, hparams, batch, model_state, key)
        (value, new_model_state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, (value, new_model_state)

    if curvature is None:
        return plain
    product = {
        "hessian": _hessian_product,
        "gauss_newton": _gauss_newton_product,
        "filtered_hessian": _filtered_hessian_product,
    }[curvature]

    def forward(*inputs):
        return plain(*inputs), inputs

    def backward(inputs, cotangents):
        v, (v_loss, v_state) = cotangents
        # Integers in the model state come with float0 cotangents: there is nothing to pull back.
        v_state = jax.tree.map(lambda c: None if c.dtype == jax.dtypes.float0 else c, v_state)
        d_params, d_hparams, d_state = product(problem, inputs, v, v_loss, v_state)
        return d_params, d_hparams, d_state, None, None

    with_product = jax.custom_vjp(plain)
    with_product.defvjp(forward, backward)

    def gradient(*inputs):
        chosen = plain if rules_in(problem, *inputs) else with_product
        return chosen(*inputs)

    return gradient


def rules_in(
    problem: Problem,
    params: PyTree,
    hparams: PyTree,
    model_state: PyTree,
    batch: PyTree,
    key: Array | None,
) -> list[str]:
    """Names of the functions in the inner loss that have a derivative rule of their own."""
    loss = lambda p, h: problem.inner(p, h, batch, model_state, key)[0]
    return own_rules(loss, params, hparams)


def said_of(rules: list[str]) -> str:
    """What the derivative rules in a loss mean for its gradient."""
    names = ", ".join(f"`{name}`" for name in rules)
    return (
        f"the inner loss holds derivative rules of its own ({names}), so that what training "
        "follows need not be the gradient of any function"
    )


def _hessian_product(problem: Problem, inputs: tuple, v: PyTree, v_loss: Array, v_state: PyTree):
    """One forward-over-reverse pass: the pullback of (L, new state), differentiated along v.

    With c the cotangent of (L, new state), the pullback at c = (1, 0) is the gradient. Its
    derivative along (w, c) = (v, (v_loss, v_state)) is the curvature product, the mixed terms and
    the cotangents through the loss value and the model state, summed.
    """
    params, hparams, model_state, batch, key = inputs
    inexact, rest = tree.partition(model_state)

    def loss_and_state(p, h, s):
        value, new = problem.inner(p, h, batch, tree.combine(s, rest), key)
        return value, tree.partition(new)[0]

    def pullback(p, c):
        return jax.vjp(loss_and_state, p, hparams, inexact)[1](c)

    one = (jnp.ones_like(v_loss), tree.zeros_like(v_state))
    return jax.jvp(pullback, (params, one), (v, (v_loss, v_state)))[1]


def _filtered_hessian_product(
    problem: Problem, inputs: tuple, v: PyTree, v_loss: Array, v_state: PyTree
):
    """The Hessian product without H v where vᵀHv < 0: such a step would expand the cotangent."""
    # What comes back through the model state is no curvature. (Through the loss value, too, but
    # optimizers that read it are too rare for a second pass.)
    curved, *mixed = _hessian_product(problem, inputs, v, v_loss, tree.zeros_like(v_state))
    slope = sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (v, curved)), strict=True))
    kept = jax.tree.map(lambda x: jnp.where(slope < 0, jnp.zeros_like(x), x), curved)
    if not jax.tree.leaves(v_state):
        return (kept, *mixed)
    v, v_loss = tree.zeros_like((v, v_loss))
    return tree.add((kept, *mixed), _hessian_product(problem, inputs, v, v_loss, v_state))


def _gauss_newton_product(
    problem: Problem, inputs: tuple, v: PyTree, v_loss: Array, v_state: PyTree
):
    """Jᵀ C J v + ∇²penalty v, and the exact mixed term ∂(vᵀg)/∂λ.

    J v forwards through the model, C by forward over reverse through the criterion, Jᵀ backwards.
    Only the second derivative of the model in its weights (and in its state) is left out.
    """
    params, hparams, model_state, batch, key = inputs
    loss: CompositeLoss = problem.inner_loss  # type: ignore[assignment]
    inexact, rest = tree.partition(model_state)

    def predict(p, h, s):
        outputs, new = loss.outputs(p, h, batch, tree.combine(s, rest), key)
        return outputs, tree.partition(new)[0]

    def push(h):
        return jax.jvp(lambda p: predict(p, h, inexact)[0], (params,), (v,))[1]

    # Criterion and penalty may differ in dtype (bfloat16 outputs, float32 weights); the loss, their
    # sum, has one.
    def criterion(o, h):
        return jnp.asarray(loss.criterion(o, h, batch), v_loss.dtype)

    def penalty(p, h):
        return jnp.asarray(0 if loss.penalty is None else loss.penalty(p, h), v_loss.dtype)

    def criterion_pullback(outputs, c):
        return jax.vjp(criterion, outputs, hparams)[1](c)

    def penalty_pullback(p, c):
        return jax.vjp(penalty, p, hparams)[1](c)

    (outputs, _), model_pullback = jax.vjp(predict, params, hparams, inexact)
    pushed, push_pullback = jax.vjp(push, hparams)
    one = jnp.ones_like(v_loss)
    (residual, _), (curved, d_mixed) = jax.jvp(criterion_pullback, (outputs, one), (pushed, v_loss))
    d_params, d_hparams, d_state = model_pullback((curved, v_state))
    terms = [d_mixed, *push_pullback(residual)]
    d_penalty = jax.jvp(penalty_pullback, (params, one), (v, v_loss))[1]
    d_params = tree.add(d_params, d_penalty[0])
    terms.append(d_penalty[1])
    for term in terms:
        d_hparams = tree.add(d_hparams, term)
    return d_params, d_hparams, d_state


def curvature_product(
    problem: Problem,
    curvature: str,
    params: PyTree,
    hparams: PyTree,
    batch: PyTree,
    vector: PyTree,
    *,
    model_state: PyTree = None,
    key: Array | None = None,
) -> Any:
    """The product of the inner loss's curvature with a vector, and the mixed term beside it.

    Args:
        problem: The problem whose inner loss is meant.
        curvature: "hessian", "gauss_newton" or "auto".
        params: Where the curvature is taken.
        hparams: Hyperparameters.
        batch: One inner batch.
        vector: The vector v, same structure as `params`.
        model_state: Model state, where there is one.
        key: Key of that step, where the inner loss takes one.

    Returns:
        `(product, mixed)`: Bv with B the curvature, like `params`, and (∂²L/∂λ∂w)ᵀv, like
        `hparams`.

    Example:
        >>> import drmad_jax as dj, jax.numpy as jnp, optax
        >>> loss = lambda w, h, x: h * jnp.sum(w**2)
        >>> problem = dj.Problem(loss, loss, optax.sgd(0.1))
        >>> w, v = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
        >>> product, mixed = dj.curvature_product(problem, "hessian", w, jnp.float32(3), None, v)
        >>> product.tolist(), float(mixed)
        ([6.0, 0.0], 2.0)
    """
    gradient = inner_gradient(problem, resolve_curvature(problem, curvature))

    def of(p, h):
        return gradient(p, h, model_state, batch, key)[0]

    return jax.vjp(of, params, hparams)[1](vector)
