"""The line-ups name methods that can be made, and the benchmarks are where their commands say."""

import importlib.util

import pytest

pytest.importorskip("benchmarks", reason="needs the repository's root on the path")

from benchmarks import lineup, render
from benchmarks.cost.__main__ import GRID
from benchmarks.peers import ours
from benchmarks.programs import METHODS

import drmad_jax as dj

NAMES = {
    *lineup.COST, *lineup.FURTHER, *lineup.STUDY, *lineup.LEARNING_RATES, *lineup.PATHS,
    *lineup.TUNERS, *lineup.OF_STEPS, *lineup.ROUGH, *METHODS, *ours._METHODS.values(),
    *(name for cell in GRID for name in cell.labels),
} - {lineup.PLAIN, lineup.LIBRARY, lineup.BY_DISTANCE}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("num_steps", [100, 2000])
def test_every_name_is_a_method(name, num_steps):
    assert isinstance(lineup.method(name, num_steps), lineup.Method)


def test_words_of_a_name_become_options():
    steps = dj.segments(5, num_products=8, num_batches=10)
    expected = dj.drmad(knots=8, curvature="gauss_newton", steps=steps)
    assert lineup.method("8 knots, Gauss-Newton, 5 x 8", 1000) == expected
    assert lineup.method("published", 1000) == dj.published_drmad(num_reverse_steps=100)
    final = dj.drmad(path=dj.knots(8, optimizer_state="final"))
    assert lineup.method("8 knots, final state", 700) == final
    assert lineup.method("means", 700) == dj.drmad(path=dj.means())
    assert lineup.method("line, T/10 steps", 700) == dj.drmad(knots=2, steps=dj.strided_steps(70))


@pytest.mark.parametrize("benchmark", render.BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_benchmark_is_where_its_command_says(benchmark):
    name = benchmark.command.removeprefix("python -m ")
    spec = importlib.util.find_spec(name)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(f"{name}.__main__")
