"""What a method makes of a run before it begins: choices, warnings, and values of users' own."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax.protocol import Info, Method
from drmad_jax.reverse.paths import Knots, Path

NUM_STEPS = problems.NUM_STEPS


def trace(method, problem=None, hparams=None, num_steps=NUM_STEPS):
    """The shapes of a hypergradient, by tracing alone; and what was warned of meanwhile."""
    compute = dj.hypergradient(problem or problems.problem(), num_steps=num_steps, method=method)
    args = (problems.params(), problems.batches(), problems.data())
    with warnings.catch_warnings(record=True, action="always") as caught:
        jax.eval_shape(compute, hparams or problems.hparams(), *args)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "method",
    [
        dj.drmad(knots=2),
        dj.drmad(knots=3),
        dj.drmad(knots=3, curvature="gauss_newton"),
        dj.published_drmad(num_reverse_steps=3),
        dj.truncated(num_reverse_steps=3, method=dj.drmad(knots=3)),
    ],
)
def test_hyperparameters_inside_the_optimizer_are_warned_of_by_name_once(method):
    (said,) = trace(method)
    assert said.startswith(
        "hyperparameters inside the optimizer, `hparams['lr']`, `hparams['momentum']`:"
    )


@pytest.mark.parametrize(
    "method",
    [
        dj.stored(),
        dj.checkpointed(),
        dj.unrolled(),
        dj.forward(),
        dj.truncated(num_reverse_steps=3),
        dj.drmad(knots=NUM_STEPS + 1, curvature="hessian"),
        dj.drmad(),
        dj.drmad(steps=dj.segments(2)),
    ],
)
def test_where_the_optimizers_states_are_known_nothing_is_warned_of(method):
    assert trace(method) == []


def test_hyperparameters_of_the_loss_are_not_warned_of():
    fixed = problems.problem(optax.sgd(0.05, momentum=0.8))
    assert trace(dj.drmad(knots=2), problem=fixed) == []


def test_train_warns_too():
    train = dj.train(problems.problem(), num_steps=NUM_STEPS, method=dj.drmad(knots=2))
    with pytest.warns(UserWarning, match=r"inside the optimizer, `hparams\['lr'\]`"):
        jax.eval_shape(train, problems.hparams(), problems.params(), problems.batches())


def test_train_refuses_what_it_cannot_see_and_leaves_what_acts_later_alone():
    train = dj.train(problems.problem(), num_steps=NUM_STEPS, method=dj.implicit())
    args = problems.hparams(), problems.params(), problems.batches()
    with pytest.raises(ValueError, match=r"cannot see `hparams\['lr'\]`, `hparams\['momentum'\]`"):
        jax.eval_shape(train, *args)
    fixed = problems.problem(optax.sgd(0.05, momentum=0.8))
    train = dj.train(fixed, num_steps=NUM_STEPS, method=dj.implicit())
    jax.eval_shape(train, *args)  # learning rate and momentum act nowhere in this training


@dataclasses.dataclass(frozen=True)
class Own(Path):
    """A path of a user's own: knots behind another name."""

    knots: Knots = Knots(3)

    def lengths(self, run, visits):
        return self.knots.lengths(run, visits)

    def blank(self, run, state, hparams, visits):
        return self.knots.blank(run, state, hparams, visits)

    def step(self, run, track, hparams):
        return self.knots.step(run, track, hparams)

    def note(self, run, track, index, when, visits):
        return self.knots.note(run, track, index, when, visits)

    def ended(self, run, track, visits):
        return self.knots.ended(run, track, visits)

    def revisit(self, *where):
        return self.knots.revisit(*where)


def plain(w, h, batch):
    return problems.loss(w, h, batch)


@pytest.mark.parametrize(
    "steps, inner_loss",
    [(dj.every_step(), problems.loss), (dj.every_step(), plain), (dj.segments(2), plain)],
)
def test_a_path_of_ones_own_gets_the_same_choices(steps, inner_loss):
    problem = problems.problem(inner_loss=inner_loss)
    args = (problems.hparams(), problems.params(), problems.batches(), problems.data())
    grad = lambda path: (
        jax.jit(
            dj.hypergradient(problem, num_steps=NUM_STEPS, method=dj.drmad(path=path, steps=steps))
        )(*args).grad
    )
    np.testing.assert_array_equal(problems.flat(grad(Own())), problems.flat(grad(dj.knots(3))))


@dataclasses.dataclass(frozen=True)
class Nothing(Method):
    """The least that a method has to be."""

    def arrived(self, run, back, hparams):
        return back[1], Info(num_reverse_steps=jnp.int32(0))


def test_a_method_of_ones_own_needs_one_function():
    compute = dj.hypergradient(problems.problem(), num_steps=NUM_STEPS, method=Nothing())
    out = jax.jit(compute)(
        problems.hparams(), problems.params(), problems.batches(), problems.data()
    )
    # What comes back is the direct term alone.
    np.testing.assert_allclose(out.grad["log_l2"], 0.01)
    assert bool(out.info.finite)


def test_plain_training_is_that_of_every_method_and_warns_of_nothing():
    problem = problems.problem(optax.adam(0.1))
    args = (problems.hparams(), problems.params(), problems.batches())
    with jax.numpy_dtype_promotion("standard"):
        state = jax.jit(dj.trained(problem, num_steps=NUM_STEPS))(*args)
        with pytest.warns(UserWarning, match="eps_root"):
            compute = dj.hypergradient(problem, num_steps=NUM_STEPS, method=dj.stored())
            out = jax.jit(compute)(*args, problems.data())
    np.testing.assert_allclose(problems.flat(state.params), problems.flat(out.params), rtol=1e-12)
    assert int(state.step) == NUM_STEPS


def test_metasmoothness_warns_of_no_derivative_that_it_does_not_take():
    problem = problems.problem(optax.adam(0.1))
    measure = dj.metasmoothness(problem, num_steps=NUM_STEPS)
    args = (problems.hparams(), problems.hparams(), problems.params(), problems.batches())
    with (
        jax.numpy_dtype_promotion("standard"),
        warnings.catch_warnings(record=True, action="always") as caught,
    ):
        jax.eval_shape(lambda *args: measure(*args, step_size=0.1), *args, problems.data())
    assert not caught
