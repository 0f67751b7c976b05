"""Charts for a light and for a dark page. Matplotlib is imported with this file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours of one page; `series` in the order of `STRATEGIES`."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    right: str
    wrong: str
    series: tuple[str, str, str, str]


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1c2230",
    muted="#5d6677",
    grid="#e4e6ea",
    right="#9fb4d8",
    wrong="#d2541b",
    series=("#7b8494", "#2456c7", "#0c8577", "#c2410c"),
)
DARK = Theme(
    name="dark",
    paper="#191d26",
    ink="#e9e7e2",
    muted="#a3abba",
    grid="#313846",
    right="#4d6797",
    wrong="#ff9258",
    series=("#98a1b0", "#7ea8ff", "#4fd0bd", "#ff9a62"),
)


def draw(drawing: Callable[[Axes, Theme], None], theme: Theme) -> bytes:
    """What `drawing` puts on the axes, as PNG."""
    with _style(theme):
        figure = Figure(figsize=(5.2, 3.7), layout="constrained")
        FigureCanvasAgg(figure)
        drawing(figure.add_subplot(), theme)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    with matplotlib.rc_context(
        {
            "font.size": 12,
            "text.color": theme.ink,
            "figure.facecolor": theme.paper,
            "axes.facecolor": theme.paper,
            "axes.edgecolor": theme.grid,
            "axes.labelcolor": theme.muted,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": theme.grid,
            "grid.linewidth": 0.8,
            "xtick.color": theme.grid,
            "ytick.color": theme.grid,
            "xtick.labelcolor": theme.muted,
            "ytick.labelcolor": theme.muted,
            "legend.frameon": False,
            "legend.fontsize": 11,
            "legend.title_fontsize": 11,
        }
    ):
        yield
