"""Population: its table, its figure, its claims."""

from collections.abc import Callable

from matplotlib.figure import Figure

from benchmarks.looks import COLORS, MARKERS, legend_below, panel, plain_ticks
from benchmarks.pages import Benchmark, Claim, Results, Verdict, spread, table

# Members of the population that the claims are about.
CLAIMED = 32
SINGLE, SHARED, OWN, BY_DEVICE = "single", "shared", "own", "own, by device"


def _table(results: Results) -> str:
    """Cost of a member over a single run, by form and size, and the parts of a step."""
    over = results["over one single run"]
    sizes = sorted({int(label.rsplit(", ", 1)[1]) for label in over if ", " in label})
    forms = list(dict.fromkeys(label.rsplit(", ", 1)[0] for label in over if ", " in label))
    lines = []
    for form in forms:
        at = {n: over[f"{form}, {n}"]["median"] / n for n in sizes if f"{form}, {n}" in over}
        lines.append((form, *(f"{at[n]:.2f}" if n in at else "–" for n in sizes)))
    parts = results["microseconds for a member"]
    columns = list(next(iter(parts.values())))
    shares = [(name, *(f"{row[form]:,.1f}" for form in columns)) for name, row in parts.items()]
    single = results["seconds"][SINGLE]
    change = lambda part: f"{parts[part][OWN] / parts[part][SINGLE] - 1:+.0%}"
    note = (
        f"Time of a member over a single run ({1e3 * single['median_s']:.0f} ms), by number of "
        f"members. Below, µs of each part for a member, alone and among {CLAIMED}: `jax.vmap` "
        f"changes a gradient by {change('gradient')}, a curvature product by "
        f"{change('product, hessian')}."
    )
    by_form = table(("form", *map(str, sizes)), lines)
    return f"{by_form}\n{note}\n\n{table(('part', *columns), shares)}"


def _figure(results: Results) -> Figure:
    """Settings in a second against the number of members, and the loop."""
    figure, axes = panel(2.8)
    by_form: dict[str, list[tuple[int, float]]] = {}
    for label, row in results["seconds"].items():
        form, _, size = label.rpartition(", ")
        if form and not form.startswith("loop"):
            by_form.setdefault(form, []).append((int(size), int(size) / row["median_s"]))
    for form, color, marker in zip(by_form, COLORS, MARKERS, strict=False):
        sizes, settings = zip(*sorted(by_form[form]), strict=True)
        axes.plot(sizes, settings, label=form, color=color, marker=marker)
    single = 1 / results["seconds"][SINGLE]["median_s"]
    axes.axhline(single, color="black", linewidth=0.8, label="loop of single runs")
    axes.axhline(2 * single, color="black", linewidth=0.6, linestyle=":", label="twice that")
    axes.set(xscale="log", xlabel="members", ylabel="hypergradients in a second")
    plain_ticks(axes.xaxis, sorted({size for points in by_form.values() for size, _ in points}))
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=4)
    legend_below(figure, ncols=2, fontsize=7)
    return figure


def _at_most_half(*forms: str) -> Callable[[Results], Verdict]:
    def judge(results: Results) -> Verdict:
        over = results["over the loop"]
        found = {form: over[f"{form}, {CLAIMED}"] for form in forms if f"{form}, {CLAIMED}" in over}
        figure = "; ".join(f"{form} {spread(ratio)}" for form, ratio in found.items())
        return Verdict(figure, bool(found) and all(r["median"] <= 0.5 for r in found.values()))

    return judge


_MOST = f"A population of {CLAIMED} costs at most half of {CLAIMED} single runs on 2 cores"
BENCHMARK = Benchmark(
    "population",
    table=_table,
    figure=_figure,
    claims=(
        Claim(f"{_MOST}, by `jax.vmap`", _at_most_half(SHARED, OWN)),
        Claim("The same by a JAX device for each core", _at_most_half(BY_DEVICE)),
    ),
)
