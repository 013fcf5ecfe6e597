"""What the members trained with, over training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pbt.lineage import Segment
from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.canvas import Line
from pbt.report.plots.subject import CONSUMED, Varied, best_path, boundaries, steps, varied

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
    path = best_path(result)
    for number, panel in enumerate(panels):
        axes = grid[number]
        _draw_schedule(axes, result, path, panel)
        canvas.dress(axes, panel.title, CONSUMED if number + columns >= len(panels) else "", "")
        canvas.steps_ticks(axes, {0.0} | boundaries(result))
        scale(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    canvas.headline(figure, "Schedules: what the members trained with")
    canvas.legend_below(figure, _schedule_legend(path))
    return figure


def _draw_schedule(axes: Axes, result: Result, path: Sequence[Segment], panel: Varied) -> None:
    from matplotlib.collections import LineCollection

    members = result.lineage.members
    alpha = 0.75 if len(members) <= 32 else 0.4
    lines = list(_flats(result.lineage.segments.values(), result, panel, members))
    axes.add_collection(
        LineCollection(lines, colors=canvas.CROWD, linewidths=1.3, alpha=alpha, gid="members", zorder=3)
    )
    steps = [point for line in _flats(path, result, panel) for point in line]
    axes.plot(
        *canvas.columns(steps), color=canvas.WINNER, linewidth=2.2, zorder=4, gid="winner", solid_joinstyle="round"
    )


def _flats(segments: Iterable[Segment], result: Result, panel: Varied, spread: Sequence[int] = ()) -> Iterator[Line]:
    """A level line for each segment; where options are few, members a little apart if `spread` names them."""
    length = steps(result)
    lane = {member: 0.5 * (number + 0.5) / len(spread) - 0.25 for number, member in enumerate(spread)}
    for segment in segments:
        height = panel.height(segment.hparams)
        if height is not None:
            if spread and panel.options:
                height += lane[segment.key.member]
            start, end = segment.consumed
            yield [(start, height), (start + length if end is None else end, height)]


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


def _schedule_legend(path: Sequence[Segment]) -> Iterator[Any]:
    from matplotlib.lines import Line2D

    if path:
        label = f"best, member {path[-1].key.member}, with its ancestry"
        yield Line2D([], [], color=canvas.WINNER, linewidth=2.2, label=label)
    yield Line2D([], [], color=canvas.CROWD, linewidth=1.3, label="all members")
