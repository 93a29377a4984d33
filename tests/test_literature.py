"""Every method on every kind of hyperparameter, leaf by leaf: exact, approximate, or refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drmad_jax as dj
import literature
from literature import NUM_STEPS, RATES, STARTS
from problems import TOLERANCE, relative_error

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
EXACT = {
    "stored": dj.stored(),
    "checkpointed in two levels": dj.checkpointed(every=(4, 2)),
    "checkpointed in a budget": dj.checkpointed(budget=6),
    "forward": dj.forward(),
    "forward in chunks": dj.forward(chunk_size=20),
    "all knots": dj.drmad(knots=NUM_STEPS + 1, curvature="hessian"),
    "reversible": dj.reversible(),
}
BIASED = {
    "by default": dj.drmad(steps=dj.segments(num_products=4, num_batches=2)),
    "line, Hessian": dj.drmad(knots=2, curvature="hessian"),
    "line, filtered Hessian": dj.drmad(knots=2, curvature="filtered_hessian"),
    "line, strided": dj.drmad(knots=2, steps=dj.strided_steps(4)),
    "line, segments": dj.drmad(knots=2, steps=dj.segments(2, num_products=4, num_batches=2)),
    "knots": dj.drmad(knots=4, curvature="gauss_newton"),
    "published": dj.published_drmad(num_reverse_steps=4),
    "truncated": dj.truncated(num_reverse_steps=3),
    "truncated on the line": dj.truncated(num_reverse_steps=3, method=dj.drmad(knots=2)),
    "frozen": dj.truncated(num_reverse_steps=3, frozen=True),
    "one step": dj.one_step(),
    "conjugate gradient": dj.implicit(curvature="gauss_newton", damping=0.1),
    "neumann": dj.implicit(solver="neumann"),
    "nystrom": dj.implicit(solver=dj.nystrom(rank=5)),
}
UNSEEN = {name: STARTS for name in ("truncated", "truncated on the line", "frozen", "one step")}
UNSEEN |= {name: STARTS + RATES for name in ("conjugate gradient", "neumann", "nystrom")}


def select(names, by_default):
    return [name if name in by_default else slow(name) for name in names]


@functools.cache
def compute(method, without=()):
    return jax.jit(functools.partial(literature.hypergradient, method))(literature.hparams(without))


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.fixture(scope="module")
def exact():
    return compute(dj.unrolled())


@pytest.mark.parametrize("name", select(EXACT, ("stored",)))
def test_exact_methods_agree_on_every_leaf(exact, name):
    out, reference = compute(EXACT[name]), leaves(exact.grad)
    assert relative_error(out.params, exact.params) < TOLERANCE["float64"]
    errors = {leaf: relative_error(g, reference[leaf]) for leaf, g in leaves(out.grad).items()}
    assert errors.keys() == reference.keys()
    assert max(errors.values()) < TOLERANCE["float64"], errors


def test_central_differences_in_every_entry(exact):
    flat, unravel = jax.flatten_util.ravel_pytree(literature.hparams())
    train = dj.train(literature.PROBLEM, num_steps=NUM_STEPS, method=dj.unrolled())

    @jax.jit
    @jax.vmap
    def values(h):
        final = train(unravel(h), literature.PARAMS, literature.BATCHES, key=literature.KEY)
        return literature.outer_loss(final.params, None, literature.VALIDATION)

    def differences(width):
        steps = width * jnp.eye(len(flat))
        return (values(flat[None] + steps) - values(flat[None] - steps)) / (2 * width)

    # Of fourth order (Richardson). What the optimizer rounds momenta to is a divisor of the widths.
    fine, coarse = differences(2.0**-14), differences(2.0**-13)
    for leaf, difference in leaves(unravel((4 * fine - coarse) / 3)).items():
        assert relative_error(leaves(exact.grad)[leaf], difference) < 1e-8, leaf


@pytest.mark.parametrize("name", select(BIASED, ("conjugate gradient",)))
def test_biased_methods_see_every_leaf_that_they_take(exact, name):
    out = compute(BIASED[name], UNSEEN.get(name, ()))
    assert bool(out.info.finite)
    assert relative_error(out.params, exact.params) < 1e-12
    reference = {leaf: g for leaf, g in exact.grad.items() if leaf not in UNSEEN.get(name, ())}
    assert jax.tree.map(jnp.shape, out.grad) == jax.tree.map(jnp.shape, reference)
    for leaf, grad in leaves(out.grad).items():
        assert np.linalg.norm(grad) > 1e-6, leaf


@pytest.mark.parametrize("name", select(UNSEEN, ("truncated", "conjugate gradient")))
def test_what_a_method_cannot_see_is_refused_by_name(name):
    """One kind at a time, so that each is refused for itself; and all that are not, are taken."""
    call = functools.partial(literature.hypergradient, BIASED[name])
    for unseen in UNSEEN[name]:
        others = [other for other in UNSEEN[name] if other != unseen]
        with pytest.raises(ValueError, match="cannot see") as error:
            jax.eval_shape(call, literature.hparams(others))
        for leaf in leaves({unseen: literature.hparams()[unseen]}):
            assert f"`hparams{leaf}`" in str(error.value)
    jax.eval_shape(call, literature.hparams(UNSEEN[name]))


# Estimates, in units in which every leaf of the exact hypergradient has norm one: the noise, which
# comes from the whole, is then the same for all leaves, and small enough to tell 1 from 0.
DRAWS, SIGMA = 1000, 3e-4


def forward_gradient(problem, z, key):
    method = dj.forward_gradient(num_directions=1, key=key)
    return literature.hypergradient(method, z, problem).grad


def evolution_strategies(problem, z, key, sigma=SIGMA):
    method = dj.evolution_strategies(num_pairs=1, sigma=sigma, key=key)
    return literature.hypergradient(method, z, problem).grad


def persistent_es(problem, z, key, sigma=SIGMA):
    """Of two windows the second, whose estimate is the whole run's."""
    window = NUM_STEPS // 2
    pes = dj.persistent_es(
        problem, num_pairs=1, sigma=sigma, num_steps=NUM_STEPS, unroll_length=window
    )
    given = z, literature.PARAMS, literature.BATCHES, literature.VALIDATION

    def step(state, _):
        state, info = pes.step(state, *given, key=key, inner_key=literature.KEY)
        return state, info.grad

    grads = jax.lax.scan(step, pes.init(z, literature.PARAMS), length=2)[1]
    return jax.tree.map(lambda x: x[1], grads)


def projections(estimate, exact, **options):
    """Each draw's component along the exact hypergradient, leaf by leaf; on the mean 1."""
    units = jax.tree.map(lambda g: 1 / jnp.linalg.norm(jnp.ravel(g)), exact.grad)
    problem, origin = literature.in_units(units), jax.tree.map(jnp.zeros_like, exact.grad)

    @jax.jit
    @jax.vmap
    def draw(key):
        along = lambda g, e, unit: jnp.sum(g * unit * e)
        return jax.tree.map(along, estimate(problem, origin, key, **options), exact.grad, units)

    keys = jax.random.split(jax.random.key(0), DRAWS)
    return {leaf: np.asarray(x) for leaf, x in leaves(draw(keys)).items()}


def standard_error(samples):
    return samples.std(ddof=1) / np.sqrt(DRAWS)


@pytest.mark.parametrize(
    "estimate",
    [slow(forward_gradient), slow(evolution_strategies), slow(persistent_es)],
    ids=lambda estimate: estimate.__name__,
)
def test_estimates_are_unbiased_on_every_leaf(exact, estimate):
    for leaf, samples in projections(estimate, exact).items():
        assert standard_error(samples) < 0.25, leaf
        assert abs(samples.mean() - 1) < 3 * standard_error(samples), leaf


@pytest.mark.slow
@pytest.mark.parametrize("estimate", [evolution_strategies, persistent_es])
def test_what_smoothing_adds_is_far_below_the_noise(exact, estimate):
    """The bias is O(σ²): at half of σ, and the same draws, three quarters of it are gone."""
    whole, half = (projections(estimate, exact, sigma=sigma) for sigma in (SIGMA, SIGMA / 2))
    for leaf, samples in whole.items():
        bias = 4 / 3 * np.mean(samples - half[leaf])
        assert abs(bias) < 0.1 * standard_error(samples), leaf
