"""The committed records: which there should be, and what is said of where they were taken."""

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import RECORDS

# Record to the command that writes it. Those of the study have a page of their own, docs/study.md.
COMMANDS = {
    "cost": "python -m benchmarks.cost",
    "breakdown": "python -m benchmarks.breakdown",
    "memory": "python -m benchmarks.memory",
    "population": "python -m benchmarks.population",
    "curvature_product": "python -m benchmarks.curvature_product",
    "reversible_memory": "python -m benchmarks.reversible_memory",
    "peers": "python -m benchmarks.peers",
    "peers_exact": (
        "python -m benchmarks.peers --cases 500x1000 --subjects 'stored()' "
        "'jax.checkpoint on steps' --name peers_exact --seconds 150 --least 9"
    ),
    "paper_claim": "python -m benchmarks.paper_claim",
    "first_result": "python -m benchmarks.first_result",
}
MAIN_BACKEND = "cpu"


def load(name: str, backend: str) -> dict[str, Any] | None:
    """A record, or `None` where there is none."""
    path = RECORDS / f"{name}-{backend}.json"
    return json.loads(path.read_text()) if path.exists() else None


def load_all(backend: str) -> dict[str, dict[str, Any]]:
    """Name to record, of those that there are."""
    found = {name: load(name, backend) for name in COMMANDS}
    return {name: record for name, record in found.items() if record is not None}


def backends() -> list[str]:
    """Backends that any of the records was taken on, this package's main one first."""
    found = {path.stem.rsplit("-", 1)[1] for path in RECORDS.glob("*-*.json")}
    named = {b for b in found if any(load(name, b) for name in COMMANDS)}
    return [MAIN_BACKEND, *sorted(named - {MAIN_BACKEND})]


def command(name: str, record: dict[str, Any]) -> str:
    """The command that wrote a record."""
    return record.get("command", COMMANDS[name])


def took_s(script: str) -> float | None:
    """Seconds that a script took in all the processes that wrote its records, if they say so."""
    longest: dict[str, float] = {}
    for path in RECORDS.glob("*.json"):
        record = json.loads(path.read_text())
        command = record.get("command", "")
        if command.split(" ")[:3] == script.split(" ") and "took_s" in record:
            # One process may write several records, the last of them at its end.
            longest[command] = max(longest.get(command, 0.0), record["took_s"])
    return sum(longest.values()) if longest else None


def machine(record: dict[str, Any]) -> str:
    """Hardware in words."""
    hardware = record["hardware"]
    cores = hardware.get("usable_cores", hardware["cores"])
    of = "" if cores == hardware["cores"] else f" of {hardware['cores']}"
    text = f"{hardware['processor']}, {cores}{of} cores"
    return text if hardware["backend"] == "cpu" else f"{hardware['device']}; {text}"


def is_busy(record: dict[str, Any]) -> bool:
    """Whether something else was running: more load than the cores that were used."""
    hardware = record["hardware"]
    load_average = hardware.get("load_average")
    cores = hardware.get("usable_cores", hardware["cores"])
    return load_average is not None and load_average > 1.5 * cores


def versions(record: dict[str, Any]) -> str:
    """Versions in words."""
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def rounds(record: dict[str, Any]) -> str:
    """How many rounds its figures are medians of."""
    counts = sorted(set(_counts(record["results"])))
    if not counts:
        return "–"
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def _counts(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        if "median_s" in value and "n" in value:
            yield value["n"]
        for entry in value.values():
            yield from _counts(entry)
