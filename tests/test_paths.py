"""Paths and visits: the places, the weights, and exactness wherever a path should be exact."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import drmad_jax as dj
import problems
from drmad_jax.reverse.paths import Checkpoints, Knots
from drmad_jax.reverse.paths.checkpoints import planned
from drmad_jax.reverse.paths.schedule import slots_for
from drmad_jax.reverse.steps import EveryStep, LastSteps, PublishedSteps, StridedSteps
from problems import NUM_STEPS, relative_error

SIZES = st.integers(1, 300)


@given(num_steps=SIZES, count=SIZES, spacing=st.sampled_from(["dense", "even"]))
@settings(max_examples=200, deadline=None)
def test_strides_stand_for_every_step_once(num_steps, count, spacing):
    stride = StridedSteps(count, spacing, "count")
    edges, visits = stride(num_steps).edges, stride(num_steps)
    assert edges[0] == 0 and edges[-1] == num_steps
    assert np.all(np.diff(edges) >= 1)
    assert len(visits.step) == min(count, num_steps)
    assert visits.weight.sum() == num_steps
    assert np.all(edges[:-1] <= visits.step) and np.all(visits.step < edges[1:])


def test_dense_strides_are_dense_near_the_end():
    widths = np.diff(StridedSteps(20, "dense")(2000).edges)
    assert np.all(np.diff(widths) <= 1) and widths[0] > 10 * widths[-1]


def test_published_stride_uses_the_first_batches_and_the_published_places():
    visits = PublishedSteps(200)(2000)
    np.testing.assert_array_equal(visits.step, np.arange(200))
    np.testing.assert_allclose(visits.position / 2000, np.linspace(0.001, 0.999, 200))
    assert np.all(visits.weight == 1)


def test_last_steps_never_exceed_the_run():
    np.testing.assert_array_equal(LastSteps(3)(5).step, [2, 3, 4])
    np.testing.assert_array_equal(LastSteps(9)(5).step, EveryStep()(5).step)


@given(num_steps=SIZES, data=st.data())
@settings(max_examples=100, deadline=None)
def test_counted_knots_increase_from_start_to_end(num_steps, data):
    count = data.draw(st.integers(2, num_steps + 1))
    times = Knots(count).times(num_steps)
    assert len(times) == count and times[0] == 0 and times[-1] == num_steps
    assert np.all(np.diff(times) >= 1)


@pytest.fixture(scope="module")
def reference():
    return compute(dj.stored())


def compute(method, num_steps=NUM_STEPS, chain="momentum"):
    problem = problems.problem(problems.CHAINS[chain])
    call = jax.jit(dj.hypergradient(problem, num_steps=num_steps, method=method))
    return call(problems.hparams(), problems.params(), problems.batches(), problems.data())


@pytest.mark.slow
@given(every=st.integers(1, NUM_STEPS + 2))
@settings(max_examples=3, deadline=None)
def test_every_checkpoint_interval_is_exact(reference, every):
    assert relative_error(compute(dj.checkpointed(every=every)).grad, reference.grad) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("choice", [{"levels": 3}, {"budget": 6}], ids=str)
def test_every_schedule_of_checkpoints_is_exact(reference, choice):
    assert relative_error(compute(dj.checkpointed(**choice)).grad, reference.grad) < 1e-12


def taken_back(plan, count):
    """How often each step is computed again; that each is had in its turn."""
    slots = dict(enumerate(map(int, plan.kept)))
    again = np.zeros(count, int)
    for step in reversed(range(count)):
        at = slots[plan.slot[step]]
        for i in range(plan.ahead[step]):
            again[at] += 1
            at += 1
            slots[int(plan.store[plan.begin[step] + i])] = at
        assert at == step and len(slots) <= plan.num_slots
    return again


@given(count=st.integers(1, 300), levels=st.integers(2, 6))
@settings(max_examples=100, deadline=None)
def test_levels_of_checkpoints_store_few_states(count, levels):
    plan = planned(Checkpoints(None, levels), count)
    again = taken_back(plan, count)
    # Where training ended, its last states are gone: a few of them are computed once more.
    assert max(again) <= levels and sum(again) <= (levels - 1) * count
    # One for the states that are stored for nobody.
    assert plan.num_slots <= 1 + max(1, np.ceil((math.factorial(levels) * count) ** (1 / levels)))


@given(count=st.integers(2, 300), budget=st.integers(4, 400))
@settings(max_examples=100, deadline=None)
def test_a_budget_of_states_is_kept(count, budget):
    plan = planned(Checkpoints(None, budget=budget), count)
    again = taken_back(plan, count)
    assert plan.num_slots <= budget
    # In binomial checkpoints no step is computed more often than the number of slots asks for.
    slots, most = budget - 1, max(again)
    assert most <= 1 or math.comb(slots + most - 1, slots) < count


@given(count=st.integers(1, 200), intervals=st.sampled_from([(1,), (7, 1), (24, 6, 2, 1)]))
@settings(max_examples=60, deadline=None)
def test_states_are_stored_at_the_intervals_asked_for(count, intervals):
    plan = planned(Checkpoints(intervals), count)
    coarsest = max(each for each in intervals if each <= count)
    # And what is on the way from the last of them to the end.
    assert set(range(0, count, coarsest)) <= set(plan.kept.tolist())
    assert max(taken_back(plan, count)) < len(intervals)


def test_memory_of_checkpoints_grows_like_the_root():
    slots = lambda count: planned(Checkpoints(None), count).num_slots
    assert [slots(count) for count in (100, 10_000)] == [14, 141]
    assert slots_for(1_000_000, 2) == 1413


@pytest.mark.parametrize("budget", [1, 3])
def test_too_small_a_budget_is_named(budget):
    with pytest.raises(ValueError, match=rf"`budget` = {budget} stored states .* is the least"):
        planned(Checkpoints(None, budget=budget), 1000)


@pytest.mark.parametrize(
    "chain",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("momentum", "multi_steps")), "adam"],
)
def test_the_path_passes_through_its_knots_with_their_counters(chain):
    """At the knots the visited state is the true one, step counters included."""
    problem = problems.problem(problems.CHAINS[chain])
    knots = (0, 2, 5, NUM_STEPS)
    hparams, params, batches = problems.hparams(), problems.params(), problems.batches()
    with jax.numpy_dtype_promotion("standard"):
        visited = visited_states(Knots(knots), problem, hparams, params, batches)
        state = dj.init_state(problem, hparams, params)
        for t in range(NUM_STEPS):
            counters = lambda s: [
                x for x in jax.tree.leaves(s) if jnp.issubdtype(x.dtype, jnp.integer)
            ]
            here = jax.tree.map(lambda x, t=t: x[t], visited)
            for a, b in zip(counters(here), counters(state), strict=True):
                np.testing.assert_array_equal(a, b)
            if t in knots:
                near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)
                jax.tree.map(near, here, state)
            state, _ = dj.train_step(problem, state, hparams, batches(t))


def visited_states(path, problem, hparams, params, batches):
    """Every state at which a path's steps are linearised, stacked in the order of training."""
    from drmad_jax.training.run import Run, reverse_loop

    start = lambda h: dj.init_state(problem, h, params)
    run = Run(problem, NUM_STEPS, batches, None, start)
    visits = EveryStep()(NUM_STEPS)

    @jax.jit
    def states():
        state = start(hparams)
        track = path.advance(run, path.blank(run, state, hparams, visits), hparams, visits)
        track, own = path.turn(run, path.ended(run, track, visits), visits)
        buffer = jax.tree.map(lambda x: jnp.zeros((NUM_STEPS, *x.shape), x.dtype), state)
        write = lambda buffer, state, weight, at: jax.tree.map(
            lambda b, x: b.at[state.step].set(x), buffer, state
        )

        def revisit(carry, index):
            return path.revisit(run, track, hparams, write, *carry, index, visits)

        return reverse_loop(revisit, (own, buffer), 0, path.num_visits(run, visits))[1]

    return states()


def test_the_line_is_the_published_one():
    problem, hparams, params = problems.problem(), problems.hparams(), problems.params()
    visited = visited_states(Knots(2), problem, hparams, params, problems.batches())
    final = compute(dj.drmad()).params
    beta = np.arange(NUM_STEPS) / NUM_STEPS
    for ours, first, last in zip(
        *map(jax.tree.leaves, (visited.params, params, final)), strict=True
    ):
        shape = (-1, *(1,) * first.ndim)
        line = (1 - beta).reshape(shape) * first[None] + beta.reshape(shape) * last[None]
        np.testing.assert_allclose(ours, line, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@given(
    inner=st.sets(st.integers(1, NUM_STEPS - 1), max_size=NUM_STEPS - 1),
    state=st.sampled_from(["auto", "final", "interpolated"]),
)
@settings(max_examples=3, deadline=None)
def test_any_knot_set_trains_the_same_weights(reference, inner, state):
    knots = [0, *sorted(inner), NUM_STEPS]
    out = compute(dj.drmad(path=dj.knots(knots, optimizer_state=state)))
    assert relative_error(out.params, reference.params) < 1e-12
    assert bool(out.info.finite)


def test_strides_on_a_stored_trajectory_skip_and_weight():
    """The third axis is independent of the first: weighted strides on the true states."""
    stride = StridedSteps(3, "even", "count")
    method = dataclasses.replace(dj.stored(), steps=stride)
    on_knots = dj.drmad(
        knots=NUM_STEPS + 1,
        curvature="hessian",
        steps=dj.strided_steps(3, spacing="even"),
    )
    assert relative_error(compute(method).grad, compute(on_knots).grad) < 1e-12


@pytest.mark.slow
def test_measured_steps_follow_the_length_of_the_path():
    """The count is the stated formula, up to the cap."""
    problem, batches = problems.problem(), problems.batches()
    states = [dj.init_state(problem, problems.hparams(), problems.params())]
    for t in range(20):
        states.append(dj.train_step(problem, states[-1], problems.hparams(), batches(t))[0])
    places = np.stack([problems.flat(s.params) for s in states])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    ratio = np.linalg.norm(places[-1] - places[0]) / steps[:4].mean()

    def taken(multiplier, cap=20):
        measured = dj.measured_steps(cap=cap, multiplier=multiplier, early=4)
        out = compute(dj.drmad(steps=measured), num_steps=20)
        return int(out.info.num_reverse_steps), out

    assert taken(1.0)[0] == np.ceil(ratio)
    assert taken(0.5)[0] == np.ceil(0.5 * ratio)
    assert taken(1e6, cap=5)[0] == 5


def test_measured_steps_at_the_cap_are_the_even_stride():
    measured = dj.measured_steps(cap=4, multiplier=1e6)
    stride = dj.drmad(steps=dj.strided_steps(4, spacing="even"))
    ours, even = (compute(method, num_steps=12) for method in (dj.drmad(steps=measured), stride))
    assert relative_error(ours.grad, even.grad) < 0.05


@pytest.mark.slow
def test_fresh_batches_are_those_after_the_run():
    class Shifted(NamedTuple):
        """Batches whose second half repeats the first: fresh ones are the original ones."""

        inner: dj.Minibatches

        def __call__(self, step):
            return self.inner(step % NUM_STEPS)

    hparams, params, data = problems.hparams(), problems.params(), problems.data()
    call = lambda method, batches: jax.jit(
        dj.hypergradient(problems.problem(), num_steps=NUM_STEPS, method=method)
    )(hparams, params, batches, data)
    steps = {"knots": 2, "curvature": "gauss_newton"}
    original = call(dj.drmad(**steps), problems.batches())
    fresh = call(dj.drmad(**steps, batches="fresh"), problems.batches())
    shifted = call(dj.drmad(**steps, batches="fresh"), Shifted(problems.batches()))
    assert relative_error(shifted.grad, original.grad) < 1e-12
    assert 1e-3 < relative_error(fresh.grad, original.grad) < 1
    stacked = jax.vmap(problems.batches())(jnp.arange(NUM_STEPS))
    with pytest.raises(ValueError, match='"fresh" needs `inner_batches` that can make more'):
        call(dj.drmad(batches="fresh"), stacked)


def test_fresh_batches_are_those_after_the_last_on_the_way_back_alone():
    """Against public reverse steps; states computed again are those of the original batches."""
    problem, hparams, batches = problems.problem(), problems.hparams(), problems.batches()
    state, states = dj.init_state(problem, hparams, problems.params()), []
    step, back = (
        jax.jit(dj.train_step, static_argnums=0),
        jax.jit(dj.reverse_step, static_argnums=0),
    )
    for t in range(NUM_STEPS):
        states.append(state)
        state, _ = step(problem, state, hparams, batches(t))
    d_params = jax.grad(problems.outer_loss)(state.params, hparams, problems.data())
    cotangent = dj.init_cotangent(state, hparams, params=d_params)
    for t in reversed(range(NUM_STEPS)):
        cotangent, _ = back(problem, states[t], hparams, batches(t + NUM_STEPS), cotangent)
    stored = dj.drmad(knots=NUM_STEPS + 1, curvature="hessian", batches="fresh")
    recomputed = dataclasses.replace(dj.checkpointed(every=3), fresh_batches=True)
    for method in (stored, recomputed):
        found = compute(method).grad
        for name in ("log_weight", "lr", "momentum"):
            assert problems.relative_error(found[name], cotangent.hparams[name]) < 1e-10
