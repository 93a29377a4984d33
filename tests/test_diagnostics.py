"""Metrics of hypergradients, metasmoothness, and the comparison that puts them together."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drmad_jax as dj
import problems
from drmad_jax.diagnostics.report import Mean


def test_agreement_of_trees_is_that_of_their_entries():
    first, second = jax.random.normal(jax.random.key(0), (2, 6))
    as_tree = lambda x: {"a": x[:2].reshape(1, 2), "b": (x[2:],)}
    found = jax.jit(dj.agreement)(as_tree(first), as_tree(second))
    norms = np.linalg.norm(first), np.linalg.norm(second)
    np.testing.assert_allclose(found.cosine, np.dot(first, second) / np.prod(norms))
    np.testing.assert_allclose(found.norm_ratio, norms[0] / norms[1])
    np.testing.assert_allclose(found.sign_agreement, np.mean(np.sign(first) == np.sign(second)))


def test_agreement_survives_entries_whose_squares_overflow():
    grad = jnp.array([3e30, -4e30], jnp.float32)
    found = dj.agreement(grad, jnp.array([3e-30, 4e-30], jnp.float32))
    np.testing.assert_allclose(found.cosine, (9 - 16) / 25, rtol=1e-6)
    assert found.sign_agreement == 0.5
    exploded = dj.agreement(grad * 1e10, grad)
    assert all(not np.isfinite(x) for x in exploded)


def test_agreement_of_a_zero_hypergradient_is_none():
    assert dj.agreement(jnp.zeros(3), jnp.ones(3)) == (0, 0, 0)
    # Where the reference is zero, no sign is right or wrong.
    assert dj.agreement(jnp.ones(2), jnp.array([0.0, 1.0])).sign_agreement == 1


def test_agreement_with_other_seeds_equals_a_loop_over_seeds():
    grads, exact = jax.random.normal(jax.random.key(1), (2, 5, 7))
    exact = exact.at[3, 0].set(jnp.nan)
    grads = grads.at[1, 2].set(jnp.inf)
    found = jax.jit(dj.agreement_with_other_seeds)({"x": grads}, {"x": exact})
    assert np.isnan(found.cosine[1]) and np.isnan(found.sign_agreement[1])
    for i in (0, 2, 3, 4):
        mean = np.mean([exact[j] for j in range(5) if j not in (i, 3)], axis=0)
        expected = np.dot(grads[i], mean) / np.linalg.norm(grads[i]) / np.linalg.norm(mean)
        np.testing.assert_allclose(found.cosine[i], expected)
        ratio = np.linalg.norm(grads[i]) / np.linalg.norm(mean)
        np.testing.assert_allclose(found.norm_ratio[i], ratio)
        signs = np.mean(np.sign(grads[i]) == np.sign(mean))
        np.testing.assert_allclose(found.sign_agreement[i], signs)
    with pytest.raises(ValueError, match="needs at least two seeds, got 1"):
        dj.agreement_with_other_seeds(grads[:1], exact[:1])


ARGUMENTS = (problems.hparams(), problems.params(), problems.batches(), problems.data())


def metasmoothness(response, hparams, **options):
    """Of training that ends at w = response(λ) after its only step, with E = Σw."""
    loss = lambda w, h, x: jnp.sum((w - response(h)) ** 2)
    problem = dj.Problem(loss, lambda w, h, x: jnp.sum(w), optax.sgd(0.5))
    measure = jax.jit(dj.metasmoothness(problem, num_steps=1))
    ones = jnp.ones_like(hparams)
    return measure(hparams, ones, ones, jnp.zeros(1), None, **options)


def test_metasmoothness_is_one_where_training_responds_linearly():
    out = metasmoothness(lambda h: 3 * h, jnp.array([1.0, -2.0]), step_size=0.5)
    np.testing.assert_allclose(out.agreement, 1)
    np.testing.assert_allclose(out.slopes, [6, 6])
    np.testing.assert_allclose(out.curvature, 0, atol=1e-10)
    assert out.outer_agreement == 1


def test_metasmoothness_follows_its_definition():
    # From −1, −.5 and 2 in two steps of 1: w moves 1, 0, 1; .25, .25, 2.25; 4, 9, 16.
    out = metasmoothness(jnp.square, jnp.array([-1.0, -0.5, 2.0]), step_size=1.0)
    # The first turns, but it ends where it began and so has no weight.
    np.testing.assert_allclose(out.agreement, (0 * 2 + 1 * 12) / 14)
    np.testing.assert_allclose(out.slopes, [4.0, 10.0])
    np.testing.assert_allclose(out.curvature, 6)
    out = metasmoothness(jnp.square, jnp.array([-1.4]), step_size=1.0)
    assert out.agreement == out.outer_agreement == -1


def runs(count, size=3, dtype=jnp.float64):
    for seed in range(count):
        x = jax.random.normal(jax.random.key(seed), (13, 8, size), dtype)
        yield {"params": jnp.zeros(size, dtype), "inner_batches": x[1:], "outer_batch": x[0]}


def inner(w, h, x):
    return jnp.mean((w[None] - x) ** 2) + jnp.sum(jnp.exp(h["log_l2"]) * w**2)


def outer(w, h, x):
    return jnp.mean((w[None] - x) ** 2)


PROBLEM = dj.Problem(inner, outer, optax.sgd(0.1))
HPARAMS = {"log_l2": jnp.array([-2.0, -1.0, 0.0])}
LINE = dj.drmad(knots=2, curvature="hessian")
TOLD = []


@pytest.fixture(scope="module")
def comparison():
    methods = {"line": LINE, "last": dj.one_step(), "all": dj.stored()}
    compare = dj.compare(PROBLEM, methods, num_steps=12, certify=2, progress=TOLD.append)
    return compare(HPARAMS, runs(4))


def test_compare_measures_what_its_parts_do(comparison):
    assert [r.name for r in comparison.reports] == ["line", "last", "all", "exact"]
    assert (comparison.num_steps, comparison.num_seeds, comparison.num_hparams) == (12, 4, 3)
    grads = {}
    for name, method in {"line": LINE, "exact": dj.checkpointed()}.items():
        compute = jax.jit(dj.hypergradient(PROBLEM, num_steps=12, method=method))
        found = [compute(HPARAMS, **run).grad["log_l2"] for run in runs(4)]
        grads[name] = jnp.stack(found)
    expected = jax.vmap(dj.agreement)(grads["line"], grads["exact"])
    line = comparison["line"]
    np.testing.assert_allclose(line.cosine, Mean.of(expected.cosine))
    np.testing.assert_allclose(line.norm_ratio, Mean.of(expected.norm_ratio))
    np.testing.assert_allclose(line.sign_agreement, Mean.of(expected.sign_agreement))
    others = dj.agreement_with_other_seeds(grads["line"], grads["exact"])
    np.testing.assert_allclose(line.other_seeds, Mean.of(others.cosine))
    np.testing.assert_allclose(line.other_signs, Mean.of(others.sign_agreement))
    np.testing.assert_allclose(comparison["all"].cosine.value, 1)
    own = dj.agreement_with_other_seeds(grads["exact"], grads["exact"])
    np.testing.assert_allclose(comparison["exact"].other_seeds, Mean.of(own.cosine))


def test_with_all_directions_the_certified_cosine_is_the_cosine(comparison):
    for report in comparison.reports:
        np.testing.assert_allclose(report.certified, report.cosine, atol=1e-9)
    assert comparison["line"].cosine.value < 1 - 1e-6
    assert "certified cosine" in comparison.to_markdown()


def test_compare_says_how_far_it_is(comparison):
    names = ["line", "last", "all", "exact"]
    compiled = [line.partition(": compiled in ")[0] for line in TOLD if "compiled" in line]
    assert sorted(compiled) == sorted([*names, "training", "certificate"])
    assert [line.split(":")[0] for line in TOLD if "s a run" in line] == names
    assert [line for line in TOLD if "seed" in line] == [f"seed {n} done" for n in range(4)]
    assert len(TOLD) == 6 + 4 + 4
    assert comparison.compile_seconds >= max(r.compile_seconds for r in comparison.reports)


def test_compare_measures_metasmoothness_by_the_training_that_is_there(comparison):
    exact = jax.jit(dj.hypergradient(PROBLEM, num_steps=12, method=dj.checkpointed()))
    measure = jax.jit(dj.metasmoothness(PROBLEM, num_steps=12))
    found = []
    for run in runs(4):
        downhill = jax.tree.map(lambda g: -jnp.sign(g), exact(HPARAMS, **run).grad)
        found.append(measure(HPARAMS, downhill, **run, step_size=0.1))
    for name in ("metasmoothness", "outer_agreement"):
        values = [each.agreement if name == "metasmoothness" else each[1] for each in found]
        np.testing.assert_allclose(getattr(comparison, name), Mean.of(values), rtol=1e-6)


def test_compare_measures_time_and_memory(comparison):
    for report in comparison.reports:
        assert report.finite_share == 1
        assert report.seconds > 0 and report.compile_seconds > 0
        assert report.time_ratio == report.seconds / comparison.training_seconds
        assert report.temporary_bytes > 0
        assert report.expansion >= 1
    np.testing.assert_allclose(comparison.metasmoothness.value, 1)


def test_compare_says_the_same_in_json_and_markdown(comparison):
    record = json.loads(comparison.to_json())
    assert record["recommendation"] == comparison.recommendation
    assert [r["name"] for r in record["reports"]] == ["line", "last", "all", "exact"]
    assert record["reports"][0]["cosine"]["value"] == comparison["line"].cosine.value
    text = comparison.to_markdown()
    assert text.count("\n| ") == 5
    assert "| exact (exact) |" in text and comparison.recommendation in text
    with pytest.raises(KeyError):
        comparison["nobody"]


def made_up(**reports):
    """A comparison where only the agreement of signs, time and finite share differ."""
    one = Mean(1.0, 0.0)
    return dj.Comparison(
        num_steps=1, num_seeds=8, num_hparams=1, reference="exact",
        reports=tuple(
            dj.MethodReport(
                name=name, method=name, cosine=one, norm_ratio=one, other_seeds=one,
                sign_agreement=Mean(signs, 0.01), other_signs=one, certified=None,
                finite_share=finite,
                expansion=None, cotangent_norms=None, seconds=time, time_ratio=time,
                compile_seconds=1.0, temporary_bytes=None,
            )
            for name, (signs, time, finite) in reports.items()
        ),
        training_seconds=1.0, training_bytes=None, compile_seconds=1.0, step_size=0.1,
        metasmoothness=one, outer_agreement=one,
    )  # fmt: skip


EXACT = (1.0, 3.0, 1.0)


@pytest.mark.parametrize(
    "others, expected",
    [
        ({"near": (0.81, 2.0, 1.0), "far": (0.75, 1.0, 1.0)}, "near"),
        ({"best": (0.9, 4.0, 1.0), "cheap": (0.86, 1.5, 1.0), "worse": (0.8, 1.0, 1.0)}, "cheap"),
        ({"best": (0.7, 2.0, 1.0)}, "best"),
        ({"coin": (0.6, 1.0, 1.0)}, "exact"),
        ({"breaks": (0.9, 1.0, 0.9)}, "exact"),
        ({"never": (math.nan, 1.0, 0.0)}, "exact"),
        ({"dear": (0.95, 4.0, 1.0)}, "exact"),
    ],
)
def test_recommendation_follows_its_rule(others, expected):
    comparison = made_up(exact=EXACT, **others)
    assert comparison.recommended == expected
    assert comparison.recommendation.startswith(f"Take {expected} (")
    json.loads(comparison.to_json(), parse_constant=pytest.fail)
    assert comparison.to_markdown()


def test_nothing_is_recommended_where_nothing_is_finite():
    comparison = made_up(exact=(math.nan, 3.0, 0.5), line=(math.nan, 2.0, 0.5))
    assert comparison.recommended == "exact"
    assert comparison.recommendation.startswith("Nothing to recommend: ")


def test_recommendation_warns_of_few_seeds_and_of_a_lost_scale():
    comparison = made_up(exact=EXACT, line=(0.9, 1.0, 1.0))
    few = dataclasses.replace(comparison, num_seeds=3)
    assert "3 seeds are few" in few.recommendation
    small = dataclasses.replace(comparison.reports[1], norm_ratio=Mean(0.09, 0.01))
    scaled = dataclasses.replace(comparison, reports=(comparison.reports[0], small))
    assert "its norm is 0.090 of the exact one's" in scaled.recommendation
    rough = dataclasses.replace(comparison, metasmoothness=Mean(0.08, 0.02))
    lost = dataclasses.replace(comparison.reports[0], other_seeds=Mean(0.01, 0.02))
    at_the_end = dataclasses.replace(comparison, reports=(lost, comparison.reports[1]))
    assert "nothing left to learn" in at_the_end.recommendation
    assert "nothing left to learn" not in comparison.recommendation
    assert "not metasmooth" in rough.recommendation and "not meta" not in comparison.recommendation


def test_a_method_that_diverges_is_reported_and_spoils_no_mean():
    # One of the seeds has so large a loss that its training overflows.
    def spoiled():
        for number, run in enumerate(runs(4, dtype=jnp.float32)):
            yield {**run, "inner_batches": run["inner_batches"] * (1e38 if number == 2 else 1)}

    hparams = {"log_l2": HPARAMS["log_l2"].astype(jnp.float32)}
    found = dj.compare(PROBLEM, {"line": dj.drmad()}, num_steps=12)(hparams, spoiled())
    for report in found.reports:
        assert report.finite_share == 0.75
        assert math.isfinite(report.other_seeds.value)


def test_compare_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="`methods` is empty"):
        dj.compare(PROBLEM, {}, num_steps=2)
    with pytest.raises(ValueError, match='"exact" is the name of the reference'):
        dj.compare(PROBLEM, {"exact": dj.drmad()}, num_steps=2)
    with pytest.raises(ValueError, match="`step_size` must be above 0"):
        dj.compare(PROBLEM, {"line": dj.drmad()}, num_steps=2, step_size=0.0)
    measure = dj.compare(PROBLEM, {"exact": dj.stored()}, num_steps=12, reference=dj.stored())
    with pytest.raises(ValueError, match="at least two entries, got 1"):
        measure(HPARAMS, runs(1))
    with pytest.raises(ValueError, match="entry 1 of `runs` has other keys, shapes or dtypes"):
        measure(HPARAMS, [*runs(1), {**next(runs(1)), "outer_batch": jnp.zeros((2, 3))}])
    rates = dj.Problem(inner, outer, lambda h: optax.sgd(h["lr"]))
    with pytest.raises(ValueError, match=r"compare: here: .*cannot see `hparams\['lr'\]`"):
        dj.compare(rates, {"here": dj.implicit()}, num_steps=12)(
            {**HPARAMS, "lr": jnp.asarray(0.1)}, runs(2)
        )
