"""The matrix: every exact method, on every optimizer chain, against two oracles."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import drmad_jax as dj
import problems
from problems import NUM_STEPS, TOLERANCE, relative_error

EXACT = {
    "stored": dj.stored(),
    "checkpointed": dj.checkpointed(),
    "checkpointed in two levels": dj.checkpointed(every=(4, 2)),
    "all knots": dj.drmad(knots=NUM_STEPS + 1, curvature="hessian"),
}


# By default one chain that is linear in the gradient, and one that is not and counts its steps. The
# others are six times as many compilations.
BY_DEFAULT = ("momentum", "adam")


def chains(names, by_default=BY_DEFAULT):
    marks = lambda name: () if name in by_default else pytest.mark.slow
    return [pytest.param(name, marks=marks(name)) for name in sorted(names)]


@functools.cache
def run(method, chain, dtype="float64"):
    dtype = jnp.dtype(dtype)
    problem = problems.problem(problems.CHAINS[chain])
    compute = jax.jit(dj.hypergradient(problem, num_steps=NUM_STEPS, method=method))
    with jax.numpy_dtype_promotion("standard"):
        return compute(
            problems.hparams(dtype),
            problems.params(dtype),
            problems.batches(dtype),
            problems.data(dtype),
        )


@pytest.fixture(scope="module", params=chains(problems.CHAINS))
def oracle(request):
    return request.param, run(dj.unrolled(), request.param)


@pytest.mark.parametrize("name", ["stored", "all knots"])
def test_equals_unrolled_on_every_chain(oracle, name):
    chain, reference = oracle
    out = run(EXACT[name], chain)
    assert bool(out.info.finite)
    assert relative_error(out.grad, reference.grad) < TOLERANCE["float64"]
    assert relative_error(out.params, reference.params) < TOLERANCE["float64"]
    error = relative_error(out.initial_params_grad, reference.initial_params_grad)
    assert error < TOLERANCE["float64"]


@pytest.mark.parametrize("chain", chains(["momentum", "adam", "multi_steps"], ("adam",)))
@pytest.mark.parametrize("name", ["checkpointed", "checkpointed in two levels"])
def test_recomputing_equals_storing(name, chain):
    reference, out = run(EXACT["stored"], chain), run(EXACT[name], chain)
    assert relative_error(out.grad, reference.grad) < TOLERANCE["float64"]
    assert relative_error(out.params, reference.params) < TOLERANCE["float64"]


def eager_hypergradient(chain):
    """A Python loop over optax's own functions, with none of the package's code in it."""
    batches, validation = problems.batches(), problems.data()

    def outer(h, w):
        optimizer = optax.with_extra_args_support(problems.CHAINS[chain](h))
        opt_state = optimizer.init(w)
        for t in range(NUM_STEPS):
            loss = lambda w, t=t: problems.loss(w, h, batches(t))
            value, grads = jax.value_and_grad(loss)(w)
            updates, opt_state = optimizer.update(grads, opt_state, w, value=value)
            w = optax.apply_updates(w, updates)
        return problems.outer_loss(w, h, validation)

    with jax.numpy_dtype_promotion("standard"):
        return jax.grad(outer, argnums=(0, 1))(problems.hparams(), problems.params())


# By default test_error_table.py has such a loop, on weights that compile faster.
@pytest.mark.slow
@pytest.mark.parametrize("oracle", sorted(problems.CHAINS), indirect=True)
def test_unrolled_equals_an_eager_python_loop(oracle):
    chain, reference = oracle
    grad, initial_params_grad = eager_hypergradient(chain)
    assert relative_error(reference.grad, grad) < TOLERANCE["float64"]
    error = relative_error(reference.initial_params_grad, initial_params_grad)
    assert error < TOLERANCE["float64"]


@pytest.mark.filterwarnings("ignore:weights below float32")
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("chain", chains(["momentum", "adam"], ("momentum",)))
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(dj.stored(), marks=pytest.mark.slow),
        pytest.param(dj.drmad(steps=dj.segments(5, num_products=8)), marks=pytest.mark.slow),
        dj.drmad(knots=NUM_STEPS + 1, curvature="gauss_newton"),
    ],
    ids=["stored", "segments", "knots"],
)
def test_lower_precision_keeps_its_dtype_and_stays_near(method, chain, dtype):
    reference = run(dj.unrolled() if method == dj.stored() else method, chain)
    out = run(method, chain, dtype)
    for tree in (out.grad, out.params, out.initial_params_grad, out.value):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} == {dtype}
    widened = jax.tree.map(lambda x: x.astype(jnp.float64), out.grad)
    assert relative_error(widened, reference.grad) < TOLERANCE[dtype]
