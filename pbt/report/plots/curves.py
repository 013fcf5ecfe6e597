"""Learning curves of all members, and the best one's ancestry among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.record.frame import Flags, Floats, Frame, Ints, points
from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.plots.subject import CONSUMED, best_entries, best_member, boundaries, unit

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
    info, curves = result.run.info, _curves(result)
    best = curves.along(best_entries(result))
    other = _curves(baseline).along(best_entries(baseline)) if baseline else best[:0]
    ends = sorted(boundaries(result))
    halves = [0.0] if len(ends) < 4 else [0.0, ends[len(ends) // 2 - 1]]
    figure = canvas.new_figure(8.0 if len(halves) == 1 else 11.5, 4.8)
    grid = figure.subplots(1, len(halves), squeeze=False, width_ratios=[3, 2][: len(halves)])[0]
    for axes, start, title in zip(
        grid, halves, ("Learning curves of all members", "The later half, closer"), strict=False
    ):
        canvas.dress(axes, title, CONSUMED, "")
        _draw_members(axes, curves)
        _draw_best(axes, best, best_member(result))
        _draw_baseline(axes, other, baseline)
        canvas.steps_ticks(axes, [end for end in ends if end >= start])
        _frame_curves(axes, curves.points, np.concatenate([best, other]), start)
    grid[0].set_ylabel(canvas.objective_name(info["objective"], unit(info)))
    canvas.legend_below(figure, grid[0].get_legend_handles_labels()[0])
    return figure


@dataclass(frozen=True)
class _Curves:
    """The objective over training.

    Attributes:
        frame: All segments.
        points: Steps and value of every evaluation, in order of the segments, `(points, 2)`.
        until: For each segment, the place behind its last point.
    """

    frame: Frame
    points: Floats
    until: Ints

    @cached_property
    def since(self) -> Ints:
        """For each segment, the place of its first point."""
        return np.append(0, self.until)[: len(self.until)]

    @cached_property
    def last(self) -> Floats:
        """For each segment, its last value; NaN without one."""
        values = np.append(self.points[:, 1], np.nan)
        return np.where(self.is_measured, values[self.until - 1], np.nan)

    @cached_property
    def is_measured(self) -> Flags:
        """For each segment, whether it has a value."""
        return self.until > self.since

    def along(self, path: Ints) -> Floats:
        """The points of segments that follow each other."""
        pieces = [self.points[self.since[entry] : self.until[entry]] for entry in path]
        return np.concatenate([self.points[:0], *pieces])

    @cached_property
    def begins(self) -> Ints:
        """Segments that began on fresh weights or on another member's."""
        return np.flatnonzero(~self.frame.is_own)

    @cached_property
    def handed(self) -> Floats:
        """For each of these, where it sets out: the moment, and the score of the donor; NaN without one."""
        given = np.where(self.is_handed, self.last[self.frame.parent[self.begins]], np.nan)
        return np.column_stack([self.frame.consumed[self.begins, 0], given])

    @cached_property
    def is_handed(self) -> Flags:
        """For each of these, whether there is a donor with a value."""
        parent = self.frame.parent[self.begins]
        return (parent >= 0) & self.is_measured[parent]

    def lives(self) -> list[Floats]:
        """Every member's life as a line, with a gap where it took over other weights."""
        gaps = np.stack([np.full_like(self.handed, np.nan), self.handed], axis=1)
        line = np.insert(self.points, np.repeat(self.since[self.begins], 2), gaps.reshape(-1, 2), axis=0)
        firsts = np.flatnonzero(np.diff(self.frame.member)) + 1
        return np.split(line, self.since[firsts] + 2 * np.searchsorted(self.begins, firsts))

    def lonely(self) -> Floats:
        """Points that no other follows or goes before until other weights are taken over."""
        of_own = np.diff(np.append(self.since[self.begins], len(self.points)))
        alone = self.since[self.begins[~self.is_handed & (of_own == 1)]]
        return np.concatenate([self.handed[self.is_handed & (of_own == 0)], self.points[alone]])

    def jumps(self) -> tuple[Floats, Ints]:
        """From a receiver's score to its donor's, when it took over the donor's weights; and whose these are."""
        frame = self.frame
        before = frame.find(frame.member[self.begins], frame.segment[self.begins] - 1)
        taken = frame.is_copy[self.begins] & self.is_handed & (before >= 0) & self.is_measured[before]
        landed = self.handed[taken]
        left = np.column_stack([landed[:, 0], self.last[before[taken]]])
        return np.stack([left, landed], axis=1), frame.member[self.begins[taken]]

    @cached_property
    def diverged(self) -> Floats:
        """Steps at which there were values that are no numbers."""
        return self.points[~np.isfinite(self.points[:, 1]), 0]


def _curves(result: Result) -> _Curves:
    objective, frame = result.run.info["objective"], result.frame
    found = points(result.tables["metrics"], frame, objective["split"], objective["metric"])
    return _Curves(frame, np.column_stack([found.consumed, found.value]), found.until(len(frame)))


def _draw_members(axes: Axes, curves: _Curves) -> None:
    from matplotlib.collections import LineCollection

    lives = curves.lives()
    few = len(lives) <= 32
    # Where they are many, they are an image also in files of lines.
    crowd: dict[str, Any] = {"color": canvas.CROWD, "alpha": 0.8 if few else 0.5, "rasterized": not few}
    width = 1.1 if few else 0.7
    axes.add_collection(LineCollection(lives, linewidths=width, zorder=3, gid="members", label="members", **crowd))
    axes.scatter(*canvas.columns(curves.lonely()), s=8, linewidths=0, zorder=3, **crowd)
    jumps, whose = curves.jumps()
    if len(jumps):
        dots: dict[str, Any] = {"linewidths": 0.9, "linestyles": ":", "snap": True, **crowd}
        axes.add_collection(LineCollection(canvas.broken(jumps, whose), zorder=2.5, gid="jumps", **dots))
        ring: dict[str, Any] = {"facecolor": "white", "edgecolor": canvas.SOFT, "linewidths": 0.8}
        ring |= {"s": 16 if few else 8, "rasterized": not few}
        axes.scatter(*canvas.columns(jumps[:, 1]), zorder=4, gid="exploits", label="weights taken over", **ring)
    if len(curves.diverged):
        cross: dict[str, Any] = {"marker": "x", "color": canvas.INK, "s": 24, "linewidths": 1.4}
        top = axes.get_xaxis_transform()
        height = np.full(len(curves.diverged), 0.98)
        axes.scatter(curves.diverged, height, transform=top, zorder=6, gid="diverged", label="diverged", **cross)


def _draw_best(axes: Axes, line: Floats, best: int | None) -> None:
    if not len(line):
        return
    label = f"best, member {best}, with its ancestry: {text.score(line[-1, 1])}"
    axes.plot(*canvas.columns(line), color=canvas.WINNER, linewidth=2.2, zorder=5, label=label, gid="winner")
    axes.scatter(*canvas.columns(line[-1:]), color=canvas.WINNER, s=28, zorder=6)


def _draw_baseline(axes: Axes, line: Floats, baseline: Result | None) -> None:
    if baseline is None or not len(line):
        return
    fixed = baseline.run.info["spec"]["strategy"]["name"] == "fixed"
    name = "best fixed configuration" if fixed else f"best of {baseline.run.id}"
    label = f"{name}, member {best_member(baseline)}: {text.score(line[-1, 1])}"
    style: dict[str, Any] = {"color": canvas.BASELINE, "linewidth": 2.0, "linestyle": (0, (5, 2))}
    axes.plot(*canvas.columns(line), label=label, zorder=4.5, gid="baseline", **style)


def _frame_curves(axes: Axes, found: Floats, lines: Floats, start: float) -> None:
    """Limits that show what is usual from `start` on and, whole, the lines that matter."""
    found, lines = (points[points[:, 0] >= start] for points in (found, lines))
    found = found[np.argsort(found[:, 0], kind="stable")]
    moments = np.split(found[:, 1], np.flatnonzero(np.diff(found[:, 0])) + 1)
    low, high = canvas.limits([*moments, *lines[:, 1:]])
    axes.set_ylim(low, high)
    places = np.concatenate([found[:, 0], lines[:, 0]]) if len(found) else np.array([0.0, 1.0])
    room = 0.02 * np.ptp(places) or 1.0
    axes.set_xlim(places.min() - room, places.max() + room)
    finite = found[np.isfinite(found[:, 1]), 1]
    if outside := int(((finite < low) | (finite > high)).sum()):
        canvas.note(axes, f"{text.count(outside, 'score')} beyond the edge")
