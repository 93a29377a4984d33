"""Whatever stands in a configuration, it can be run or is refused by one sentence."""

import copy
import datetime
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import TINY

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.config.data import KINDS as DATA
from drmad_jax.experiments.config.factories import Method, Optimizer
from drmad_jax.experiments.config.models import KINDS as MODELS
from drmad_jax.experiments.config.task import sections
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.runs.feasible import check_data, check_training
from drmad_jax.experiments.tasks import make_task

# What optax says of its own functions is no error.
pytestmark = pytest.mark.filterwarnings("ignore")
STARTS = [TINY] + [
    {k: v for k, v in tomllib.loads(path.read_text()).items() if k not in ("variants", "smoke")}
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
]
SECTIONS = ["data", "model", "task", "inner", "outer", "judge", "method"]
KINDS = sorted({s.model_fields["kind"].default for s in (*DATA, *MODELS, *sections())})
FUNCTIONS = sorted({*Method.makers(), *Optimizer.choices()})
FIELDS = sorted(
    {name for section in (*DATA, *MODELS, *sections()) for name in section.model_fields}
    | {"num_steps", "batch_size", "optimizer", "num_seeds", "learning_rate", "momentum", "knots"}
    | {"steps", "curvature", "every", "levels", "budget", "solver", "num_pairs", "num_directions"}
)


def of_kind(kind):
    return {"kind": kind}


SIZES = st.sampled_from([0, 1, 2, 3, 7, 20, 60, 10**7, 2**31 - 1, 2**31, 2**32, 2**63, 10**30])
NUMBERS = st.one_of(
    SIZES, SIZES.map(lambda n: -n), st.booleans(), st.floats(), st.sampled_from([1e-300, 0.5])
)
ODD = ["", "\x00", "\x1b[31m", "a/b", "..", "x" * 300, "float16", "object"]
WORDS = st.one_of(st.sampled_from([*KINDS, *FUNCTIONS, *ODD]), st.text(max_size=5))
PLAIN = st.one_of(NUMBERS, WORDS, st.just(datetime.date(2026, 1, 1)))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["name", "kind", *FIELDS]), inner, max_size=3),
    ),
    max_leaves=5,
)
# Where a value goes: into a section, or into what one of its keys calls.
PLACES = st.one_of(
    st.tuples(st.sampled_from([*SECTIONS, "name", "seed", "variant"])),
    st.tuples(st.sampled_from(SECTIONS), st.sampled_from(["name", "kind", *FIELDS])),
    st.tuples(
        st.sampled_from(["inner", "outer", "method"]),
        st.sampled_from(["optimizer", "steps", "solver"]),
        st.sampled_from(["name", *FIELDS]),
    ),
)
CALLS = st.sampled_from(FUNCTIONS).map(lambda name: {"name": name})
RATES = st.sampled_from([1e-30, 0.01, 0.5, 1.0, 30, 1e30, 1e300])
OPTIMIZERS = st.builds(
    lambda name, rate, more: {"name": name, "learning_rate": rate, **more},
    st.sampled_from(sorted(Optimizer.choices())),
    RATES,
    st.sampled_from([{}, {"momentum": 0.9}, {"eps_root": 1e-8}, {"mu_dtype": "float16"}]),
)
METHODS = st.builds(
    lambda name, key, value: {"name": name, **({key: value} if key else {})},
    st.sampled_from(sorted(Method.choices())),
    st.sampled_from(["", "num_reverse_steps", "num_directions", "knots", "every", "levels"]),
    st.sampled_from([1, 2, 3, 20, 21, 10**7, [0, 20], [0, 5, 20]]),
)
# What may well be meant: most of it is let through, and has to fit together.
MEANT = st.one_of(
    st.tuples(st.just(("inner", "num_steps")), SIZES),
    st.tuples(st.just(("inner", "batch_size")), SIZES),
    st.tuples(st.sampled_from([("inner", "optimizer"), ("outer", "optimizer")]), OPTIMIZERS),
    st.tuples(st.just(("method",)), METHODS),
    st.tuples(st.just(("model", "hidden")), st.lists(SIZES, max_size=3)),
    st.tuples(st.sampled_from([("model",), ("task",)]), st.sampled_from(KINDS).map(of_kind)),
    st.tuples(st.sampled_from([("data", "num_valid"), ("data", "num_test")]), SIZES),
    st.tuples(st.just(("task", "granularity")), st.sampled_from(["parameter", "layer", "global"])),
    st.tuples(st.just(("outer", "num_steps")), SIZES),
)
ANY = st.tuples(PLACES, st.one_of(VALUES, CALLS, st.none()))
CHANGES = st.one_of(
    st.lists(MEANT, min_size=1, max_size=4), st.lists(st.one_of(ANY, MEANT), min_size=1, max_size=3)
)


def changed(start, changes):
    table = copy.deepcopy(start)
    for (*parents, last), value in changes:
        here = table
        for parent in parents:
            if not isinstance(here.get(parent), dict):
                here[parent] = {}
            here = here[parent]
        if value is None:
            here.pop(last, None)
        else:
            here[last] = value
    return table


def check(start, changes):
    """Returns the task of a table that is a configuration."""
    try:
        config = configs.parse(changed(start, changes))
        task = make_task(config)
        check_data(config)
    except ConfigError as error:
        assert str(error) and len(str(error)) < 2000
        return None
    assert configs.parse(tomllib.loads(configs.to_toml(config))) == config
    return config, task


def fuzz(count):
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@fuzz(200)
@given(start=st.sampled_from(STARTS), changes=CHANGES)
@example(start=TINY, changes=[(("method",), {"name": "checkpointed", "every": []})])
@example(start=TINY, changes=[(("model", "hidden"), [10**12])])
@example(start=TINY, changes=[(("name",), "a\x00b")])
def test_a_configuration_is_whole_or_refused(start, changes):
    check(start, changes)


@pytest.mark.slow
@fuzz(1000)
@given(changes=CHANGES)
def test_a_configuration_can_be_traced_or_is_refused(changes):
    made = check(TINY, changes)
    if made is None or getattr(made[0].data, "dataset", None) != "digits":
        return
    config, task = made
    try:
        check_training(config, task, task.load_data())
    except ConfigError as error:
        assert str(error).startswith("this configuration cannot be run: ")
