"""Memory laws, read off the compiled program and the jaxpr."""

import jax
import jax.numpy as jnp
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax.reverse.paths import Means

LAYERS = (784, 50, 50, 50, 10)


def mnist_arguments(dtype=jnp.float32):
    """Shapes of the published MNIST problem; nothing is allocated or run."""
    spec = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype)
    sizes = list(zip(LAYERS[:-1], LAYERS[1:], strict=True))
    params = [{"w": spec(a, b), "b": spec(b)} for a, b in sizes]
    hparams = [spec(a) for a, _ in sizes]
    data = lambda n: {"x": spec(n, LAYERS[0]), "y": spec(n, dtype=jnp.int32)}
    return hparams, params, data(15000), data(5000)


def predict(w, h, batch):
    x = batch["x"]
    for layer in w[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return x @ w[-1]["w"] + w[-1]["b"][None]


def criterion(logits, h, batch):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))


def penalty(w, h):
    return sum(
        jnp.sum(jnp.exp(log_l2)[:, None] * layer["w"] ** 2)
        for layer, log_l2 in zip(w, h, strict=True)
    )


def mnist_hypergradient(num_steps, method):
    loss = dj.composite_loss(predict, criterion, penalty)
    outer = lambda w, h, batch: criterion(predict(w, h, batch), h, batch)
    problem = dj.Problem(loss, outer, optax.sgd(0.0025, momentum=0.95))
    compute = dj.hypergradient(problem, num_steps=num_steps, method=method)

    def call(hparams, params, data, outer_batch):
        batches = dj.minibatches(data, 50, jax.random.key(0))
        return compute(hparams, params, batches, outer_batch)

    return call


def temporary_bytes(num_steps, method):
    lowered = jax.jit(mnist_hypergradient(num_steps, method)).lower(*mnist_arguments())
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_of_segments_does_not_depend_on_the_number_of_steps():
    segments = dj.drmad(steps=dj.segments(num_products=5))
    short, long = (temporary_bytes(steps, segments) for steps in (100, 10_000))
    assert abs(long / short - 1) < 0.05


@pytest.mark.slow
def test_memory_of_drmad_hardly_does():
    """As the fourth root of T at most: √(2K) states of the last K = √(20 T) steps."""
    short, long = (temporary_bytes(steps, dj.drmad()) for steps in (1_000, 100_000))
    assert long < 100**0.25 * short and long < 26 * 2**20


@pytest.mark.slow
def test_memory_of_storing_does():
    short, long = (temporary_bytes(steps, dj.stored()) for steps in (100, 1000))
    assert long > 5 * short


def scans(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from scans(inner)


@pytest.mark.parametrize(
    "method",
    [
        dj.drmad(steps=dj.segments()),
        dj.drmad(knots=2, curvature="hessian"),
        dj.drmad(steps=dj.strided_steps(10)),
        dj.stored(),
    ],
    ids=["segments", "line", "strided", "stored"],
)
def test_the_reverse_scan_stacks_no_outputs(method):
    jaxpr = jax.make_jaxpr(mnist_hypergradient(100, method))(*mnist_arguments()).jaxpr
    reverse = [scan for scan in scans(jaxpr) if scan.params["reverse"]]
    assert len(reverse) == 1
    assert len(reverse[0].outvars) == reverse[0].params["num_carry"]


@pytest.mark.slow
def test_segments_hold_few_vectors_like_the_weights():
    """Beside 8 means of Adam's states, a state and its cotangent, and the Krylov basis: 43 in all.

    Weights and no activations to speak of. Before derivatives were taken anew where they are read
    they were 59.
    """
    width, num_products = 400, 5
    segments = dj.segments(8, num_products=num_products, num_batches=4)
    vectors = 3 * states_of_two_matrices(width, dj.drmad(steps=segments))
    assert vectors < 8 * 3 + 2 * 3 + num_products + 9


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [500, 2000, 20_000])
def test_a_large_state_is_held_twelve_times(num_steps):
    """Means in bfloat16, and few states of the exact end."""
    assert states_of_two_matrices(4000, dj.drmad(), num_steps) < 12


def states_of_two_matrices(width, method, num_steps=1000):
    """Temporary memory in training states, of weights with Adam and no activations to speak of."""
    spec = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    params = {"a": spec(width, width), "b": spec(width, width)}

    def loss(w, h, x):
        penalty = jnp.exp(h) * sum(jnp.sum(p**2) for p in jax.tree.leaves(w))
        return jnp.mean((jnp.tanh(x @ w["a"]) @ w["b"]) ** 2) + penalty

    problem = dj.Problem(loss, loss, optax.adam(1e-3, eps_root=1e-8))
    compute = dj.hypergradient(problem, num_steps=num_steps, method=method)
    batches = lambda step: jnp.full((2, width), step, jnp.float32)
    call = jax.jit(lambda h, w, outer: compute(h, w, batches, outer))
    with jax.numpy_dtype_promotion("standard"):  # optax.adam's own update asks for it
        lowered = call.lower(spec(), params, spec(2, width))
    return lowered.compile().memory_analysis().temp_size_in_bytes / (3 * 8 * width**2)


@pytest.mark.slow
def test_means_in_low_precision_are_the_means():
    """Where memory is scarce; the hypergradient hardly knows."""
    problem = problems.problem(problems.CHAINS["momentum"])
    call = lambda exact: jax.jit(
        dj.hypergradient(
            problem, num_steps=60, method=dj.drmad(path=Means(exact=exact), steps=dj.segments(3))
        )
    )(problems.hparams(), problems.params(), problems.batches(), problems.data())
    found, wanted = call(False).grad, call(True).grad
    # Ten roundings.
    assert 1e-12 < problems.relative_error(found, wanted) < 10 * 2**-9
