"""Every optimizer and wrapper that optax exports: segments are near the exact way back, or it is.

The list is taken from the module, so that what a later optax adds is missed by name.
"""

import contextlib
import functools
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import drmad_jax as dj
import problems

NUM_STEPS, NUM_EXAMPLES, BATCH_SIZE = 80, 12, 4
# As many as a Python loop is compiled with.
FEW = 5
RATE = 0.02
# Of the largest relative error of segments at so few steps.
TOLERANCE = 0.5

sgd, descend = optax.sgd(RATE, momentum=0.9), optax.scale(-RATE)
before = lambda *parts: optax.chain(*parts, optax.sgd(RATE))
after = lambda *parts: optax.chain(*parts, descend)
first_leaf = lambda params: {"w": True, "b": False}
both = {"fast": optax.sgd(RATE), "slow": optax.adam(RATE / 4, eps_root=1e-8)}
root = {"eps_root": 1e-8}

# By name, where a learning rate alone does not make one, or not one that trains.
MADE = {
    "adadelta": lambda: optax.adadelta(1.0, eps=1e-3),
    "adagrad": lambda: optax.adagrad(RATE, eps=1e-4),
    "adam": lambda: optax.adam(RATE, **root),
    "adamw": lambda: optax.adamw(RATE, **root),
    "nadam": lambda: optax.nadam(RATE, **root),
    "nadamw": lambda: optax.nadamw(RATE, **root),
    "amsgrad": lambda: optax.amsgrad(RATE, **root),
    "adabelief": lambda: optax.adabelief(RATE, eps_root=1e-4),
    "rmsprop": lambda: optax.rmsprop(RATE / 2, eps=1e-4),
    "lamb": lambda: optax.lamb(RATE, **root),
    "novograd": lambda: optax.novograd(RATE / 4, **root),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE, eta=1e-4, key=0),
    "sm3": lambda: optax.sm3(RATE, 0.5),
    "adaptive_grad_clip": lambda: before(optax.adaptive_grad_clip(0.5)),
    "add_decayed_weights": lambda: before(optax.add_decayed_weights(0.1)),
    "add_noise": lambda: before(optax.add_noise(1e-4, 0.5, key=0)),
    "apply_every": lambda: after(optax.apply_every(4)),
    "apply_if_finite": lambda: optax.apply_if_finite(sgd, 3),
    "centralize": lambda: before(optax.centralize()),
    "chain": lambda: optax.chain(sgd),
    "named_chain": lambda: optax.named_chain(("sgd", sgd)),
    "clip": lambda: before(optax.clip(0.3)),
    "clip_by_block_rms": lambda: before(optax.clip_by_block_rms(0.3)),
    "clip_by_global_norm": lambda: before(optax.clip_by_global_norm(0.5)),
    "conditionally_mask": lambda: optax.conditionally_mask(sgd, lambda step: step % 3 == 0),
    "conditionally_transform": lambda: optax.conditionally_transform(
        optax.scale(-1.0), lambda step: step >= 0
    ),
    "ema": lambda: before(optax.ema(0.9)),
    "flatten": lambda: optax.flatten(sgd),
    "freeze": lambda: before(optax.freeze({"w": False, "b": True})),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(RATE, **root),
    "keep_params_nonnegative": lambda: optax.chain(sgd, optax.keep_params_nonnegative()),
    "masked": lambda: before(optax.masked(optax.clip(0.3), first_leaf)),
    "multi_transform": lambda: optax.multi_transform(both, {"w": "slow", "b": "fast"}),
    "partition": lambda: optax.partition(both, {"w": "slow", "b": "fast"}),
    "normalize_by_update_norm": lambda: after(optax.normalize_by_update_norm()),
    "polyak_sgd": lambda: optax.polyak_sgd(0.1),
    "rprop": lambda: optax.rprop(1e-3),
    "scale_by_distance_over_gradients": lambda: optax.chain(
        optax.scale_by_distance_over_gradients(), optax.scale(-1.0)
    ),
    "scale_by_param_block_norm": lambda: after(optax.scale_by_param_block_norm()),
    "scale_by_param_block_rms": lambda: after(optax.scale_by_param_block_rms()),
    "scale_by_schedule": lambda: optax.chain(
        optax.scale_by_schedule(optax.cosine_decay_schedule(RATE, NUM_STEPS)), optax.scale(-1.0)
    ),
    "scale_by_stddev": lambda: after(optax.scale_by_stddev(eps=1e-2)),
    "scale_by_trust_ratio": lambda: after(optax.scale_by_trust_ratio()),
    "selective_transform": lambda: optax.selective_transform(
        optax.sgd(RATE), freeze_mask={"w": False, "b": True}
    ),
    "sign_sgd": lambda: optax.sign_sgd(RATE / 4),
    "signum": lambda: optax.signum(RATE / 4),
    "lion": lambda: optax.lion(RATE / 4),
    "with_extra_args_support": lambda: optax.with_extra_args_support(sgd),
    "zero_nans": lambda: before(optax.zero_nans()),
    "snapshot": lambda: before(optax.snapshot("norm", optax.tree.norm)),
    "stateless": lambda: before(optax.stateless(lambda grads, params: grads)),
    "stateless_with_tree_map": lambda: before(
        optax.stateless_with_tree_map(lambda grad, param: 0.5 * grad)
    ),
    "acprop": lambda: optax.contrib.acprop(RATE, eps=1e-4),
    "ademamix": lambda: optax.contrib.ademamix(RATE, alpha=1.0, **root),
    "simplified_ademamix": lambda: optax.contrib.simplified_ademamix(RATE, **root),
    "adopt": lambda: optax.contrib.adopt(RATE, eps=1e-3),
    "cocob": lambda: optax.contrib.cocob(),
    "dadapt_adamw": lambda: optax.contrib.dadapt_adamw(),
    "dog": lambda: optax.contrib.dog(),
    "dowg": lambda: optax.contrib.dowg(),
    "galore": lambda: optax.contrib.galore(RATE, rank=1),
    "madgrad": lambda: optax.contrib.madgrad(RATE, eps=1e-4),
    "mechanize": lambda: optax.contrib.mechanize(sgd),
    "momo": lambda: optax.contrib.momo(RATE),
    "momo_adam": lambda: optax.contrib.momo_adam(RATE),
    "normalize": lambda: before(optax.contrib.normalize()),
    "prodigy": lambda: optax.contrib.prodigy(),
    "reduce_on_plateau": lambda: before(optax.contrib.reduce_on_plateau()),
    "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(RATE), RATE),
    "schedule_free_adamw": lambda: optax.contrib.schedule_free_adamw(RATE, eps=1e-4),
    "schedule_free_sgd": lambda: optax.contrib.schedule_free_sgd(RATE),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(sgd),
    "sam": lambda: optax.contrib.sam(sgd, optax.sgd(RATE / 4)),
    "lbfgs": lambda: optax.lbfgs(RATE, linesearch=None),
    "MultiSteps": lambda: optax.MultiSteps(sgd, 3).gradient_transformation(),
}
# Nothing to go back through, or nothing but a part of one of the above.
LEFT_OUT = {
    "identity": "moves weights against their gradients only by chance",
    "set_to_zero": "moves nothing",
    "scale": "a part of all",
    "trace": "a part of sgd",
    "inject_stateful_hyperparams": "deprecated",
    "scale_by_learning_rate": "a part of all",
    "differentially_private_aggregate": "takes gradients of single examples",
    "dpsgd": "takes gradients of single examples",
    "scale_by_lbfgs": "a part of lbfgs",
    "scale_by_backtracking_linesearch": "asks for the loss as a function",
    "scale_by_zoom_linesearch": "asks for the loss as a function",
    "sophia": "asks for the loss as a function",
    "lookahead": "takes gradients of half of its weights",
    "measure_with_ema": "measures, and moves nothing",
}


def names():
    """What the modules export that moves weights."""
    for module in (optax, optax.contrib):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith("_"):
                signature = inspect.signature(value)
                kind = str(signature.return_annotation)
                if "GradientTransformation" in kind or "learning_rate" in signature.parameters:
                    yield name


def made(name):
    """An optimizer by its name."""
    if name in MADE:
        return MADE[name]()
    module = optax if hasattr(optax, name) else optax.contrib
    return getattr(module, name)(RATE)


def part_of(name):
    """Whether it is half of another."""
    return (
        name.startswith("scale_by_")
        and name not in MADE
        and (
            name.removeprefix("scale_by_") in ALL
            or name
            in (
                "scale_by_belief",
                "scale_by_rms",
                "scale_by_rss",
                "scale_by_sign",
                "scale_by_polyak",
                "scale_by_optimistic_gradient",
            )
        )
    )


# The exact way back is NaN where a processor's rounding has it so: dog's and lbfgs' not on all.
NO_DERIVATIVE = {"dog", "lbfgs", "mechanize", "radam"}
# Forward mode is.
NO_TANGENT = {"adopt", "dadapt_adamw", "dog", "mechanize"}
# Above 1e-9: galore's singular vectors are those of nearly equal singular values, and gradients
# are summed up in float32.
ROUGH = {"galore": 1e-5, "MultiSteps": 1e-6}
ALL = set(names())
TRIED = sorted(
    {*(name for name in ALL if name not in LEFT_OUT and not part_of(name)), "MultiSteps"}
)


@contextlib.contextmanager
def lenient():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def loss(w, h, batch):
    x, y, i = batch
    outputs = jnp.tanh(x @ w["w"] + w["b"])
    errors = jnp.mean((outputs - y) ** 2, axis=1)
    penalty = jnp.sum(jnp.exp(h["log_l2"])[:, None] * w["w"] ** 2)
    return jnp.mean(jnp.exp(h["log_weight"][i]) * errors) + penalty


@functools.cache
def given():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(NUM_EXAMPLES, 3)), rng.normal(size=(NUM_EXAMPLES, 2))
    rows = np.concatenate([rng.permutation(NUM_EXAMPLES) for _ in range(NUM_STEPS)])
    rows = rows[: NUM_STEPS * BATCH_SIZE].reshape(NUM_STEPS, BATCH_SIZE)
    params = {"w": 0.5 + 0.3 * rng.normal(size=(3, 2)), "b": np.array([0.3, 0.2])}
    h = {"log_l2": np.full(3, -3.0), "log_weight": np.zeros(NUM_EXAMPLES)}
    outer = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    return jax.tree.map(jnp.asarray, (h, params, (x[rows], y[rows], rows), outer))


def outer_loss(w, h, batch):
    return jnp.mean((jnp.tanh(batch[0] @ w["w"] + w["b"]) - batch[1]) ** 2)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:this optimizer has no finite derivative"
)
@pytest.mark.parametrize("name", TRIED)
def test_segments_are_near_the_exact_way_back_or_it_is(name):
    problem = dj.Problem(loss, outer_loss, made(name))

    def call(method):
        compute = jax.jit(dj.hypergradient(problem, num_steps=NUM_STEPS, method=method))
        with lenient():
            return compute(*given())

    segments = dj.segments(4, num_products=5, num_batches=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call(dj.drmad(steps=segments, exact_end=16, serves="this_run"))
    fell_back = any("taken back exactly" in str(warning.message) for warning in caught)
    exact = call(dj.checkpointed())
    if not exact.info.finite:
        assert name in NO_DERIVATIVE and not (fell_back and found.info.finite)
        return
    if not np.any(problems.flat(exact.grad)):
        # Signs of gradients do not answer to them.
        assert not np.any(problems.flat(found.grad))
        return
    error = problems.relative_error(found.grad, exact.grad)
    assert error < (1e-6 if fell_back else TOLERANCE), f"{error}, exact: {fell_back}"


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:this optimizer has no finite derivative"
)
@pytest.mark.parametrize("name", TRIED)
def test_exact_methods_are_those_of_a_loop(name):
    """Alone, and in a vmap over hyperparameters."""
    optimizer, (h, params, few, judged) = made(name), given_few()
    both = jax.tree.map(lambda x: jnp.stack([x, x + 0.3]), h)

    def by_hand(h):
        w, state = params, optimizer.init(params)
        update = optax.with_extra_args_support(optimizer).update
        for batch in zip(*few, strict=True):
            value, grads = jax.value_and_grad(loss)(w, h, batch)
            extra = {} if name == "sam" else {"value": value, "grad": grads}
            updates, state = update(grads, state, w, **extra)
            w = optax.apply_updates(w, updates)
        return outer_loss(w, h, judged)

    problem = dj.Problem(loss, outer_loss, optimizer)
    with lenient():
        wanted = jax.vmap(jax.value_and_grad(by_hand))(both)
        first = jax.tree.map(lambda x: x[0], wanted)
        for method, start, (value, grad) in (
            (dj.stored(), h, first), (dj.stored(), both, wanted), (dj.forward(), h, first),
        ):  # fmt: skip
            compute = dj.hypergradient(problem, num_steps=FEW, method=method)
            if start is both:
                compute = jax.vmap(compute, (0, None, None, None))
            found = jax.jit(compute)(start, params, few, judged)
            np.testing.assert_allclose(found.value, value, 1e-10)
            if method == dj.forward() and name in NO_TANGENT:
                assert not np.any(found.info.finite), method
            elif np.all(np.isfinite(problems.flat(grad))):
                error = problems.flat(found.grad) - problems.flat(grad)
                tolerance = ROUGH.get(name, 1e-9) * np.linalg.norm(problems.flat(grad))
                assert np.linalg.norm(error) <= tolerance, method
            elif method != dj.forward():
                assert not np.all(found.info.finite), method


def given_few():
    h, params, batches, judged = given()
    return h, params, jax.tree.map(lambda x: x[:FEW], batches), judged


@pytest.mark.parametrize("adapted", [False, True])
def test_lookahead_trains_its_fast_weights(adapted):
    """As optax has it, or made to take the gradients of both halves."""
    (h, params, few, judged), optimizer = given_few(), optax.lookahead(sgd, 2, 0.5)
    pair = optax.LookaheadParams.init_synced(params)

    def by_hand(h):
        w, state = pair, optimizer.init(pair)
        for batch in zip(*few, strict=True):
            grads = jax.grad(loss)(w.fast, h, batch)
            updates, state = optimizer.update(grads, state, w)
            w = optax.apply_updates(w, updates)
        return outer_loss(w.slow, h, judged)

    of_fast = lambda w, h, batch: loss(w.fast, h, batch)
    of_slow = lambda w, h, batch: outer_loss(w.slow, h, batch)
    of_both = lambda grads, state, w: optimizer.update(grads.fast, state, w)
    given = optax.GradientTransformation(optimizer.init, of_both) if adapted else optimizer
    problem = dj.Problem(of_fast, of_slow, given)
    with lenient():
        wanted = jax.grad(by_hand)(h)
        for method in (dj.checkpointed(), dj.forward()):
            compute = jax.jit(dj.hypergradient(problem, num_steps=FEW, method=method))
            found = compute(h, pair, few, judged).grad
            assert problems.relative_error(found, wanted) < 1e-10


REFUSED = {
    "value_fn.*linesearch=None": lambda: optax.lbfgs(),
    "value_fn.*learning rate": lambda: before(optax.scale_by_backtracking_linesearch(5)),
    "obj_fn": lambda: optax.contrib.sophia(RATE),
    "grad_fn.*opaque_mode=False": lambda: optax.contrib.sam(sgd, sgd, opaque_mode=True),
    "init_synced": lambda: optax.lookahead(sgd, 2, 0.5),
}


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:this optimizer has no finite derivative"
)
@pytest.mark.parametrize("said", REFUSED)
def test_what_asks_for_more_than_a_gradient_is_refused_by_name(said):
    h, params, batches, judged = given()
    problem = dj.Problem(loss, outer_loss, REFUSED[said]())
    with pytest.raises((TypeError, ValueError), match=said), lenient():
        dj.hypergradient(problem, num_steps=NUM_STEPS)(h, params, batches, judged)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:this optimizer has no finite derivative"
)
def test_an_update_of_another_shape_is_not_broadcast():
    """Differentially private ones average over what they take for examples: here the weights."""
    squares = lambda w, h, batch: h * jnp.sum((w - 1.0) ** 2)
    optimizer = optax.contrib.dpsgd(RATE, 1.0, 0.1, seed=0)
    with pytest.raises(ValueError, match="gradient of each example"), lenient():
        compute = dj.hypergradient(dj.Problem(squares, squares, optimizer), num_steps=3)
        compute(jnp.asarray(0.5), jnp.zeros(3), jnp.zeros(3), None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_optax_exports_is_known():
    unknown = []
    for name in TRIED:
        try:
            made(name)
        except TypeError:
            unknown.append(name)
    assert not unknown and LEFT_OUT.keys() <= ALL
