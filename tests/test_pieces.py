"""Runs in pieces: cut anywhere, saved and gone on with, they give the bits of one that is whole."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems

NUM_STEPS = 40
KEY = jax.random.key(3)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
adam = lambda h: optax.adam(jnp.exp(h["log_lr"]), eps_root=1e-8)
reversible_sgd = lambda h: dj.reversible_sgd(jnp.exp(h["log_lr"]), 0.9)
segments = functools.partial(dj.drmad, steps=dj.segments(3, num_products=2, num_batches=2))
METHODS = {
    "drmad": segments(exact_end=12, serves="tuning"),
    "this run": segments(exact_end=12, serves="this_run"),
    "segments": segments(),
    "knots": dj.drmad(knots=5),
    "strided": dj.drmad(knots=2, steps=dj.strided_steps(7)),
    "measured": dj.drmad(steps=dj.measured_steps(cap=9)),
    "published": dj.published_drmad(num_reverse_steps=8),
    "stored": dj.stored(),
    "checkpointed": dj.checkpointed(),
    "levels": dj.checkpointed(levels=4),
    "on the host": dj.checkpointed(on_host=True),
    "means on the host": segments(path=dj.means(on_host=True)),
    "every": dj.checkpointed(every=(12, 4)),
    "truncated": dj.truncated(num_reverse_steps=9),
    "frozen": dj.truncated(num_reverse_steps=9, frozen=True),
    "forward": dj.forward(),
    "reversible": dj.reversible(),
    "last reversible": dj.truncated(num_reverse_steps=9, method=dj.reversible()),
}
FAST = ("drmad", "checkpointed")


def loss(w, h, batch, *, key):
    x, y = batch
    x = x + 0.1 * jax.random.normal(key, x.shape, x.dtype)
    fit = jnp.mean((jnp.tanh(x @ w["a"]) @ w["b"] - y) ** 2)
    return fit + jnp.exp(h["log_l2"]) * sum(jnp.sum(leaf**2) for leaf in w.values())


def outer_loss(w, h, batch):
    return jnp.mean((jnp.tanh(batch[0] @ w["a"]) @ w["b"] - batch[1]) ** 2)


@functools.cache
def given():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape)
    batches = normal(NUM_STEPS, 8, 4), normal(NUM_STEPS, 8, 2)
    params = {"a": normal(4, 5) / 2, "b": normal(5, 2) / 2}
    hparams = {"log_l2": -4.0, "log_lr": -3.0}
    return jax.tree.map(jnp.asarray, (hparams, params, batches, (normal(8, 4), normal(8, 2))))


def problem_of(name):
    return dj.Problem(loss, outer_loss, reversible_sgd if "reversible" in name else adam)


def same(first, second):
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def lenient(test):
    @functools.wraps(test)
    def call(*args, **named):
        with jax.numpy_dtype_promotion("standard"):
            return test(*args, **named)

    return call


@pytest.mark.filterwarnings("ignore:hyperparameters inside the optimizer")
@pytest.mark.parametrize("name", [name if name in FAST else slow(name) for name in METHODS])
@lenient
def test_any_way_of_cutting_gives_the_same_bits(name):
    h, params, batches, judged = given()
    make = problem_of(name), METHODS[name]
    call = dj.hypergradient(make[0], num_steps=NUM_STEPS, method=make[1])
    whole = jax.jit(call)(h, params, batches, judged, key=KEY)
    pieces = dj.in_pieces(make[0], num_steps=NUM_STEPS, method=make[1])
    pieces = pieces(h, params, batches, judged, key=KEY)
    start, advance, turn, retreat, finish = map(
        jax.jit, (pieces.start, pieces.advance, pieces.turn, pieces.retreat, pieces.finish)
    )
    for steps, visits in ((NUM_STEPS, NUM_STEPS), (7, 3), (1, 1)):
        tape = start(h, params, key=KEY)
        while int(tape.done) < NUM_STEPS:
            tape = advance(tape, h, batches, steps)
        back = turn(tape, h, batches, judged)
        while int(back.left):
            back = retreat(back, h, batches, visits)
        assert same(finish(back, h, params, batches), whole)
    assert np.any(problems.flat(whole.grad)) and bool(whole.info.finite)


@pytest.mark.slow
@pytest.mark.parametrize(
    "on_host, on_device", [("on the host", "checkpointed"), ("means on the host", "segments")]
)
@lenient
def test_states_on_the_host_are_the_same(on_host, on_device):
    h, params, batches, judged = given()
    calls = (
        dj.hypergradient(problem_of(""), num_steps=NUM_STEPS, method=METHODS[name])
        for name in (on_host, on_device)
    )
    assert same(*(jax.jit(call)(h, params, batches, judged, key=KEY) for call in calls))
    pieces = dj.in_pieces(problem_of(""), num_steps=NUM_STEPS, method=METHODS[on_host])
    pieces = pieces(h, params, batches, judged, key=KEY)
    tape = jax.jit(pieces.advance)(pieces.start(h, params, key=KEY), h, batches, 9)
    kept = [x for x in jax.tree.leaves(tape) if x.sharding.memory_kind == "pinned_host"]
    assert sum(x.size for x in kept) > 0.5 * sum(x.size for x in jax.tree.leaves(tape))


@pytest.mark.slow
@lenient
def test_what_is_not_at_its_end_is_nan():
    h, params, batches, judged = given()
    pieces = dj.in_pieces(problem_of(""), num_steps=NUM_STEPS, method=dj.checkpointed())
    pieces = pieces(h, params, batches, judged, key=KEY)
    tape = pieces.advance(pieces.start(h, params, key=KEY), h, batches, NUM_STEPS - 1)
    assert np.isnan(pieces.turn(tape, h, batches, judged).value)
    back = pieces.turn(pieces.advance(tape, h, batches), h, batches, judged)
    back = pieces.retreat(back, h, batches, NUM_STEPS - 1)
    out = pieces.finish(back, h, params, batches)
    assert np.isfinite(out.value) and np.all(np.isnan(problems.flat(out.grad)))
    assert not out.info.finite
    assert int(pieces.advance(tape, h, batches, 5).done) == NUM_STEPS


@pytest.mark.parametrize("method", [dj.unrolled(), dj.evolution_strategies(num_pairs=2, sigma=0.1)])
def test_what_takes_whole_runs_alone_is_refused(method):
    with pytest.raises(ValueError, match="takes whole runs alone"):
        dj.in_pieces(problem_of(""), num_steps=NUM_STEPS, method=method)


class Killed(Exception):
    pass


def sources(kind):
    """Batches from step `done` on."""
    _, _, batches, _ = given()
    at = lambda step: jax.tree.map(lambda x: np.asarray(x[int(step)]), batches)
    if kind == "on the device":
        return lambda done: batches
    if kind == "from the host":
        return lambda done: dj.host_batches(at)
    # One more, for the way back only looks at its shape.
    return lambda done: itertools.chain(map(at, range(done, NUM_STEPS)), [at(0)])


@pytest.mark.filterwarnings("ignore:hyperparameters inside the optimizer")
@pytest.mark.parametrize(
    "kind, name",
    [
        slow("on the device", "drmad"),
        slow("from the host", "this run"),
        slow("a stream", "drmad"),
        ("a stream", "stored"),
        slow("a stream", "checkpointed"),
        slow("from the host", "knots"),
        slow("a stream", "forward"),
    ],
)
@lenient
def test_a_run_that_is_killed_goes_on_to_the_same_bits(kind, name):
    """Killed after every second chunk, in both directions; each time from what was saved."""
    h, params, batches, judged = given()
    source, saved, kills = sources(kind), None, []
    make = functools.partial(
        dj.in_chunks, problem_of(name), num_steps=NUM_STEPS, method=METHODS[name], chunk_size=7
    )
    told = []
    wanted = make(progress=told.append)(h, params, source(0), judged, key=KEY)
    saves = itertools.count(1)

    def save(state):
        nonlocal saved
        saved = {name: np.array(x) for name, x in state.items()}
        if next(saves) % 2 == 0:
            raise Killed

    run = make(save=save)
    while True:
        done = 0 if saved is None else int(saved["done"])
        try:
            found = run(h, params, source(done), judged, key=KEY, saved=saved)
            break
        except Killed:
            kills.append("left" in saved)
    assert same(found, wanted) and kills.count(False) == 3
    assert kills.count(True) >= 1 or name == "forward"
    assert [each.done for each in told if each.phase == "training"] == [7, 14, 21, 28, 35, 40]
    whole = dj.hypergradient(problem_of(name), num_steps=NUM_STEPS, method=METHODS[name])
    whole = jax.jit(whole)(h, params, batches, judged, key=KEY)
    # Other programs, which round otherwise.
    assert problems.relative_error(found.grad, whole.grad) < 1e-9


@pytest.mark.slow
@lenient
def test_a_stream_holds_what_the_way_back_reads():
    h, params, batches, judged = given()
    kept = []
    method = segments(exact_end=12, serves="this_run")
    run = dj.in_chunks(
        problem_of(""), num_steps=NUM_STEPS, method=method, chunk_size=10, save=kept.append
    )
    run(h, params, sources("a stream")(0), judged, key=KEY)
    pieces = dj.in_pieces(problem_of(""), num_steps=NUM_STEPS, method=method)
    reads = pieces(h, params, batches, judged, key=KEY).reads
    assert kept[-1]["held"].tolist() == sorted({step for steps in reads for step in steps})


@pytest.mark.slow
@lenient
def test_what_a_visit_reads_is_all_that_it_reads():
    """With no other batches but these, every method finds the same, and no NaN."""
    h, params, batches, judged = given()
    for name, method in METHODS.items():
        if name == "measured":
            continue
        pieces = dj.in_pieces(problem_of(name), num_steps=NUM_STEPS, method=method)
        pieces = pieces(h, params, batches, judged, key=KEY)
        tape = jax.jit(pieces.advance)(pieces.start(h, params, key=KEY), h, batches)
        back = pieces.turn(tape, h, batches, judged)
        wanted = pieces.finish(jax.jit(pieces.retreat)(back, h, batches), h, params, batches)
        retreat = jax.jit(pieces.retreat)
        for visit in reversed(range(pieces.num_visits)):
            steps = np.sort(pieces.reads[1 + visit])
            some = dj.some_batches(steps, jax.tree.map(lambda x, at=steps: x[at], batches))
            back = retreat(back, h, some, 1)
        found = pieces.finish(back, h, params, batches)
        assert problems.relative_error(found.grad, wanted.grad) < 1e-9, name


@lenient
def test_a_stream_that_ends_is_named():
    h, params, _, judged = given()
    run = dj.in_chunks(problem_of(""), num_steps=NUM_STEPS, method=METHODS["stored"])
    short = itertools.islice(sources("a stream")(0), 30)
    with pytest.raises(ValueError, match="ended after 30 of 40 steps"):
        run(h, params, short, judged, key=KEY)


@pytest.mark.slow
@lenient
def test_another_runs_save_is_refused():
    h, params, batches, judged = given()
    kept = []
    make = functools.partial(dj.in_chunks, problem_of(""), num_steps=NUM_STEPS)
    make(method=dj.stored(), save=kept.append)(h, params, batches, judged, key=KEY)
    with pytest.raises(ValueError, match="`saved` is of another run"):
        make(method=METHODS["knots"])(h, params, batches, judged, key=KEY, saved=kept[0])


@lenient
def test_two_halves_are_one_training():
    h, params, batches, _ = given()
    parts = (jax.tree.map(lambda x: x[:20], batches), jax.tree.map(lambda x: x[20:], batches))
    half = jax.jit(dj.trained(problem_of(""), num_steps=20))
    found = half(h, half(h, params, parts[0], key=KEY), parts[1], key=KEY)
    whole = jax.jit(dj.trained(problem_of(""), num_steps=NUM_STEPS))
    assert same(found, whole(h, params, batches, key=KEY)) and int(found.step) == NUM_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drmad", "checkpointed"])
@pytest.mark.filterwarnings("ignore:hyperparameters inside the optimizer")
@lenient
def test_a_run_goes_on_from_a_whole_state(name):
    """Two halves are one function to differentiate, too."""
    h, params, batches, judged = given()
    rows = jax.tree.map(lambda x: x[: NUM_STEPS // 2], batches)
    later = jax.tree.map(lambda x: x[NUM_STEPS // 2 :], batches)
    make = functools.partial(dj.train, problem_of(""), method=dj.checkpointed())

    def halves(h):
        half = make(num_steps=NUM_STEPS // 2)
        return half(h, half(h, params, rows, key=KEY), later, key=KEY)

    whole = functools.partial(make(num_steps=NUM_STEPS), params=params, inner_batches=batches)
    judge = lambda state: outer_loss(state.params, h, judged)
    found, wanted = jax.jit(halves)(h), jax.jit(whole)(h, key=KEY)
    assert same(found, wanted) and int(found.step) == NUM_STEPS
    assert (
        problems.relative_error(
            jax.grad(lambda h: judge(halves(h)))(h), jax.grad(lambda h: judge(whole(h, key=KEY)))(h)
        )
        < 1e-10
    )
    # The second half's hypergradient, with a source that is asked for the state's own steps.
    middle = make(num_steps=NUM_STEPS // 2)(h, params, rows, key=KEY)
    by = dj.hypergradient(problem_of(""), num_steps=NUM_STEPS // 2, method=METHODS[name])
    stacked = by(h, middle, later, judged, key=KEY)
    source = lambda step: jax.tree.map(lambda x: x[step], batches)
    called = by(h, middle, source, judged, key=KEY)
    assert problems.relative_error(called.grad, stacked.grad) < 1e-10
    assert int(stacked.state.step) == NUM_STEPS
    assert isinstance(stacked.initial_params_grad, dj.TrainState)


def test_a_state_brings_its_model_state():
    h, params, batches, judged = given()
    state = dj.init_state(problem_of(""), h, params)
    with pytest.raises(ValueError, match="`model_state` is part of the TrainState"):
        dj.trained(problem_of(""), num_steps=2)(h, state, batches, model_state=params, key=KEY)
