"""The look of our figures: colours, axes, limits. matplotlib's object interface only, so nothing global changes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pbt.errors import PbtError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

INK, SOFT, GRID, FAINT = "#2b2b2b", "#6b6b6b", "#e9e9e9", "#c9d1d9"
#: Vermilion and blue of Okabe and Ito, which tell apart under every common colour blindness.
WINNER, BASELINE = "#d55e00", "#0072b2"
DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sized in inches.

    Raises:
        PbtError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PbtError("plots need matplotlib, which is not installed: pip install 'pbt[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def dress(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Title to the left, light grid behind, no box."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
    axes.set_xlabel(xlabel, color=SOFT, fontsize=9)
    axes.set_ylabel(ylabel, color=SOFT, fontsize=9)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """A legend under the picture, where it hides nothing."""
    if handles:
        columns = len(handles) if len(handles) <= 4 else math.ceil(len(handles) / 2)
        figure.legend(
            handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=INK
        )


def score_colours() -> Colormap:
    """Light for bad, dark for good; lightness alone carries it, so it reads in grey and for any eye."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    whole = matplotlib.colormaps["YlGnBu"]
    colours = [whole(0.2 + 0.8 * step / 63) for step in range(64)]
    return LinearSegmentedColormap.from_list("score", colours)


def steps_ticks(axes: Axes) -> None:
    """Whole numbers with thousands separators along x."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def plain_log_ticks(axes: Axes) -> None:
    """On a logarithmic y axis, numbers as people write them, few enough to be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 3.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def usual(values: Iterable[float]) -> list[float]:
    """The values without NaN, and without those far from all others: over 8 median deviations from the median."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return []
    middle = statistics.median(finite)
    reach = 8 * max(statistics.median(abs(value - middle) for value in finite), 0.01 * abs(middle), 1e-12)
    return [value for value in finite if abs(value - middle) <= reach]


def limits(groups: Iterable[Iterable[float]], pad: float = 0.05) -> tuple[float, float]:
    """Limits that show what is usual in each group (the scores at one time, say), with a little room around."""
    values = [value for group in groups for value in usual(group)]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = pad * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room
