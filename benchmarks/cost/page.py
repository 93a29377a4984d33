"""Cost: its table, its figure, its claims."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import lineup
from benchmarks.looks import COLUMN_WIDTH, GREY, LOOKS, legend_below, plain_ticks
from benchmarks.pages import Benchmark, Claim, Results, Verdict, spread, table


def _table(results: Results) -> str:
    """The cell with most methods in full, and a line for each of the others."""
    full = max(results["cells"].values(), key=lambda cell: len(cell["over plain training"]))
    head = ("method", "over plain training", "min – max", "compiling, s", "temporary MiB")
    lines = [
        (
            label,
            f"{ratio['median']:.2f}",
            f"{ratio['min']:.2f} – {ratio['max']:.2f}",
            f"{full['compile_s'][label]:.1f}",
            f"{full['temporary_bytes'][label] / 2**20:.1f}",
        )
        for label, ratio in full["over plain training"].items()
    ]
    plain = full["seconds"][lineup.PLAIN]
    note = (
        f"{full['subject']} ({full['weights']:,} weights, {full['hyperparameters']:,} "
        f"hyperparameters), {full['optimizer']}, batch {full['batch_size']}, "
        f"T = {full['num_steps']:,}; plain training {plain['median_s']:.3g} s, rounds: "
        f"{plain['n']}. Programs are compiled as many at a time as there are cores."
    )
    others = [cell for cell in results["cells"].values() if cell is not full]
    return f"{table(head, lines)}\n{note}\n\n{_others(others)}"


def _others(cells: list[Results]) -> str:
    head = ("model", "optimizer", "batch", "T", "plain, ms/step", *lineup.SWEPT)
    lines = []
    for cell in cells:
        ratios = cell["over plain training"]
        plain = 1e3 * cell["seconds"][lineup.PLAIN]["median_s"] / cell["num_steps"]
        figures = (
            f"{ratios[label]['median']:.2f}" if label in ratios else "–" for label in lineup.SWEPT
        )
        lines.append((
            cell["subject"], cell["optimizer"], str(cell["batch_size"]), f"{cell['num_steps']:,}",
            f"{plain:.3g}", *figures,
        ))  # fmt: skip
    return table(head, lines)


def _figure(results: Results) -> Figure:
    """Time over plain training against T, one panel for each model, at its smallest batch."""
    cells = [cell for cell in results["cells"].values() if cell["optimizer"] == "momentum"]
    subjects = list(dict.fromkeys(cell["subject"] for cell in cells))
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 2.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(subjects), sharey=True))
    for axes, subject in zip(panels, subjects, strict=True):
        of_subject = [cell for cell in cells if cell["subject"] == subject]
        batch_size = min(cell["batch_size"] for cell in of_subject)
        chosen = [cell for cell in of_subject if cell["batch_size"] == batch_size]
        for label in lineup.SWEPT:
            _line(axes, chosen, label)
        axes.set(xscale="log", yscale="log", xlabel="inner steps T")
        axes.set_title(f"{subject}, batch {batch_size}", fontsize=8)
        axes.axhline(1, color=GREY, linewidth=0.6, zorder=0)
        axes.grid(axis="y", linewidth=0.3)
        steps = sorted({cell["num_steps"] for cell in chosen})
        # Room at both sides, also where all runs have the same number of steps.
        axes.set_xlim(steps[0] / 1.5, steps[-1] * 1.5)
        plain_ticks(axes.xaxis, _apart(steps))
    plain_ticks(panels[0].yaxis, (1, 1.5, 2, 3, 5, 10, 20))
    panels[0].set_ylabel("time / plain training")
    legend_below(figure)
    return figure


def _line(axes: Axes, cells: Sequence[Results], label: str) -> None:
    found = [(cell["num_steps"], cell["over plain training"].get(label)) for cell in cells]
    points = [(T, *(r[k] for k in ("median", "min", "max"))) for T, r in found if r]
    if points:
        steps, median, low, high = np.array(sorted(points)).T
        errors = np.stack([median - low, high - median])
        axes.errorbar(steps, median, errors, label=label, elinewidth=0.6, **LOOKS[label])


def _at_most(limit: float, label: str, cell: str) -> Callable[[Results], Verdict]:
    def judge(results: Results) -> Verdict:
        ratio = results["cells"][cell]["over plain training"][label]
        return Verdict(spread(ratio), ratio["median"] <= limit)

    return judge


def _never_above_exact(results: Results) -> Verdict:
    """In every cell that has both."""
    default, exact = lineup.DEFAULT, lineup.CHECKPOINTED
    over = {
        name: ratio[default]["median"] / ratio[exact]["median"]
        for name, cell in results["cells"].items()
        if {default, exact} <= (ratio := cell["over plain training"]).keys()
    }
    worst = max(over, key=over.__getitem__)
    # Below about 580 steps both are the same program, and differ by noise.
    return Verdict(f"at most {over[worst]:.2f} of it ({worst})", over[worst] <= 1.1)


def _apart(steps: list[int]) -> list[int]:
    """Those whose numbers do not run into that of the one before."""
    kept = steps[:1]
    for step in steps[1:]:
        if step >= 8 * kept[-1] or len(steps) < 5:
            kept.append(step)
    return kept


def _headline(results: Results) -> str:
    over = results["cells"]["mlp, momentum, batch 500, T = 1000"]["over plain training"]
    ratio = lambda label: f"{over[label]['median']:.2f}"
    return (
        f"`drmad()` {ratio(lineup.DEFAULT)}; Gauss–Newton on the line, every step "
        f"{ratio(lineup.LINE_ALL)}, T/10 steps {ratio(lineup.LINE_TENTH)}; exact: `checkpointed()` "
        f"{ratio(lineup.CHECKPOINTED)}, `jax.grad` through the loop {ratio(lineup.UNROLLED)}"
    )


BENCHMARK = Benchmark(
    "cost",
    table=_table,
    figure=_figure,
    claims=(
        *(
            Claim(
                f"{steps} back, {curvature}: at most {limit} times plain training (MLP, batch 500, "
                f"{name})",
                _at_most(limit, label, f"mlp, {optimizer}, batch 500, T = 1000"),
            )
            for optimizer, name in (("momentum", "momentum"), ("adam", "Adam"))
            for steps, limit, curvature, label in (
                ("All T steps", 2.2, "Gauss-Newton", lineup.LINE_ALL),
                ("All T steps", 2.2, "Hessian", lineup.LINE_HESSIAN),
                ("T/10 steps", 1.2, "Gauss-Newton", lineup.LINE_TENTH),
            )
        ),
        *(
            Claim(
                f"`drmad()`: at most {limit} times plain training (MLP, T = {T:,}, batch {batch})",
                _at_most(limit, lineup.DEFAULT, f"mlp, momentum, batch {batch}, T = {T}"),
            )
            for limit, batch, T in ((1.5, 50, 2000), (1.5, 500, 2000), (1.2, 50, 20_000))
        ),
        Claim("`drmad()`: at most the cost of `checkpointed()`, at any T", _never_above_exact),
    ),
    headline=(
        "whole hypergradient over plain training, MNIST MLP, T = 1,000, batch 500",
        _headline,
    ),
)
