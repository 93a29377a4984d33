"""The table of methods: what it asks of the code, and what it declares, held to the code."""

import functools
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tools import probes
from tools.catalogue import ENTRIES
from tools.methods_table import fill

import drmad_jax as dj
import problems
from test_api import METHODS

ROOT = Path(__file__).parents[1]
NUM_STEPS = 16
IDS = [entry.call for entry in ENTRIES]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/methods.md"])
def test_the_tables_in_the_documents_are_those_of_the_code(name):
    text = (ROOT / name).read_text()
    assert text == fill(text), "run: python -m tools.methods_table README.md docs/methods.md"


def test_every_method_is_in_the_catalogue():
    assert {entry.factory.__name__ for entry in ENTRIES} == set(METHODS)
    for entry in ENTRIES:
        arguments = {part.partition("=")[0] for part in entry.arguments.split(", ")} - {""}
        assert arguments <= set(inspect.signature(entry.factory).parameters), entry.call


def test_probes_ask_the_methods():
    everything, loss = tuple(probes.KINDS), ("penalties", "example weights")
    assert probes.seen_kinds(dj.drmad()) == everything
    assert probes.seen_kinds(dj.one_step()) == everything[:-1]
    assert probes.seen_kinds(dj.implicit()) == loss
    assert probes.taken_optimizers(dj.stored()) == tuple(probes.OPTIMIZERS)
    assert probes.taken_optimizers(dj.reversible()) == ("`reversible_sgd`",)
    assert probes.takes_model_state(dj.drmad())
    assert not probes.takes_model_state(dj.reversible())


def test_an_error_that_is_no_refusal_is_not_taken_for_one():
    with pytest.raises(ValueError, match="knots do not fit"):
        probes.seen_kinds(dj.drmad(knots=100))


def test_text_without_marks_is_refused():
    with pytest.raises(ValueError, match="stands on a line of its own"):
        fill("no table here")
    with pytest.raises(ValueError, match="no <!-- end -->"):
        fill("<!-- methods -->\nno end\n")


def regression_inputs(dtype=jnp.float64):
    hparams = {kind: jnp.asarray(value, dtype) for kind, value in probes.KINDS.items()}
    x = jnp.array([[1.0, 0.2], [0.1, -1.0], [0.5, 0.5], [-0.3, 2.0]], dtype)
    data = {"x": x, "y": jnp.arange(4, dtype=dtype), "i": jnp.arange(4)}
    return hparams, jnp.ones(2, dtype), data


@functools.cache
def run(method, optimizer, num_steps=NUM_STEPS):
    """The hypergradient, and how many batches were asked for."""
    hparams, params, data = regression_inputs()
    hparams = {kind: hparams[kind] for kind in probes.seen_kinds(method)}
    batches, asked = dj.minibatches(data, 2, jax.random.key(0)), []
    held = [jax.tree.map(np.asarray, batches(t)) for t in range(num_steps)]

    def fetch(step):
        asked.append(int(step))
        return held[int(step)]

    problem = probes.regression(optimizer)
    compute = jax.jit(dj.hypergradient(problem, num_steps=num_steps, method=method))
    batches = dj.host_batches(fetch, held[0])
    asked.clear()
    out = compute(hparams, params, batches, data)
    return jax.block_until_ready(out), len(asked)


def entries(condition, slow=()):
    marks = lambda entry: pytest.mark.slow if entry.call in slow else ()
    return [pytest.param(e, id=e.call, marks=marks(e)) for e in ENTRIES if condition(e)]


@pytest.mark.parametrize("entry", entries(lambda entry: entry.exact, slow=["reversible()"]))
def test_exact_methods_equal_the_oracle(entry):
    optimizer = probes.taken_optimizers(entry.example)[0]
    (reference, _), (out, _) = run(dj.unrolled(), optimizer), run(entry.example, optimizer)
    # Fixed point leaves the trajectory in floating point by rounding to 2^-52.
    tolerance = 1e-8 if entry.factory is dj.reversible else problems.TOLERANCE["float64"]
    assert problems.relative_error(out.grad, reference.grad) < tolerance


@pytest.mark.parametrize("entry", entries(lambda entry: entry.steps is not None))
def test_step_evaluations_are_those_declared(entry):
    optimizer = probes.taken_optimizers(entry.example)[0]
    _, asked = run(entry.example, optimizer)
    assert asked == NUM_STEPS + entry.steps(NUM_STEPS)


@functools.cache
def grad_of_network(method):
    # Not on linear regression: there the path errs less.
    compute = jax.jit(dj.hypergradient(problems.problem(), num_steps=64, method=method))
    args = (problems.hparams(), problems.params(), problems.batches(), problems.data())
    return compute(*args).grad


def test_hyperparameters_declared_wrong_are():
    (entry,) = (entry for entry in ENTRIES if entry.call == 'drmad(curvature="gauss_newton")')
    reference, grad = grad_of_network(dj.stored()), grad_of_network(entry.example)
    found = {name: problems.relative_error(grad[name], reference[name]) for name in grad}
    assert probes.distorted_kinds(entry.example) == ("learning rates", "momenta")
    rates = max(found["lr"], found["momentum"])
    assert rates > 0.3 and rates > found["log_l2"] and found["log_l2"] < 0.5


@pytest.mark.slow
def test_hyperparameters_declared_right_are():
    """Over seeds: one alone may be near zero."""
    num_steps, steps = 256, dj.segments(num_products=6, num_batches=6)
    method = dj.drmad(steps=steps, exact_end=40)
    assert probes.distorted_kinds(method) == probes.distorted_kinds(dj.drmad()) == ()

    def grads(method):
        compute = dj.hypergradient(problems.problem(), num_steps=num_steps, method=method)

        def one(key):
            batches = dj.minibatches(problems.data(), 6, key, order="shuffled")
            return compute(problems.hparams(), problems.params(), batches, problems.data()).grad

        return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), 24))

    exact, out = grads(dj.stored()), grads(method)
    for name, least in (("lr", 0.85), ("momentum", 0.7), ("slope", 0.85)):
        assert np.corrcoef(exact[name], out[name])[0, 1] > least, name


# Above what `drmad()` takes back exactly.
NUM_WEIGHTS, SHORT, LONG = 4096, 1024, 4096


def temporary_bytes(method, num_steps, optimizer):
    """Of linear regression in float32; nothing is allocated or run."""

    loss = dj.composite_loss(
        predict=lambda w, h, batch: batch["x"] @ w,
        criterion=lambda o, h, batch: jnp.square(o),
        penalty=lambda w, h: jnp.exp(h) * jnp.sum(jnp.square(w)),
    )
    problem = dj.Problem(loss, loss, probes.OPTIMIZERS[optimizer](0.01, probes.KINDS["momenta"]))
    compute = dj.hypergradient(problem, num_steps=num_steps, method=method)
    one = {"x": jax.ShapeDtypeStruct((NUM_WEIGHTS,), jnp.float32)}
    batches = dj.host_batches(lambda step: {"x": np.zeros(NUM_WEIGHTS, np.float32)}, one)
    call = lambda h, w, batch, key: compute(h, w, batches, batch, key=key)
    scalar, key = jax.ShapeDtypeStruct((), jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"):
        compiled = jax.jit(call).lower(scalar, one["x"], one, key).compile()
    return compiled.memory_analysis().temp_size_in_bytes


BY_DEFAULT = ("checkpointed()", "truncated(num_reverse_steps=K)")
OTHERS = [name for name in IDS if name not in BY_DEFAULT]


@pytest.mark.parametrize("entry", entries(lambda entry: True, slow=OTHERS))
def test_memory_grows_as_declared(entry):
    # Adam needs its whole state on the way back, where SGD does not need its velocity.
    optimizer, leaves = ("`reversible_sgd`", 2) if entry.factory is dj.reversible else ("Adam", 3)
    state_bytes = 4 * leaves * NUM_WEIGHTS
    short, long = (temporary_bytes(entry.example, steps, optimizer) for steps in (SHORT, LONG))
    declared = entry.growth(LONG) - entry.growth(SHORT)
    if entry.factory is dj.unrolled:  # the activations of the model come on top
        assert (long - short) / state_bytes > declared
        return
    assert abs((long - short) / state_bytes - declared) < 0.1 * declared + 1
