"""Runs methods beside the exact one on the same seeds: how near, how fast, how large."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from drmad_jax._checks.arguments import check_count, check_inexact, check_number
from drmad_jax.diagnostics.agreement import agreement, agreement_with_other_seeds
from drmad_jax.diagnostics.metasmoothness import Metasmoothness, moved, outcome, smoothness
from drmad_jax.diagnostics.programs import Program
from drmad_jax.diagnostics.report import Comparison, Mean, MethodReport
from drmad_jax.hypergradient import Hypergradient, hypergradient
from drmad_jax.hypergradient import certify as make_certify
from drmad_jax.methods.exact import checkpointed
from drmad_jax.problem import Problem
from drmad_jax.protocol import Certificate, Estimator, Info, Method

Run = Mapping[str, Any]
_agreements, _agreement_with_other_seeds, _moved, _three = map(
    jax.jit, (jax.vmap(agreement), agreement_with_other_seeds, moved, smoothness)
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
    progress: Callable[[str], Any] | None = None,
) -> Callable[[PyTree, Iterable[Run]], Comparison]:
    """Compares methods with the exact one on a problem of one's own.

    A host-side function: it compiles all methods, runs them on one seed after the other, and
    measures seconds. Memory is that of one run at a time. On small
    problems nearly all of its time is compilation, which `jax_compilation_cache_dir` keeps for the
    next time.

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
        progress: Gets a line for each method once it is compiled and once it has run, and for each
            seed: `print`, say. `None` for silence.

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
    if certify is not None:
        check_count("compare", "certify", certify)
    told = (lambda line: None) if progress is None else progress
    methods, exact = _with_reference(methods, checkpointed() if reference is None else reference)

    def call(hparams: PyTree, runs: Iterable[Run]) -> Comparison:
        hparams = check_inexact("hparams", hparams)
        training = Program("training", outcome(problem, num_steps=num_steps), repeats)
        functions = {
            name: Program(name, hypergradient(problem, num_steps=num_steps, method=method), repeats)
            for name, method in methods.items()
        }
        worth = _certifier(problem, num_steps, certify)
        found, smooth = {name: [] for name in methods}, []
        compile_seconds = 0.0
        for seed, run in enumerate(_alike(runs)):
            if seed == 0:
                programs = [(each, (hparams,)) for each in (*functions.values(), training)]
                programs += [] if worth is None else [(worth, (hparams, hparams))]
                compile_seconds = _compile(programs, run, told)
            before = training(hparams, **run)
            for name, function in functions.items():
                out = function(hparams, **run)
                certificate = None if worth is None else worth(out.grad, hparams, **run)
                found[name].append(_Found.of(out, certificate))
                if seed == 0:
                    told(f"{name}: {function.seconds:.3g} s a run")
            downhill = jax.tree.map(lambda g: -np.sign(g), found[exact][-1].grad)
            smooth.append(_smoothness(training, before, hparams, downhill, run, step_size))
            told(f"seed {seed} done")
        num_seeds = len(smooth)
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
            compile_seconds=compile_seconds,
            step_size=step_size,
            metasmoothness=Mean.of([each.agreement for each in smooth]),
            outer_agreement=Mean.of([each.outer_agreement for each in smooth]),
        )

    return call


def _compile(
    programs: Iterable[tuple[Program, tuple[PyTree, ...]]],
    run: Run,
    told: Callable[[str], Any],
) -> float:
    """One after the other: two at a time were no faster on two (busy) cores, and took more work."""
    total = 0.0
    for program, args in programs:
        program.compile(*args, **run)
        total += program.compile_seconds
        told(f"{program.name}: compiled in {program.compile_seconds:.1f} s")
    return total


def _smoothness(
    training: Program,
    before: tuple[Array, Array],
    hparams: PyTree,
    direction: PyTree,
    run: Run,
    step_size: float,
) -> Metasmoothness:
    """By the program that is there, two runs more."""
    outcomes = [before]
    for count in (1, 2):
        outcomes.append(training.untimed(_moved(hparams, direction, count, step_size), **run))
    weights, values = (jnp.stack(x) for x in zip(*outcomes, strict=True))
    return jax.device_get(_three(weights, values, step_size))


def _certifier(problem: Problem, num_steps: int, num_directions: int | None) -> Program | None:
    """What makes certificates of estimates, where they are wanted."""
    if num_directions is None:
        return None
    certify = make_certify(problem, num_steps=num_steps, num_directions=num_directions)
    return Program("certificate", certify)


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
    timed: Program,
    training: Program,
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
