import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drmad_jax.experiments import config as configs
from drmad_jax.experiments.config import section as schema
from drmad_jax.experiments.config import variants
from drmad_jax.experiments.errors import ConfigError

TAIL = """
[smoke]
inner.num_steps = 4
outer.num_steps = 1

[variants.unit]
task.initial_log_l2 = -3.0
smoke.inner.num_steps = 5

[variants.exact.method]
name = "checkpointed"
every = 2

[variants.none]
outer.num_steps = 0
"""


@pytest.fixture
def path(tiny, tmp_path):
    tiny["method"] = {"name": "truncated", "num_reverse_steps": 3}
    path = tmp_path / "tiny.toml"
    path.write_text(configs.to_toml(configs.parse(tiny)) + TAIL)
    return path


def changed(path, **options):
    """What the options change in the file's own settings."""
    new = configs.load(path, **options)
    return configs.differences(configs.load(path), new)


def test_own_settings_are_the_base(path, tiny):
    tiny["method"] = {"name": "truncated", "num_reverse_steps": 3}
    assert configs.load(path) == configs.load(path, variant="base") == configs.parse(tiny)
    assert configs.variant_names(path) == ["base", "unit", "exact", "none"]


def test_variant_changes_the_rest_and_is_named(path):
    assert changed(path, variant="unit") == [
        "variant: '' -> 'unit'",
        "task.initial_log_l2: -4.4 -> -3.0",
    ]
    assert configs.load(path, variant="unit").label == "tiny/unit"


def test_variant_that_names_a_method_replaces_its_arguments(path):
    assert str(configs.load(path, variant="exact").method) == "checkpointed(every=2)"


def test_order_is_file_variant_smoke_overrides(path):
    assert changed(path, smoke=True) == [
        "name: 'tiny' -> 'tiny-smoke'",
        "inner.num_steps: 20 -> 4",
        "outer.num_steps: 3 -> 1",
    ]
    both = configs.load(path, variant="unit", smoke=True)
    assert both.label == "tiny-smoke/unit" and both.inner.num_steps == 5
    assert configs.load(path, variant="none", smoke=True).outer.num_steps == 1
    overrides = ["inner.num_steps=6", "name=mine"]
    last = configs.load(path, overrides, variant="unit", smoke=True)
    assert last.inner.num_steps == 6 and last.name == "mine"


def test_resolved_config_is_complete_in_itself(path, tmp_path):
    config = configs.load(path, variant="unit", smoke=True)
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(configs.to_toml(config))
    assert configs.load(resolved) == config
    assert configs.variant_names(resolved) == ["base"]
    assert "[smoke" not in resolved.read_text() and "[variants" not in resolved.read_text()


@pytest.mark.parametrize(
    ("tail", "variant", "message"),
    [
        (TAIL, "exct", r"--variant exct: .* no such variant; it has base, unit, exact, none"),
        ("[variants.base]", None, r"variants\.base: this is the name of the file's own settings"),
        ("[variants]\na = 1", None, r"variants\.a: expected a table, got the integer 1"),
        ("[variants.a]\nname = 'x'", "a", r"variants\.a\.name: cannot be changed here"),
        ('[variants.""]', None, r"variants\.: expected a plain folder name, got ''"),
        ('[variants."a\\u001b"]', None, r"variants\.a.*: expected a plain folder name"),
        ("[variants.'a/b']", "a/b", r"variants\.a/b: expected a plain folder name, got 'a/b'"),
        ("[variants.a]\nsede = 1", "a", r"sede: unknown key; did you mean seed\? \(variant a\)"),
        ("[variants.a]\nmethod.name = 'stored'\nmethod.every = 1", "a", r"stored has no such arg"),
        ("[smoke]\nvariants.a.seed = 1", None, r"smoke\.variants: cannot be changed here"),
        ("", None, r"--smoke: the config has no table \[smoke\]"),
    ],
)
def test_wrong_tables_are_named(tiny, tmp_path, tail, variant, message):
    path = tmp_path / "wrong.toml"
    path.write_text(f"{configs.to_toml(configs.parse(tiny))}\n{tail}\n")
    with pytest.raises(ConfigError, match=message):
        configs.load(path, variant=variant, smoke=variant is None)


def test_variants_must_be_a_table():
    with pytest.raises(ConfigError, match=r"expected tables \[variants.NAME\], got the integer 3"):
        variants.named({"variants": 3})


def test_another_kind_replaces_the_section():
    section = {"task": {"kind": "l2", "granularity": "unit"}}
    same = variants.merge(section, {"task": {"kind": "l2", "initial_log_l2": 1.0}})
    assert same["task"] == {"kind": "l2", "granularity": "unit", "initial_log_l2": 1.0}
    other = variants.merge(section, {"task": {"kind": "scales"}})
    assert other["task"] == {"kind": "scales"}


KEYS = st.sampled_from(["a", "b", "c", "name", "kind"])
TABLES = st.recursive(
    st.dictionaries(KEYS, st.integers(0, 3), max_size=3),
    lambda inner: st.dictionaries(KEYS, st.integers(0, 3) | inner, max_size=3),
    max_leaves=8,
)


@given(TABLES, TABLES)
def test_merging(table, changes):
    before = copy.deepcopy((table, changes))
    merged = variants.merge(table, changes)
    assert (table, changes) == before
    assert variants.merge(table, {}) == table and variants.merge({}, changes) == changes
    assert variants.merge(merged, changes) == merged
    flat, told = schema.flatten(merged), schema.flatten(changes)
    assert told.items() <= flat.items()
    assert (flat.items() - told.items()) <= schema.flatten(table).items()
    assert set(merged) == set(table) | set(changes)
