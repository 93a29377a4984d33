"""Colours, sizes and files of all figures.

Matplotlib's object-oriented interface throughout: no state is shared with whoever imports this.
"""

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette, told apart by readers who do not see all colours.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
# The same for many lines, without its yellow, too light on white; black is the exact method.
COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", GREY)
MARKERS = "osD^vP*X"
# Even steps of lightness, for the eye and for a grey printer alike.
COLOR_MAP = "cividis"
# For values of both signs: orange and purple, white in between.
DIVERGING_MAP = "PuOr"
COLUMN_WIDTH = 3.4  # inches, one column of a two-column page
DPI = 200
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "figure.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
}


def new_figure(
    height: float, *, width: float = COLUMN_WIDTH, gaps: tuple[float, float] | None = None
) -> Figure:
    """A figure whose parts find their own places.

    Args:
        height: In inches.
        width: In inches.
        gaps: The space around panels, in inches, and between them, as a share of their size;
            matplotlib's own if `None`.

    Returns:
        A figure without axes.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    if gaps is not None:
        pad, space = gaps
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=pad, h_pad=pad, wspace=space, hspace=space)
    return figure


def panel(height: float, *, width: float = COLUMN_WIDTH) -> tuple[Figure, Axes]:
    """A figure of one panel, and the panel; sizes in inches."""
    figure = new_figure(height, width=width)
    return figure, figure.subplots()


def bare(axes: Axes) -> None:
    """Takes ticks and frame away, as pictures want it.

    Args:
        axes: The panel.
    """
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def png(figure: Figure) -> bytes:
    """A figure as the contents of a PNG file.

    Args:
        figure: The figure.

    Returns:
        Bytes.
    """
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, dpi=DPI)
    return buffer.getvalue()


def is_png(path: Path) -> bool:
    """Whether a file is a whole picture.

    Args:
        path: The file, which need not be there.

    Returns:
        True if its check sums are right.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
    except (OSError, ValueError, SyntaxError):  # Pillow's word for a broken part.
        return False
    return True
