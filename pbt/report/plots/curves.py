"""Learning curves of all members, and the best one's ancestry among them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pbt.lineage import Segment
from pbt.member import SegmentKey
from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.canvas import Line
from pbt.report.plots.subject import CONSUMED, best_member, best_path, boundaries, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves_figure(result: Result, baseline: Result | None = None) -> Figure:
    """The objective over training, of every member; the best one's ancestry stands out.

    A member that took over another's weights goes on, after a dotted jump, from the donor's score. A second panel
    shows the later half closer, where scores lie close.

    Args:
        result: The run.
        baseline: A run to compare with, of which the best member is drawn.

    Raises:
        PbtError: matplotlib is not installed.
    """
    info, curves, path = result.run.info, _Curves(result), best_path(result)
    lines = [curves.along(path), _Curves(baseline).along(best_path(baseline)) if baseline else []]
    ends = sorted(boundaries(result))
    halves = [0.0] if len(ends) < 4 else [0.0, ends[len(ends) // 2 - 1]]
    figure = canvas.new_figure(8.0 if len(halves) == 1 else 11.5, 4.8)
    grid = figure.subplots(1, len(halves), squeeze=False, width_ratios=[3, 2][: len(halves)])[0]
    for axes, start, title in zip(
        grid, halves, ("Learning curves of all members", "The later half, closer"), strict=False
    ):
        canvas.dress(axes, title, CONSUMED, "")
        _draw_members(axes, curves)
        _draw_best(axes, lines[0], path)
        _draw_baseline(axes, lines[1], baseline)
        canvas.steps_ticks(axes, [end for end in ends if end >= start])
        _frame_curves(axes, curves, lines, start)
    grid[0].set_ylabel(canvas.objective_name(info["objective"], unit(info)))
    canvas.legend_below(figure, grid[0].get_legend_handles_labels()[0])
    return figure


class _Curves:
    """The objective's values by segment, as points over `consumed`."""

    def __init__(self, result: Result) -> None:
        objective = result.run.info["objective"]
        self.lineage = result.lineage
        self._points: dict[SegmentKey, Line] = defaultdict(list)
        for row in result.rows["metrics"]:
            if (row["split"], row["name"]) == (objective["split"], objective["metric"]):
                self._points[SegmentKey(row["member"], row["segment"])].append((row["consumed"], row["value"]))

    def along(self, path: Sequence[Segment]) -> Line:
        """The points of segments that follow each other."""
        return [point for segment in path for point in self._points[segment.key]]

    def stretches(self) -> Iterator[Line]:
        """Every member's life, cut where it took over other weights."""
        stretch: Line = []
        for _, segment in sorted(self.lineage.segments.items()):
            if segment.start != "own":
                yield stretch
                stretch = self._before(segment)
            stretch = stretch + self._points[segment.key]
        yield stretch

    def jumps(self) -> Iterator[Line]:
        """From a receiver's score to its donor's, at the moment it took over the donor's weights."""
        for segment in self.lineage.exploits():
            own = self._points[SegmentKey(segment.key.member, segment.key.index - 1)]
            taken = self._before(segment)
            if own and taken:
                yield [(segment.consumed[0], own[-1][1]), taken[0]]

    def _before(self, segment: Segment) -> Line:
        points = self._points[segment.parent] if segment.parent else []
        return [(segment.consumed[0], points[-1][1])] if points else []

    def by_moment(self) -> dict[float, list[float]]:
        """All values at each number of steps."""
        found: dict[float, list[float]] = defaultdict(list)
        for points in self._points.values():
            for at, value in points:
                found[at].append(value)
        return found

    def diverged(self) -> list[float]:
        """Steps at which there were values that are no numbers."""
        return [at for points in self._points.values() for at, value in points if not math.isfinite(value)]


def _draw_members(axes: Axes, curves: _Curves) -> None:
    from matplotlib.collections import LineCollection

    many = len(curves.lineage.members)
    crowd: dict[str, Any] = {"color": canvas.CROWD, "alpha": 0.8 if many <= 32 else 0.5}
    stretches = [stretch for stretch in curves.stretches() if stretch]
    width = 1.1 if many <= 32 else 0.7
    axes.add_collection(LineCollection(stretches, linewidths=width, zorder=3, gid="members", label="members", **crowd))
    lonely = [stretch[0] for stretch in stretches if len(stretch) == 1]
    axes.scatter(*canvas.columns(lonely), s=8, linewidths=0, zorder=3, **crowd)
    if jumps := list(curves.jumps()):
        axes.add_collection(LineCollection(jumps, linewidths=0.9, linestyles=":", zorder=2.5, gid="jumps", **crowd))
        ring: dict[str, Any] = {"facecolor": "white", "edgecolor": canvas.SOFT, "linewidths": 0.8}
        landed = canvas.columns([jump[1] for jump in jumps])
        axes.scatter(*landed, s=16 if many <= 32 else 8, zorder=4, gid="exploits", label="weights taken over", **ring)
    if troubles := curves.diverged():
        cross: dict[str, Any] = {"marker": "x", "color": canvas.INK, "s": 24, "linewidths": 1.4}
        top = axes.get_xaxis_transform()
        height = [0.98] * len(troubles)
        axes.scatter(troubles, height, transform=top, zorder=6, gid="diverged", label="diverged", **cross)


def _draw_best(axes: Axes, line: Line, path: Sequence[Segment]) -> None:
    if not line:
        return
    label = f"best, member {path[-1].key.member}, with its ancestry: {text.score(line[-1][1])}"
    axes.plot(*canvas.columns(line), color=canvas.WINNER, linewidth=2.2, zorder=5, label=label, gid="winner")
    axes.scatter(*canvas.columns(line[-1:]), color=canvas.WINNER, s=28, zorder=6)


def _draw_baseline(axes: Axes, line: Line, baseline: Result | None) -> None:
    if baseline is None or not line:
        return
    fixed = baseline.run.info["spec"]["strategy"]["name"] == "fixed"
    name = "best fixed configuration" if fixed else f"best of {baseline.run.id}"
    label = f"{name}, member {best_member(baseline)}: {text.score(line[-1][1])}"
    style: dict[str, Any] = {"color": canvas.BASELINE, "linewidth": 2.0, "linestyle": (0, (5, 2))}
    axes.plot(*canvas.columns(line), label=label, zorder=4.5, gid="baseline", **style)


def _frame_curves(axes: Axes, curves: _Curves, lines: Sequence[Line], start: float) -> None:
    """Limits that show what is usual from `start` on and, whole, the lines that matter."""
    moments = {at: values for at, values in curves.by_moment().items() if at >= start}
    groups = [*moments.values(), *([value] for line in lines for at, value in line if at >= start)]
    low, high = canvas.limits(groups)
    axes.set_ylim(low, high)
    places = [*moments, *(at for line in lines for at, _ in line if at >= start)] or [0.0, 1.0]
    room = 0.02 * (max(places) - min(places)) or 1.0
    axes.set_xlim(min(places) - room, max(places) + room)
    outside = sum(not low <= value <= high for values in moments.values() for value in values if math.isfinite(value))
    if outside:
        canvas.note(axes, f"{text.count(outside, 'score')} beyond the edge")
