"""Where the population's hyperparameters were, over training: as densities and, of choices, as shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.record.frame import Floats, Ints
from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.plots.schedules import scale
from pbt.report.plots.subject import AGE, Varied, best_entries, best_member, spans, varied

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns and rows of a density, at most.
_COLUMNS, _ROWS = 60, 24


def density_figure(result: Result) -> Figure:
    """How the population was spread over each hyperparameter, at each age; what the best one's weights saw on top.

    Args:
        result: The run.

    Raises:
        PbtError: matplotlib is not installed.
    """
    from matplotlib.cm import ScalarMappable

    panels, grains = varied(result), _Grains(result)
    columns = 1 if len(panels) == 1 else 2 if len(panels) <= 6 else 3
    rows = math.ceil(len(panels) / columns)
    figure = canvas.new_figure(5.4 * columns if columns > 1 else 8.0, 1.3 + 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    colours = ScalarMappable(norm=canvas.share_norm(), cmap=canvas.share_colours())
    for number, panel in enumerate(panels):
        axes = grid[number]
        canvas.dress(axes, panel.title, AGE if number + columns >= len(panels) else "", "")
        draw = _draw_shares if panel.options else _draw_density
        draw(axes, panel, grains)
        axes.grid(False)
        axes.set_xlim(grains.edges[0], grains.edges[-1])
        canvas.steps_ticks(axes, {0.0, *grains.ends})
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if any(not panel.options for panel in panels):
        bar = figure.colorbar(colours, ax=grid.tolist(), fraction=0.02, pad=0.01, aspect=8 * rows + 8)
        bar.set_ticks([0.0, 0.01, 0.1, 0.25, 0.5, 1.0], labels=["0", "1%", "10%", "25%", "50%", "all"])
        bar.set_label("share of the members", color=canvas.SOFT, fontsize=8)
        bar.ax.tick_params(labelsize=8, colors=canvas.SOFT, length=0)
        bar.outline.set_visible(False)
    canvas.headline(figure, "Where the population's hyperparameters were")
    if (best := best_member(result)) is not None:
        from matplotlib.lines import Line2D

        label = f"best, member {best}, with its ancestry"
        canvas.legend_below(figure, [Line2D([], [], color=canvas.WINNER, linewidth=2.2, label=label)])
    return figure


class _Grains:
    """Segments, cut into columns of age.

    Attributes:
        edges: Where columns begin and end.
        ends: Ages at which segments ended.
        entry: The segments' entries in the frame, each as often as there are columns it lies in.
        column: Those columns.
        path: The entry of the best one's ancestry in each column; -1 where it has none.
    """

    def __init__(self, result: Result) -> None:
        self.frame = result.frame
        span = spans(result)
        borders = np.unique(span)
        few = len(borders) <= _COLUMNS + 1
        self.edges: Floats = borders if few else np.linspace(borders[0], borders[-1], _COLUMNS + 1)
        self.ends: list[float] = np.unique(span[self.frame.is_ended, 1]).tolist()
        middles = (self.edges[1:] + self.edges[:-1]) / 2
        first, last = np.searchsorted(middles, span[:, 0]), np.searchsorted(middles, span[:, 1])
        counts = last - first
        self.entry: Ints = np.repeat(np.arange(len(span)), counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        self.column: Ints = np.arange(counts.sum()) - before + np.repeat(first, counts)
        self.path: Ints = np.full(len(middles), -1)
        for entry in best_entries(result):
            self.path[first[entry] : last[entry]] = entry

    def shares(self, heights: Floats, rows: int) -> Floats:
        """Of all members at an age, the share in each row: `(rows, columns)`. NaN is in no row."""
        row = heights[self.entry]
        known = ~np.isnan(row)
        counts = np.zeros((rows, len(self.path)))
        np.add.at(counts, (row[known].astype(int), self.column[known]), 1.0)
        return np.asarray(counts / np.maximum(np.bincount(self.column, minlength=len(self.path)), 1))

    def along(self, heights: Floats) -> Floats:
        """What the best one's weights saw in each column."""
        return np.where(self.path >= 0, heights[self.path], np.nan)


def _draw_density(axes: Axes, panel: Varied, grains: _Grains) -> None:
    heights = grains.frame.each(panel.height)
    edges = _bin_edges(panel)
    rows = np.where(np.isnan(heights), np.nan, np.clip(np.searchsorted(edges, heights, "right") - 1, 0, len(edges) - 2))
    shares = grains.shares(rows, len(edges) - 1)
    look: dict[str, Any] = {"cmap": canvas.share_colours(), "norm": canvas.share_norm()}
    mesh = axes.pcolormesh(grains.edges, edges, np.ma.masked_equal(shares, 0.0), **look)
    mesh.set(gid="density", rasterized=True)
    _draw_path(axes, grains.edges, grains.along(heights))
    scale(axes, panel)
    if (share := float(np.isnan(heights).mean())) > 0:
        canvas.note(axes, f"not active in {100 * share:.0f}% of the segments")


def _bin_edges(panel: Varied) -> Floats:
    """Edges of the rows: whole numbers each their own while they are few, else evenly on the panel's scale."""
    low, high = float(panel.domain["low"]), float(panel.domain["high"])
    if panel.domain.get("type") == "int" and panel.scale == "linear" and high - low < _ROWS:
        return np.arange(low - 0.5, high + 1.0)
    if high <= low:
        return np.array([low - 0.5, low + 0.5])
    return panel.value(np.linspace(0.0, 1.0, _ROWS + 1))


def _draw_shares(axes: Axes, panel: Varied, grains: _Grains) -> None:
    """Options stacked on each other, those without one on top; the best one's path runs in the middle of its option."""
    options = len(panel.options)
    heights = grains.frame.each(panel.height)
    heights = np.where(np.isnan(heights), options, heights)
    shares = grains.shares(heights, options + 1)
    tops = np.cumsum(shares, axis=0)
    floors = tops - shares
    names = [*(text.hparam(option) for option in panel.options), "not active"]
    for option, name in enumerate(names):
        if shares[option].any():
            look = canvas.option_look(option) if option < options else {"facecolor": canvas.FAINT, "hatch": ""}
            patch = axes.stairs(tops[option], grains.edges, baseline=floors[option], fill=True, alpha=0.75, **look)
            patch.set(gid=f"option {name}", linewidth=0)
    best = grains.along(heights)
    known = np.where(np.isnan(best), 0, best).astype(int)
    middle = (tops + floors)[known, np.arange(len(known))] / 2
    _draw_path(axes, grains.edges, np.where(np.isnan(best), np.nan, middle))
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    present = np.flatnonzero(shares.any(axis=1))
    ends = [float(tops[option, -1] + floors[option, -1]) / 2 for option in present]
    _name_at_the_right(axes, panel, [names[option] for option in present], present, ends)


def _draw_path(axes: Axes, edges: Floats, heights: Floats) -> None:
    """Level in each column; white below, so that it can be seen on dark colours."""
    x, y = np.repeat(edges, 2)[1:-1], np.repeat(heights, 2)
    axes.plot(x, y, color="white", linewidth=4.2, solid_joinstyle="round", zorder=4)
    axes.plot(x, y, color=canvas.WINNER, linewidth=2.2, solid_joinstyle="round", zorder=5, gid="winner")


def _name_at_the_right(
    axes: Axes, panel: Varied, names: Sequence[str], options: Ints, middles: Sequence[float]
) -> None:
    """Options' names and colours beside the middle of their share at the end, moved apart where they would touch."""
    places = canvas.apart(middles, min(0.1, 1.0 / max(1, len(names))), 0.03, 0.97)
    for name, option, place in zip(names, options, places, strict=True):
        colour = canvas.option_look(int(option))["facecolor"] if option < len(panel.options) else canvas.FAINT
        at: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center"}
        axes.annotate("\u25a0", (1, place), (3, 0), color=colour, fontsize=9, **at)
        axes.annotate(canvas.plain(name), (1, place), (14, 0), color=canvas.INK, fontsize=8, gid="option name", **at)
