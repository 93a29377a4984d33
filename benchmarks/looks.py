"""How figures look: the methods' colours and lines, ticks, and the file that one is saved to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks import lineup
from drmad_jax.experiments.figures.comparison import cotangents
from drmad_jax.experiments.figures.style import BLUE, COLORS, COLUMN_WIDTH, MARKERS, STYLE, panel

__all__ = ["BLUE", "COLORS", "COLUMN_WIDTH", "GREY", "LOOKS", "MARKERS", "cotangents", "panel"]
GREY = "#BBBBBB"
# Black for the exact methods, told apart by their lines.
LOOKS: dict[str, dict[str, Any]] = {
    lineup.DEFAULT: {"color": COLORS[0], "marker": MARKERS[0]},
    lineup.LINE_SEGMENTS: {"color": COLORS[1], "marker": MARKERS[1]},
    lineup.LINE_ALL: {"color": COLORS[2], "marker": MARKERS[2]},
    lineup.LINE_TENTH: {"color": COLORS[3], "marker": MARKERS[3]},
    lineup.CHECKPOINTED: {"color": "black", "marker": MARKERS[5]},
    lineup.UNROLLED: {"color": "black", "marker": MARKERS[7], "linestyle": ":"},
    lineup.STORED: {"color": "black", "marker": MARKERS[6], "linestyle": "--"},
    lineup.REVERSIBLE: {"color": COLORS[6], "marker": MARKERS[4], "linestyle": "--"},
    "truncated, T/10 steps": {"color": COLORS[4], "marker": MARKERS[4]},
    "forward": {"color": COLORS[5], "marker": MARKERS[1], "linestyle": "--"},
    lineup.PLAIN: {"color": COLORS[6], "marker": ""},
}


def save(draw: Callable[[], Figure | None], path: Path, **options: Any) -> bool:
    """Draws a figure in the house's style into a file; says whether there is one."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        if figure is None:
            return False
        path.parent.mkdir(exist_ok=True)
        FigureCanvasAgg(figure).print_figure(path, dpi=200, **options)
    print(path)
    return True


def legend_below(figure: Figure, **options: Any) -> None:
    """All labels of the first panel, under the figure."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    given = {"ncols": 3, "frameon": False} | options
    figure.legend(handles, names, loc="outside lower center", **given)


def plain_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """These ticks and no others, as plain numbers."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}" if x < 100 else f"{x:,.0f}"))
    axis.set_minor_locator(NullLocator())
