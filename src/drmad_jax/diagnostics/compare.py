"""Runs methods beside the exact one on the same seeds: how near, how fast, how large."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax._checks.arguments import check_count, check_inexact, check_number
from drmad_jax.diagnostics.agreement import agreement, agreement_with_other_seeds
from drmad_jax.diagnostics.metasmoothness import metasmoothness
from drmad_jax.diagnostics.report import Comparison, Mean, MethodReport
from drmad_jax.hypergradient import Hypergradient, hypergradient, trained
from drmad_jax.hypergradient import certify as make_certify
from drmad_jax.methods.exact import checkpointed
from drmad_jax.problem import Problem
from drmad_jax.protocol import Certificate, Estimator, Info, Method

Run = Mapping[str, Any]
_agreements, _agreement_with_other_seeds = (
    jax.jit(jax.vmap(agreement)),
    jax.jit(agreement_with_other_seeds),
)


def compare(
    problem: Problem,
    methods: Mapping[str, Method | Estimator],
    *,
    num_steps: int,
    reference: Method | None = None,
    step_size: float = 0.1,
    repeats: int = 1,
    certify: int | None = None,
) -> Callable[[PyTree, Iterable[Run]], Comparison]:
    """Compares methods with the exact one on a problem of one's own.

    A host-side function: it compiles each method, runs all of them on one seed after the other,
    and measures seconds. Memory is that of one run at a time.

    Args:
        problem: Inner loss, outer loss and optimizer.
        methods: Method by name. Several of them, or one: they do not change each other's numbers.
        num_steps: Number of inner steps T.
        reference: The exact method; `checkpointed()` if `None`. If it is not among `methods`, it is
            added under the name "exact".
        step_size: Of the step in hyperparameter space along which metasmoothness is measured,
            against the signs of the exact hypergradient; of the order of one outer update.
        repeats: Timed calls for each method and seed. One uncounted call warms up.
        certify: As of `hypergradient`: every estimate gets a certificate, too, outside its time, so
            that one sees how well that tells the cosine on this problem; at least 1.

    Returns:
        A function `(hparams, runs) -> Comparison`. `hparams`: where to compare. `runs`: an iterable
        with one entry per seed, at least two and better eight: a mapping of the arguments of a
        hypergradient after `hparams`, such as `{"params": …, "inner_batches": …, "outer_batch": …,
        "key": …}`, all of the same shapes. A generator is asked for one at a time.

    Raises:
        ValueError: On an empty `methods`; when called, with fewer than two runs, or with runs
            whose shapes differ.

    Example:
        >>> import drmad_jax as dj, jax, jax.numpy as jnp, optax
        >>> error = lambda w, l2, x: jnp.mean((w[None] - x) ** 2)
        >>> loss = lambda w, l2, x: error(w, l2, x) + jnp.sum(jnp.exp(l2) * w**2)
        >>> problem = dj.Problem(loss, error, optax.sgd(0.1))
        >>> compare = dj.compare(problem, {"line": dj.drmad()}, num_steps=20)
        >>> noise = lambda seed: jax.random.normal(jax.random.key(seed), (21, 8, 3))
        >>> runs = ({"params": jnp.zeros(3), "inner_batches": x[1:], "outer_batch": x[0]}
        ...         for x in map(noise, range(3)))
        >>> found = compare(jnp.zeros(3), runs)
        >>> [report.name for report in found.reports], found["line"].finite_share
        (['line', 'exact'], 1.0)
    """
    if not methods:
        raise ValueError("compare: `methods` is empty: give at least one, by name")
    check_count("compare", "num_steps", num_steps)
    check_count("compare", "repeats", repeats)
    check_number("compare", "step_size", step_size, above=0.0)
    worth = _certifier(problem, num_steps, certify)
    methods, exact = _with_reference(methods, checkpointed() if reference is None else reference)

    def call(hparams: PyTree, runs: Iterable[Run]) -> Comparison:
        hparams = check_inexact("hparams", hparams)
        functions = {
            name: _Timed(name, hypergradient(problem, num_steps=num_steps, method=method), repeats)
            for name, method in methods.items()
        }
        training = _Timed("training", _plain_training(problem, num_steps), repeats)
        three_runs = _Timed("metasmoothness", metasmoothness(problem, num_steps=num_steps), 1)
        found, smoothness = {name: [] for name in methods}, []
        for run in _alike(runs):
            training(hparams, **run)
            for name, function in functions.items():
                out = function(hparams, **run)
                found[name].append(_Found.of(out, worth(out.grad, hparams, **run)))
            downhill = jax.tree.map(lambda g: -np.sign(g), found[exact][-1].grad)
            smooth = three_runs(hparams, downhill, **run, step_size=step_size)
            smoothness.append(jax.device_get(smooth))
        num_seeds = len(smoothness)
        if num_seeds < 2:
            raise ValueError(f"compare: `runs` must have at least two entries, got {num_seeds}")
        return Comparison(
            num_steps=num_steps,
            num_seeds=num_seeds,
            num_hparams=sum(leaf.size for leaf in jax.tree.leaves(hparams)),
            reference=exact,
            reports=tuple(
                _report(name, method, found[name], found[exact], functions[name], training)
                for name, method in methods.items()
            ),
            training_seconds=training.seconds,
            training_bytes=training.temporary_bytes,
            step_size=step_size,
            metasmoothness=Mean.of([smooth.agreement for smooth in smoothness]),
            outer_agreement=Mean.of([smooth.outer_agreement for smooth in smoothness]),
        )

    return call


def _certifier(problem: Problem, num_steps: int, num_directions: int | None) -> Callable:
    """What makes certificates of estimates, `None` of each where none are wanted."""
    if num_directions is None:
        return lambda *given, **run: None
    check_count("compare", "certify", num_directions)
    certify = make_certify(problem, num_steps=num_steps, num_directions=num_directions)
    return _Timed("certificate", certify, 1)


class _Found(NamedTuple):
    """What is kept of one hypergradient, on the host."""

    grad: PyTree
    finite: bool
    expansion: float | None
    profile: np.ndarray | None
    certified: float | None

    @classmethod
    def of(cls, out: Hypergradient, worth: Certificate | None) -> "_Found":
        grad, finite, info = jax.device_get((out.grad, out.info.finite, out.info))
        certified = None if worth is None else float(cast(Array, worth.cosine))
        profile = info.cotangent_norm_profile
        if profile is not None:
            profile = np.where(np.asarray(profile) < 0, np.nan, profile)
        return cls(grad, bool(finite), _expansion(info), profile, certified)


class _Timed:
    """A function that is compiled at its first call, and the seconds of the calls after it."""

    def __init__(self, name: str, function: Callable[..., Any], repeats: int):
        self._name, self._function, self._repeats = name, jax.jit(function), repeats
        self._compiled, self._times = None, []
        self.compile_seconds = 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._compiled is None:
            start = time.perf_counter()
            try:
                self._compiled = self._function.lower(*args, **options).compile()
            except ValueError as error:
                raise ValueError(f"compare: {self._name}: {error}") from error
            self.compile_seconds = time.perf_counter() - start
            jax.block_until_ready(self._compiled(*args, **options))
        out = None
        for _ in range(self._repeats):
            start = time.perf_counter()
            out = jax.block_until_ready(self._compiled(*args, **options))
            self._times.append(time.perf_counter() - start)
        return out

    @property
    def seconds(self) -> float:
        return statistics.median(self._times)

    @property
    def temporary_bytes(self) -> int | None:
        analysis = None if self._compiled is None else self._compiled.memory_analysis()
        return None if analysis is None else analysis.temp_size_in_bytes


def _expansion(info: Info) -> float | None:
    largest, at_end = info.cotangent_norm, info.cotangent_norm_at_end
    if largest is None or at_end is None:
        return None
    if not (np.isfinite(largest) and np.isfinite(at_end)):
        return math.inf
    return float(largest / at_end) if at_end > 0 else 1.0


def _with_reference(
    methods: Mapping[str, Method | Estimator], reference: Method
) -> tuple[dict[str, Method | Estimator], str]:
    """The methods with the exact one among them, and its name."""
    for name, method in methods.items():
        if type(method) is type(reference) and method == reference:
            return dict(methods), name
    if "exact" in methods:
        raise ValueError(
            'compare: "exact" is the name of the reference, which is not among `methods`: choose '
            "another name"
        )
    return {**methods, "exact": reference}, "exact"


def _plain_training(problem: Problem, num_steps: int) -> Callable[..., Array]:
    """Training and the outer loss after it, without any derivative."""
    training = trained(problem, num_steps=num_steps)

    def outcome(hparams, params, inner_batches, outer_batch, *, model_state=None, key=None):
        final = training(hparams, params, inner_batches, model_state=model_state, key=key)
        return problem.outer(final.params, hparams, outer_batch, final.model_state)

    return outcome


def _alike(runs: Iterable[Run]) -> Iterator[Run]:
    """Passes runs on, ready on their device, and refuses one of other shapes than the first."""
    first = None
    for number, run in enumerate(runs):
        run = jax.block_until_ready(dict(run))
        shapes = jax.tree.map(lambda x: (jnp.shape(x), str(jnp.result_type(x))), run)
        first = shapes if first is None else first
        if shapes != first:
            raise ValueError(
                f"compare: entry {number} of `runs` has other keys, shapes or dtypes than the first"
            )
        yield run


def _report(
    name: str,
    method: Method | Estimator,
    found: list[_Found],
    exact: list[_Found],
    timed: _Timed,
    training: _Timed,
) -> MethodReport:
    """All seeds of one method, reduced."""
    stack = lambda found: jax.tree.map(lambda *x: np.stack(x), *[each.grad for each in found])
    same_seed = _agreements(stack(found), stack(exact))
    other_seeds = _agreement_with_other_seeds(stack(found), stack(exact))
    expansions = [each.expansion for each in found if each.expansion is not None]
    certified = [each.certified for each in found if each.certified is not None]
    profiles = [each.profile for each in found if each.profile is not None]
    return MethodReport(
        name=name,
        method=str(method),
        cosine=Mean.of(same_seed.cosine),
        norm_ratio=Mean.of(same_seed.norm_ratio),
        sign_agreement=Mean.of(same_seed.sign_agreement),
        other_seeds=Mean.of(other_seeds.cosine),
        other_signs=Mean.of(other_seeds.sign_agreement),
        certified=Mean.of(certified) if certified else None,
        finite_share=float(np.mean([each.finite for each in found])),
        expansion=float(np.max(expansions)) if expansions else None,
        # The parts of training that are visited are the same for all seeds.
        cotangent_norms=tuple(np.median(profiles, axis=0).tolist()) if profiles else None,
        seconds=timed.seconds,
        time_ratio=timed.seconds / training.seconds,
        compile_seconds=timed.compile_seconds,
        temporary_bytes=timed.temporary_bytes,
    )
