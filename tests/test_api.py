"""The public surface: names, docstrings, and the README's own code."""

import inspect
import re
from pathlib import Path

import jax
import pytest

import drmad_jax as dj

ROOT = Path(__file__).parents[1]
NAMES = (ROOT / "tests" / "public_names.txt").read_text().split()
METHODS = [
    name
    for name in dj.__all__
    if inspect.isfunction(getattr(dj, name))
    and {"backward", "estimate"} & set(dir(inspect.signature(getattr(dj, name)).return_annotation))
]


def test_public_names_are_the_recorded_ones():
    assert sorted(dj.__all__) == NAMES


def test_every_method_factory_is_keyword_only_and_states_cost_and_bias():
    assert {"unrolled", "stored", "checkpointed", "drmad", "truncated", "implicit"} <= set(METHODS)
    assert {"forward", "evolution_strategies"} <= set(METHODS)
    for name in METHODS:
        factory = getattr(dj, name)
        kinds = {p.kind for p in inspect.signature(factory).parameters.values()}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY}, name
        for section in ("Cost:", "Bias:"):
            assert section in inspect.getdoc(factory), name


@pytest.mark.parametrize("name", [n for n in NAMES if inspect.isfunction(getattr(dj, n, None))])
def test_every_public_function_documents_its_arguments_and_has_an_example(name):
    function = getattr(dj, name)
    doc = inspect.getdoc(function)
    parameters = list(inspect.signature(function).parameters)
    assert ">>>" in doc
    for parameter in parameters:
        assert re.search(rf"^\s+{parameter}: ", doc, re.M), f"{name}: `{parameter}` undocumented"


def test_the_core_does_not_import_the_optional_part():
    core = [p for p in (ROOT / "src/drmad_jax").rglob("*.py") if "experiments" not in p.parts]
    for path in core:
        for module in ("flax", "matplotlib", "tensorflow", "sklearn", "orbax", "experiments"):
            assert not re.search(rf"^\s*(from|import) \S*{module}", path.read_text(), re.M), path


def test_readme_code_runs_as_printed():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    promotions = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    names = {}
    with promotions[0], promotions[1]:
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
