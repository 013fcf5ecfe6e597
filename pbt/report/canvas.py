"""The look of our figures: colours, axes, limits. matplotlib's object interface only, so nothing global changes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from pbt.errors import PbtError
from pbt.record.frame import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

INK, SOFT, CROWD, FAINT, GRID = "#2b2b2b", "#6b6b6b", "#8a97a5", "#c9d1d9", "#e9e9e9"
#: Vermilion and blue of Okabe and Ito, which tell apart under every common colour blindness.
WINNER, BASELINE = "#d55e00", "#0072b2"
DPI = 150

#: A line from point to point.
Line: TypeAlias = list[tuple[float, float]]


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


def as_png(figure: Figure, dpi: int = DPI) -> bytes:
    """The picture as a PNG file. `savefig` would go through all of it twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def dress(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Title to the left, light grid behind, no box."""
    axes.set_title(plain(title), loc="left", fontsize=11, color=INK, pad=10)
    axes.set_xlabel(plain(xlabel), color=SOFT, fontsize=9)
    axes.set_ylabel(plain(ylabel), color=SOFT, fontsize=9)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def plain(words: str) -> str:
    """Words letter by letter: matplotlib would set what stands between two dollars as a formula."""
    return words.replace("$", r"\$")


def legend_below(figure: Figure, handles: Iterable[Any]) -> None:
    """A legend under the picture, where it hides nothing."""
    if handles := list(handles):
        columns = len(handles) if len(handles) <= 4 else math.ceil(len(handles) / 2)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=INK
        )


def objective_name(objective: Mapping[str, Any], unit: str = "") -> str:
    """The score in words, on two lines: `validation bits_per_byte [bits/byte]`, `lower is better`."""
    direction = "lower" if objective["mode"] == "min" else "higher"
    name = f"{objective['split']} {objective['metric']}" + (f" [{unit}]" if unit else "")
    return plain(f"{name}\n{direction} is better")


def score_norm(low: float, high: float, *, reverse: bool) -> Normalize:
    """Spreads colours over scores, finest where they are good: there they lie close, and there it matters.

    Args:
        low: Smallest score to tell apart.
        high: Largest.
        reverse: Whether small is good.
    """
    from matplotlib.colors import FuncNorm

    good, bad = (low, high) if reverse else (high, low)

    def forward(score: Any) -> Any:
        share = np.clip((np.asarray(score) - good) / (bad - good), 0.0, 1.0) ** 0.4
        return share if reverse else 1.0 - share

    def inverse(place: Any) -> Any:
        share = np.asarray(place) if reverse else 1.0 - np.asarray(place)
        return good + (bad - good) * np.clip(share, 0.0, 1.0) ** 2.5

    return FuncNorm((forward, inverse), vmin=low, vmax=high)


def extension(values: Iterable[float], low: float, high: float) -> str:
    """Which ends of a colour bar are open: `neither`, `min`, `max` or `both`."""
    values = list(values)
    under, over = any(value < low for value in values), any(value > high for value in values)
    return "both" if under and over else "min" if under else "max" if over else "neither"


def score_colours(*, reverse: bool) -> Colormap:
    """Pale for bad, dark for good; lightness alone carries it, so it reads in grey and for any eye.

    Args:
        reverse: Whether small is good.
    """
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    whole = matplotlib.colormaps["YlGnBu"]
    colours = [whole(0.2 + 0.8 * step / 63) for step in range(64)]
    return LinearSegmentedColormap.from_list("score", colours[::-1] if reverse else colours)


def headline(figure: Figure, words: str) -> None:
    """A title over several panels, with room below it."""
    figure.suptitle(words + "\n", x=0.012, ha="left", fontsize=12, color=INK, linespacing=0.6)


def note(axes: Axes, words: str) -> None:
    """A remark at the upper right, above the picture."""
    axes.annotate(words, (1, 1), (0, 6), "axes fraction", "offset points", ha="right", fontsize=8, color=SOFT)


def whole_ticks(axes: Axes) -> None:
    """Numbers along y in full: what lies close together is not told as a difference to a number in the corner."""
    axes.ticklabel_format(axis="y", useOffset=False)


def steps_ticks(axes: Axes, boundaries: Iterable[float]) -> None:
    """Ticks and grid lines where generations begin and end, as many as can be read, with thousands separators."""
    places = sorted(set(boundaries))
    every = max(1, math.ceil((len(places) - 1) / 8))
    shown = places[::every]
    axes.set_xticks(shown, [f"{place:,.0f}" for place in shown])


def plain_log_ticks(axes: Axes, along: Literal["x", "y"] = "y") -> None:
    """On a logarithmic axis, numbers as people write them, few enough to be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis, (low, high) = (axes.yaxis, axes.get_ylim()) if along == "y" else (axes.xaxis, axes.get_xlim())
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def complement_axis(axes: Axes, low: float, high: float) -> None:
    """A y axis on which 0.9, 0.99 and 0.999 lie equally far apart, for decay rates."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("function", functions=(_nines, lambda place: 1 - 10.0**-place))
    axes.set_ylim(low, high)
    decades = [1 - 10.0**-power for power in range(1, 9)]
    between = [1 - digit * 10.0**-power for power in range(1, 9) for digit in (5, 2)]
    inside = [tick for tick in decades if low <= tick <= high]
    if len(inside) < 3:
        inside += [tick for tick in between if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(inside))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _nines(values: Any) -> Any:
    return -np.log10(np.maximum(1 - np.asarray(values, dtype=float), 1e-12))


def usual(values: Sequence[float] | Floats) -> Floats:
    """The values without NaN, and without those far from all others: over 8 median deviations from the median."""
    known = np.asarray(values, dtype=float)
    finite = known[np.isfinite(known)]
    if not len(finite):
        return finite
    middle = float(np.median(finite))
    away = np.abs(finite - middle)
    return finite[away <= 8 * max(float(np.median(away)), 0.01 * abs(middle), 1e-12)]


def limits(groups: Iterable[Sequence[float] | Floats], pad: float = 0.05) -> tuple[float, float]:
    """Limits that show what is usual in each group (the scores at one time, say), with a little room around."""
    values = np.concatenate([np.empty(0), *map(usual, groups)])
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = pad * (high - low) if high > low else 0.1 * abs(high) or 1.0
    return low - room, high + room


def broken(lines: Floats, member: Ints) -> list[Floats]:
    """Each member's lines as one line with gaps: a thousand of these are drawn ten times as fast as all one by one.

    Args:
        lines: Their points, `(lines, points, 2)`.
        member: Whose each is; each member's behind each other.
    """
    gaps = np.full((len(lines), 1, 2), np.nan)
    cuts = np.flatnonzero(np.diff(member)) + 1
    return [own.reshape(-1, 2) for own in np.split(np.concatenate([lines, gaps], axis=1), cuts)]


def columns(points: Sequence[tuple[float, float]] | Floats) -> tuple[Floats, Floats]:
    """The points' x and their y, as matplotlib wants them."""
    x, y = np.asarray(points, dtype=float).reshape(-1, 2).T
    return x, y


def share_norm() -> Normalize:
    """Spreads colours over shares, so that a few members can be seen beside nearly all."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0.0, vmax=1.0)


def share_colours() -> Colormap:
    """Pale for few, dark for many; lightness alone carries it."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    whole = matplotlib.colormaps["Blues"]
    return LinearSegmentedColormap.from_list("share", [whole(0.08 + 0.92 * step / 63) for step in range(64)])


def option_look(option: int) -> dict[str, Any]:
    """Colour of an option, and from the eighth on a pattern too. Okabe and Ito's, without the winner's."""
    colours = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#f0e442", "#999999")
    patterns = ("", "///", "...", "xxx")
    turn, number = divmod(option, len(colours))
    return {"facecolor": colours[number], "edgecolor": "white", "hatch": patterns[turn % len(patterns)]}


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in the same order, moved as little as needed to be `gap` apart and between the limits."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    found = [0.0] * len(places)
    reached = low - gap
    for number in order:
        reached = found[number] = max(places[number], reached + gap)
    ceiling = high + gap
    for number in reversed(order):
        ceiling = found[number] = min(found[number], ceiling - gap)
    return found


def told_apart(values: Sequence[float]) -> list[str]:
    """Numbers with so many digits that different ones look different: four, or as many more as it takes."""
    for digits in range(4, 12):
        found = [f"{value:.{digits}g}" for value in values]
        if len(set(found)) == len(set(values)):
            break
    return found


def short(value: float) -> str:
    """A number for an axis: `0`, `250`, `1.5k`, `20M`, `3G`; beyond, in powers of ten."""
    for size, letter in ((1e15, ""), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            digits = size if size < 1e15 else 1.0
            scaled = value / (1e3 if letter == "k" else digits)
            return f"{scaled:.3g}{letter}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
