import functools

import pytest
from tiny import TINY

import drmad_jax as dj
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.errors import ConfigError

REMOVE = "remove this key"

WRONG = [
    # dotted key, value, what the message must say
    ("data.num_trian", 5, r"data\.num_trian: unknown key; did you mean data\.num_train\?"),
    ("sead", 1, r"sead: unknown key; did you mean seed\?"),
    ("outer.nonsense", 1, r"outer\.nonsense: unknown key; expected one of num_steps, optimizer"),
    ("data.num_train", REMOVE, r"data\.num_train: missing"),
    ("inner", REMOVE, r"inner: missing"),
    ("data", 3, r"data: expected a table, got the integer 3"),
    ("data.num_train", "60", r"data\.num_train: expected an integer, got the string '60'"),
    ("data.num_train", 60.0, r"data\.num_train: expected an integer, got the number 60\.0"),
    ("inner.num_steps", True, r"inner\.num_steps: expected an integer, got true"),
    ("inner.num_steps", 0, r"inner\.num_steps: expected a value above 0, got 0"),
    ("seed", -1, r"seed: expected at least 0, got -1"),
    ("outer.num_steps", -1, r"outer\.num_steps: expected at least 0, got -1"),
    ("judge.num_seeds", -1, r"judge\.num_seeds: expected at least 0, got -1"),
    ("judge.seeds", 4, r"judge\.seeds: unknown key; did you mean judge\.num_seeds\?"),
    ("model.hidden", [50, "a"], r"model\.hidden\[1\]: expected an integer, got the string 'a'"),
    ("model.hidden", 50, r"model\.hidden: expected a list \(of an integer\), got the integer 50"),
    ("model.init_log_scale", "xavier", r"model\.init_log_scale: expected a finite number or"),
    ("model.init_log_scale", float("inf"), r"model\.init_log_scale: expected a finite number"),
    ("model.activation", "tahn", r"model\.activation: .* did you mean 'tanh'\?"),
    ("data.dataset", "a/b/c", r"data\.dataset: expected the name of a data set, .* by data\.file"),
    ("data.dataset", REMOVE, r"data\.dataset: missing; set data\.dataset, or data\.file"),
    ("data.file", "x.npz", r"data\.file: expected one of dataset, file, folder, got"),
    (
        "data.image_size",
        9,
        r"data\.image_size: belongs to data\.folder or data\.dataset, and has no",
    ),
    ("data.grey", True, r"data\.grey: belongs to data\.folder, and has no meaning"),
    ("task.kind", "l3", r"task\.kind: expected one of 'l2', .*, got the string 'l3'"),
    ("inner.optimizer.name", "agd", r"inner\.optimizer\.name: unknown name 'agd'; did you mean"),
    ("inner.optimizer.name", "lbfgs", r"inner\.optimizer\.name: unknown name 'lbfgs'"),
    ("inner.optimizer.name", REMOVE, r"inner\.optimizer\.name: missing"),
    (
        "inner.optimizer.momentun",
        0.9,
        r"inner\.optimizer\.momentun: sgd has no such argument; "
        r"did you mean inner\.optimizer\.momentum\?",
    ),
    ("inner.optimizer.learning_rate", REMOVE, r"inner\.optimizer\.learning_rate: missing"),
    (
        "inner.optimizer.learning_rate",
        "fast",
        r"inner\.optimizer\.learning_rate: expected a finite number, got the string 'fast'",
    ),
    ("inner.optimizer.nesterov", 1, r"inner\.optimizer\.nesterov: expected true or false"),
    ("method", {"name": "drmat"}, r"method\.name: unknown name 'drmat'; did you mean drmad\?"),
    ("method", {"name": "drmad", "knot": 3}, r"method\.knot: drmad has no such argument"),
    ("method", {"name": "drmad", "knots": 1}, r"method: .*`knots` must be at least 2, got 1"),
    ("method", {"name": "drmad", "knots": 1.5}, r"method\.knots: expected an integer or a list"),
    ("method", {"name": "truncated"}, r"method\.num_reverse_steps: missing"),
    (
        "method",
        {"name": "drmad", "steps": {"name": "measured_step", "cap": 5}},
        r"method\.steps\.name: unknown name .* did you mean measured_steps\?",
    ),
    (
        "method",
        {"name": "drmad", "steps": {"name": "measured_steps", "cap": 0}},
        r"method\.steps: .*`cap` must be",
    ),
    ("method", {"name": "drmad", "steps": {"cap": 5}}, r"method\.steps\.name: missing"),
    ("method", {"name": "drmad", "steps": 5}, r"method: .*`steps` must be a value such as"),
    ("method", {"name": "drmad", "knots": {"cap": 5}}, r"expected an integer or a list"),
    ("data.num_train", 1298, r"data\.num_train: digits has 1297 such examples, got 1298"),
    ("data.num_test", 501, r"data\.num_test: digits has 500 such examples, got 501"),
    ("data.num_valid", 60, r"data\.num_valid: must leave training examples"),
    ("inner.batch_size", 31, r"inner\.batch_size: must not exceed the 30 training examples"),
    ("name", "a/b", r"name: expected a plain folder name, got 'a/b'"),
    ("name", "a\x00b", r"name: expected a plain folder name, got 'a\\x00b'"),
    ("name", "\x1b[31m", r"name: expected a plain folder name"),
    ("name", "a\nb", r"name: expected a plain folder name"),
    ("name", ".hidden", r"name: expected a plain folder name"),
    ("name", "", r"name: expected a plain folder name"),
    ("name", "a" * 101, r"name: expected a name of up to 100 bytes"),
    ("seed", 2**32, r"seed: expected a value below 4294967296, got 4294967296"),
    ("seed", int("9" * 4000), r"seed: expected a value below 4294967296, got 9{80}…"),
    ("inner.num_steps", 10**8, r"inner\.num_steps: expected at most 10000000, got 100000000"),
    ("outer.num_steps", 2**31, r"outer\.num_steps: expected a value below 2147483648"),
    ("model.hidden", [10**12], r"model\.hidden\[0\]: expected a value below 2147483648"),
    ("model.hidden", [5] * 101, r"model\.hidden: .*at most 100 items"),
    ("model.hidden", [5] * 10_001, r"model\.hidden: .*at most 10,000 items, got 10,001"),
    ("model.init_log_scale", 1e40, r"model\.init_log_scale: expected at most 700"),
    ("task", {"kind": "l2", "initial_log_l2": 1e40}, r"task\.initial_log_l2: expected at most 700"),
    ("method", {"name": "checkpointed", "every": []}, r"method: .*every"),
    (
        "method",
        {"name": "forward_gradient", "num_directions": 10**9},
        r"method\.num_directions: expected at most 10,000,000, got 1000000000",
    ),
    ("method", {"name": "drmad", "curvature": "\x00"}, r"method\.curvature: expected letters that"),
]


@pytest.mark.parametrize("text", ["a = " + "[" * 5000 + "]" * 5000, "seed = " + "9" * 5000])
def test_deep_and_long_values_are_config_errors(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot read the config .*(nested too deeply|digits)"):
        configs.load(path)
    with pytest.raises(ConfigError):
        configs.parse(TINY | {"seed": functools.reduce(lambda x, _: [x], range(5000), [])})


LONG = {
    "word": "x" * 10_000,
    "number": 10**10_000,
    "table": {"x" * 10_000: 1},
    "list": [1] * 10_000,
}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_what_came_is_shortened(tiny, value):
    with pytest.raises(ConfigError) as caught:
        configs.parse(tiny | {"seed": value})
    assert len(str(caught.value)) < 200


def change(table, key, value):
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
    if value is REMOVE:
        del table[last]
    else:
        table[last] = value


@pytest.mark.parametrize(("key", "value", "message"), WRONG, ids=lambda x: str(x)[:40])
def test_wrong_values_are_named(tiny, key, value, message):
    change(tiny, key, value)
    with pytest.raises(ConfigError, match=message):
        configs.parse(tiny)


def test_defaults_are_filled_in(tiny):
    config = configs.parse(tiny)
    assert config.task.granularity == "unit"
    assert config.model.hidden == (6,)
    assert config.method.name == "drmad"


@pytest.mark.parametrize(
    "method",
    [
        {"name": "drmad"},
        {"name": "drmad", "knots": [0, 5, 20], "curvature": "hessian"},
        {"name": "checkpointed", "every": 5},
        {"name": "drmad", "steps": {"name": "measured_steps", "cap": 5}},
    ],
)
def test_resolved_config_round_trips(tiny, tmp_path, method):
    config = configs.parse(tiny | {"method": method})
    path = tmp_path / "config.toml"
    path.write_text(configs.to_toml(config))
    assert configs.load(path) == config


OVERRIDES = [
    ("seed=7", lambda c: c.seed, 7),
    (
        "inner.optimizer.learning_rate=.02",
        lambda c: c.inner.optimizer.options["learning_rate"],
        0.02,
    ),
    ("inner.optimizer.nesterov=true", lambda c: c.inner.optimizer.options["nesterov"], True),
    ("model.activation=relu", lambda c: c.model.activation, "relu"),
    ('model.activation="relu"', lambda c: c.model.activation, "relu"),
    ("model.hidden=[3, 4]", lambda c: c.model.hidden, (3, 4)),
    ("task.granularity=layer", lambda c: c.task.granularity, "layer"),
    ('method={name = "stored"}', lambda c: str(c.method), "stored()"),
    ("name=a=b", lambda c: c.name, "a=b"),
]


@pytest.mark.parametrize(("override", "read", "value"), OVERRIDES, ids=[o[0] for o in OVERRIDES])
def test_overrides(tiny, tmp_path, override, read, value):
    path = tmp_path / "config.toml"
    path.write_text(configs.to_toml(configs.parse(tiny)))
    assert read(configs.load(path, [override])) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: expected a.b=value"),
        ("seed.x=1", "--set seed.x=1: seed is not a table"),
        ("inner.nun_steps=1", r"inner\.nun_steps: unknown key; did you mean inner\.num_steps\?"),
        ("seed=a\nb=2", r"seed: expected an integer, got the string"),
    ],
)
def test_wrong_overrides_are_named(tiny, tmp_path, override, message):
    path = tmp_path / "config.toml"
    path.write_text(configs.to_toml(configs.parse(tiny)))
    with pytest.raises(ConfigError, match=message):
        configs.load(path, [override])


@pytest.mark.parametrize("text", [None, "a = ", "\xff"])
def test_unreadable_file_is_a_config_error(tmp_path, text):
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot read the config"):
        configs.load(path)


def test_an_argument_may_be_a_call(tiny):
    measured = {"name": "measured_steps", "cap": 5}
    method = configs.parse(tiny | {"method": {"name": "drmad", "steps": measured}}).method
    assert str(method) == "drmad(steps=measured_steps(cap=5))"
    assert method.build() == dj.drmad(steps=dj.measured_steps(cap=5))


def test_differences_name_both_values(tiny):
    old = configs.parse(tiny)
    change(tiny, "outer.num_steps", 9)
    change(tiny, "method", {"name": "drmad", "knots": 4})
    assert configs.differences(old, configs.parse(tiny)) == [
        "outer.num_steps: 3 -> 9",
        "method.knots: 'unset' -> 4",
    ]


def test_kind_left_out_means_the_first_kind():
    config = configs.parse(TINY)
    assert "kind" not in TINY["data"]
    assert (config.data.kind, config.model.kind, config.task.kind) == ("images", "mlp", "l2")
