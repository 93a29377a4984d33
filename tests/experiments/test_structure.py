"""What the rooms of `drmad_jax.experiments` may know of each other, and how a task gets in."""

import ast
import graphlib
import inspect
from pathlib import Path

import pytest

from drmad_jax.experiments import tasks
from drmad_jax.experiments.config.task import sections

PACKAGE = "drmad_jax.experiments"
ROOT = Path(tasks.__file__).parents[1]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imports(path):
    """The modules of this package that a file imports, within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


GRAPH = {name: set(imports(path)) - {name} for name, path in MODULES.items()}


def is_task(cls):
    return inspect.isclass(cls) and issubclass(cls, tasks.Task)


def room(name):
    return (name.removeprefix(PACKAGE).split(".") + [""])[1]


def test_no_import_circle():
    assert sum(map(len, GRAPH.values())) > 100
    tuple(graphlib.TopologicalSorter(GRAPH).static_order())


def test_rooms_know_each_other_in_one_direction():
    rooms = {}
    for name, known in GRAPH.items():
        rooms.setdefault(room(name), set()).update(room(other) for other in known)
    order = list(
        graphlib.TopologicalSorter(
            {name: known - {name} for name, known in rooms.items()}
        ).static_order()
    )
    assert order.index("data") < order.index("config") < order.index("models")
    assert order.index("models") < order.index("tasks") < order.index("runs")
    assert order.index("runs") < order.index("report") < order.index("cli")
    assert "drmad_jax.experiments.tasks" not in {
        other for name, known in GRAPH.items() if room(name) == "config" for other in known
    }


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_a_task_is_one_file_that_nothing_else_names(section):
    kind = section.model_fields["kind"].default
    made = [
        cls
        for cls in vars(inspect.getmodule(section)).values()
        if inspect.isclass(cls)
        and issubclass(cls, tasks.Task)
        and cls.__module__ == section.__module__
    ]
    assert len(made) == 1 and callable(section.make)
    module = section.__module__
    assert module == f"{PACKAGE}.tasks.{kind}"
    assert not [name for name, known in GRAPH.items() if module in known]
