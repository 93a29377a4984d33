"""Which folder of the core may import which: the data flows one way."""

import re
from pathlib import Path

SRC = Path(__file__).parents[1] / "src/drmad_jax"

# Each may import itself and those before it.
ROOMS = (
    "tree problem transforms _checks training fixed_point protocol reverse methods hypergradient "
    "loops diagnostics __init__ experiments"
).split()


def test_rooms_import_only_what_lies_below_them():
    for path in SRC.rglob("*.py"):
        own = path.relative_to(SRC).parts[0].removesuffix(".py")
        for line in re.findall(r"^[ \t]*(?:from|import) drmad_jax.*", path.read_text(), re.M):
            found = re.match(
                r"\s*(?:from drmad_jax\.|import drmad_jax\.|from drmad_jax import )(\w+)", line
            )
            # `import drmad_jax` alone, and public names, are for what stands above the core.
            other = found.group(1) if found and found.group(1) in ROOMS else "__init__"
            assert ROOMS.index(other) <= ROOMS.index(own), f"{path}: {line}"


def test_doors_of_the_core_are_few():
    doors = [
        path
        for path in SRC.iterdir()
        if path.name not in ("experiments", "__pycache__", "py.typed")
    ]
    assert sum(path.is_dir() for path in doors) <= 8
    assert sum(path.suffix == ".py" for path in doors) <= 6
    assert {path.name.removesuffix(".py") for path in doors} <= set(ROOMS)
