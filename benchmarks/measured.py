"""The table of measured figures in the package's README, each from a record."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import lineup, study_tables
from benchmarks.first_result import COLD
from benchmarks.markdown import mib, table
from benchmarks.record_files import COMMANDS, MAIN_BACKEND, load

Results = dict[str, Any]
_SHARES = {"mlp_stable": "stable", "mlp_chaotic": "chaotic", "mlp_adam": "Adam"}


def readme() -> str:
    """What was measured, the figure, and the command that measures it again."""
    lines = []
    for what, name, figure in ROWS:
        record = load(name, MAIN_BACKEND)
        if record is not None:
            lines.append((what, figure(record["results"]), f"`{COMMANDS[name]}`"))
    return table(("what", "figure", "command"), [*lines, _tuning()])


def _cost(results: Results) -> str:
    cells = results["cells"].values()
    (cell,) = (c for c in cells if (c["optimizer"], c["batch_size"]) == ("momentum", 500))
    ratio = lambda label: f"{cell['over plain training'][label]['median']:.2f}"
    return (
        f"`drmad()` {ratio(lineup.DEFAULT)}; Gauss–Newton on the line, every step "
        f"{ratio(lineup.LINE_ALL)}, T/10 steps {ratio(lineup.LINE_TENTH)}; exact: `checkpointed()` "
        f"{ratio(lineup.CHECKPOINTED)}, `jax.grad` through the loop {ratio(lineup.UNROLLED)}"
    )


def _memory(results: Results) -> str:
    labels = {
        "`drmad()`": lineup.DEFAULT,
        "on the line": lineup.LINE_ALL,
        "`reversible()`": lineup.REVERSIBLE,
        "`checkpointed()`": lineup.CHECKPOINTED,
        "`stored()`": lineup.STORED,
        "`jax.grad` through the loop": lineup.UNROLLED,
    }
    last = {name: results["by number of steps"][label][-1] for name, label in labels.items()}
    return ", ".join(f"{name} {mib(point['temporary_bytes'])}" for name, point in last.items())


def _peers(results: Results) -> str:
    words = []
    for case, found in results["cases"].items():
        if "T = 1000" not in case:
            continue
        for kind in ("PyTorch", "JAX"):
            peer = found["claims"][f"fastest {kind} peer"]
            over = peer["over ours"].get(lineup.DEFAULT)
            if over is not None:
                words.append(
                    f"{case.partition(',')[0]}: {over['time']:.2g} times faster, "
                    f"{over['memory']:.2g} times smaller than {peer['name']} ({kind})"
                )
    return "; ".join(words)


def _bits(results: Results) -> str:
    row = results["bits per weight and step"]["0.9"]
    return f"{row['measured']:.5f} (theory {row['log2(1/momentum)']:.5f})"


def _first_result(results: Results) -> str:
    seconds = [
        statistics.median(row["first result, s"] for row in rows) for rows in results.values()
    ]
    names = dict(zip(results, seconds, strict=True))
    kept = next(name for name in names if name != COLD)
    return f"{names[COLD]:.0f} s, later {names[kept]:.0f} s"


def _tuning() -> tuple[str, str, str]:
    words = [f"{_SHARES[name]} {_share(name, study_tables.DEFAULT)} ({_share(name, 'published')})"
             for name in _SHARES]  # fmt: skip
    conv = f"{_share('conv_smooth', study_tables.DEFAULT)} ({_share('conv_smooth', 'published')})"
    return (
        "tuning by `drmad()`, share of the exact method's fall of the validation loss (published "
        "DrMAD beside it)",
        f"MLP: {', '.join(words)}; convolutional network {conv}",
        "`python -m benchmarks.accuracy tuning`",
    )


def _share(name: str, label: str) -> str:
    found = study_tables.record(f"tuning_{name}")
    start = found["start"]["valid"]
    share = (start - found[label]["valid"]) / (start - found["exact"]["valid"])
    return f"{share:.2f}".replace("-", "−")


ROWS: tuple[tuple[str, str, Callable[[Results], str]], ...] = (
    ("whole hypergradient over plain training, MNIST MLP, T = 1,000, batch 500", "cost", _cost),
    ("temporary memory at T = 10,000, same network, batch 50, MiB", "memory", _memory),
    ("`drmad()` beside the fastest exact package at T = 1,000, by batch", "peers", _peers),
    ("`reversible`: bits per weight and step at γ = .9", "reversible_memory", _bits),
    ("from the command above to the first result on digits", "first_result", _first_result),
)
