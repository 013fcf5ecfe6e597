"""What the members trained with, over training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.record.frame import Floats, Ints
from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.plots.subject import CONSUMED, Varied, best_entries, best_member, boundaries, steps, varied

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def schedule_figure(result: Result) -> Figure:
    """Each varied hyperparameter over training, of every member; what the best one's weights saw stands out.

    Args:
        result: The run.

    Raises:
        PbtError: matplotlib is not installed.
    """
    panels = varied(result)
    columns = 1 if len(panels) == 1 else 2 if len(panels) <= 6 else 3
    rows = math.ceil(len(panels) / columns)
    figure = canvas.new_figure(5.2 * columns if columns > 1 else 8.0, 1.1 + 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    path = best_entries(result)
    for number, panel in enumerate(panels):
        axes = grid[number]
        _draw_schedule(axes, result, path, panel)
        canvas.dress(axes, panel.title, CONSUMED if number + columns >= len(panels) else "", "")
        canvas.steps_ticks(axes, {0.0} | boundaries(result))
        scale(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    canvas.headline(figure, "Schedules: what the members trained with")
    canvas.legend_below(figure, _schedule_legend(best_member(result)))
    return figure


def _draw_schedule(axes: Axes, result: Result, path: Ints, panel: Varied) -> None:
    from matplotlib.collections import LineCollection

    frame, heights = result.frame, result.frame.each(panel.height)
    few = len(frame.ends) <= 32
    flats = _flats(result, heights + _lanes(result) if panel.options else heights)
    known = ~np.isnan(heights)
    look: dict[str, Any] = {"colors": canvas.CROWD, "linewidths": 1.3, "alpha": 0.75 if few else 0.4}
    # Level lines fall on whole pixels, as each by itself would. Many are an image also in files of lines.
    look |= {"snap": True, "rasterized": not few}
    lines = canvas.broken(flats[known], frame.member[known])
    axes.add_collection(LineCollection(lines, gid="members", zorder=3, **look))
    best = _flats(result, heights)[path[known[path]]].reshape(-1, 2)
    axes.plot(
        *canvas.columns(best), color=canvas.WINNER, linewidth=2.2, zorder=4, gid="winner", solid_joinstyle="round"
    )


def _flats(result: Result, heights: Floats) -> Floats:
    """A level line for each segment, `(segments, 2, 2)`; one under way is as long as a generation."""
    start, end = result.frame.consumed.T
    ends = np.where(np.isnan(end), start + steps(result), end)
    return np.stack([np.column_stack([start, heights]), np.column_stack([ends, heights])], axis=1)


def _lanes(result: Result) -> Floats:
    """How far members of one option lie apart: for each segment, its member's distance from the middle."""
    members = result.frame.member[result.frame.ends]
    return 0.5 * (np.searchsorted(members, result.frame.member) + 0.5) / max(1, len(members)) - 0.25


def scale(axes: Axes, panel: Varied) -> None:
    """Limits, ticks and kind of the y axis, as the hyperparameter's domain asks for."""
    domain = panel.domain
    if options := panel.options:
        axes.set_yticks(range(len(options)), [canvas.plain(text.hparam(option)) for option in options])
        axes.set_ylim(-0.5, len(options) - 0.5)
        return
    low, high = float(domain["low"]), float(domain["high"])
    if domain.get("log"):
        room = (high / low) ** 0.04
        axes.set_yscale("log")
        axes.set_ylim(low / room, high * room)
        canvas.plain_log_ticks(axes)
    elif domain.get("log_complement"):
        canvas.complement_axis(axes, low, high)
    else:
        room = 0.04 * (high - low)
        axes.set_ylim(low - room, high + room)


def _schedule_legend(best: int | None) -> Iterator[Any]:
    from matplotlib.lines import Line2D

    if best is not None:
        label = f"best, member {best}, with its ancestry"
        yield Line2D([], [], color=canvas.WINNER, linewidth=2.2, label=label)
    yield Line2D([], [], color=canvas.CROWD, linewidth=1.3, label="all members")
