"""The picture of a lineage: members as rows, segments coloured by score, lines where weights were taken over."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pbt.lineage import Lineage, Segment
from pbt.member import SegmentKey
from pbt.report import canvas
from pbt.report.canvas import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Members that are drawn; of more, the winner's ancestors and the best of the others.
_MEMBERS = 64
#: Segments begin this share of their length late; the lines between members run in the gaps.
_GAP = 0.24


def lineage_figure(
    lineage: Lineage, objective: Mapping[str, Any], *, best: int | None = None, unit: str = ""
) -> Figure:
    """Every member's life as a row of segments, coloured by score, and every taking over of weights as a line.

    Args:
        lineage: All segments.
        objective: `metric`, `mode` and `split`.
        best: The winner, whose ancestry is traced; None traces nobody's.
        unit: Of the metric.

    Raises:
        PbtError: matplotlib is not installed.
    """
    path = [] if best is None else lineage.path(lineage.last(best).key)
    place = _Places(lineage, _chosen(lineage, path, objective["mode"]))
    last = max(segment.generation for segment in place.segments)
    figure = canvas.new_figure(min(16.0, max(8.0, 3.5 + 0.55 * last)), 1.9 + place.row_height * len(place.row))
    axes = figure.add_subplot()
    few = f" ({len(place.members)} of {len(lineage.members):,} members: the best, and the winner's ancestors)"
    title = "Lineage: whose weights each member carries on" + few * (len(place.members) < len(lineage.members))
    canvas.dress(axes, title, "training steps of each member", "member")
    _draw_segments(figure, axes, place, path, objective, unit)
    _draw_lines(axes, place, path)
    _draw_ends(axes, place)
    _label(axes, place, best)
    canvas.legend_below(figure, _legend(place, best))
    return figure


def _chosen(lineage: Lineage, path: Sequence[Segment], mode: str) -> tuple[int, ...]:
    """Members to draw: all, or where there are many, those that trained the winner's weights and the best others."""
    members = lineage.members
    if len(members) <= _MEMBERS:
        return tuple(members)
    sign = 1 if mode == "min" else -1

    def rank(member: int) -> tuple[bool, bool, float]:
        score = lineage.last(member).score
        is_scored = score is not None and math.isfinite(score) and lineage.is_living(member)
        return member not in proud, not is_scored, sign * (score or 0.0) if is_scored else 0.0

    proud = {segment.key.member for segment in path}
    return tuple(sorted(sorted(members, key=rank)[:_MEMBERS]))


@dataclass(frozen=True)
class _Places:
    """Where things go."""

    lineage: Lineage
    members: tuple[int, ...]

    @cached_property
    def segments(self) -> list[Segment]:
        """Those of the members that are drawn."""
        return [segment for member in self.members for segment in self.lineage.of(member)]

    @cached_property
    def exploits(self) -> list[Segment]:
        """Copies between members that are drawn."""
        found = [segment for segment in self.segments if segment.start == "copied" and self.has_link(segment)]
        return sorted(found, key=lambda segment: (segment.generation, segment.key))

    def has_link(self, segment: Segment) -> bool:
        """Whether the member whose weights it starts from is drawn, too."""
        return segment.parent is not None and segment.parent.member in self.row

    @cached_property
    def row(self) -> dict[int, int]:
        """Row of each member, counted from the top."""
        return {member: row for row, member in enumerate(self.members)}

    @cached_property
    def row_height(self) -> float:
        """Inches: comfortable for few members, tight for many."""
        return max(0.165, 0.4 - 0.012 * len(self.row))

    @cached_property
    def length(self) -> float:
        """Steps of a usual segment."""
        spans = [segment.consumed for segment in self.segments]
        lengths = [end - start for start, end in spans if end is not None]
        return max(1.0, statistics.median(lengths)) if lengths else 1.0

    def span(self, segment: Segment) -> tuple[float, float]:
        """Where a segment is drawn along x; one under way is as long as most."""
        start, end = segment.consumed
        begin = start + _GAP * self.length
        return begin, max(begin, start + self.length if end is None else end)

    def bar(self, segment: Segment) -> Line:
        """A segment's line."""
        row = self.row[segment.key.member]
        return [(x, row) for x in self.span(segment)]

    def link(self, segment: Segment, lane: float) -> Line:
        """The line from the end of a segment's parent to its start; `lane` is where it changes rows."""
        assert segment.parent is not None
        parent = self.lineage.segments[segment.parent]
        above, below = self.row[parent.key.member], self.row[segment.key.member]
        return [(self.span(parent)[1], above), (lane, above), (lane, below), (self.span(segment)[0], below)]

    @cached_property
    def lanes(self) -> dict[SegmentKey, float]:
        """For each copied segment, the x at which the line from its donor changes rows.

        Lines of one moment that would run over each other get lanes of their own; those of one donor share one.
        """
        moments: dict[int, dict[SegmentKey, list[Segment]]] = defaultdict(lambda: defaultdict(list))
        for segment in self.exploits:
            if segment.parent is not None:
                moments[segment.consumed[0]][segment.parent].append(segment)
        found: dict[SegmentKey, float] = {}
        for start, families in moments.items():
            lane = assign_lanes({donor: self._rows(donor, heirs) for donor, heirs in families.items()})
            for donor, heirs in families.items():
                share = (lane[donor] + 1) / (max(lane.values()) + 2)
                found |= {heir.key: start + _GAP * self.length * (0.05 + 0.8 * share) for heir in heirs}
        return found

    def _rows(self, donor: SegmentKey, heirs: Sequence[Segment]) -> tuple[int, int]:
        rows = [self.row[donor.member], *(self.row[heir.key.member] for heir in heirs)]
        return min(rows), max(rows)


def assign_lanes(spans: Mapping[SegmentKey, tuple[int, int]]) -> dict[SegmentKey, int]:
    """The lowest lane for each span of rows in which it meets no other, shortest spans first."""
    taken: list[list[tuple[int, int]]] = []
    lanes = {}
    for key, (low, high) in sorted(spans.items(), key=lambda item: (item[1][1] - item[1][0], item[0])):
        free = (lane for lane, rows in enumerate(taken) if all(high < a or b < low for a, b in rows))
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        lanes[key] = lane
    return lanes


def _thickness(place: _Places) -> float:
    """Of a segment's bar, in points, so that rows stay apart."""
    return min(9.0, 72 * place.row_height * 0.5)


def _draw_segments(
    figure: Figure, axes: Axes, place: _Places, path: Sequence[Segment], objective: Mapping[str, Any], unit: str
) -> None:
    from matplotlib.collections import LineCollection

    thick, small_is_good = _thickness(place), objective["mode"] == "min"
    segments = place.segments
    scored = [segment for segment in segments if segment.score is not None and math.isfinite(segment.score)]
    blank = [segment for segment in segments if segment.score is None or not math.isfinite(segment.score)]
    generations: dict[int, list[float]] = defaultdict(list)
    for segment in scored:
        generations[segment.generation].append(segment.score or 0.0)
    low, high = canvas.limits(generations.values(), pad=0.0)
    halo = LineCollection(
        [place.bar(s) for s in path if s.key.member in place.row], colors=canvas.WINNER, linewidths=thick + 4, zorder=3
    )
    bars = LineCollection([place.bar(s) for s in scored], linewidths=thick, zorder=4)
    norm = canvas.score_norm(low, high, reverse=small_is_good)
    bars.set(array=[segment.score for segment in scored], norm=norm)
    bars.set_cmap(canvas.score_colours(reverse=small_is_good))
    pale = LineCollection([place.bar(s) for s in blank], colors=canvas.FAINT, linewidths=thick, zorder=4)
    for collection, label in ((halo, "ancestry"), (bars, "segments"), (pale, "no score")):
        collection.set_capstyle("butt")
        collection.set_gid(label)
        axes.add_collection(collection)
    if scored:
        extend = canvas.extension([segment.score or 0.0 for segment in scored], low, high)
        aspect = 6 * (figure.get_figheight() - 1.5)
        bar = figure.colorbar(bars, ax=axes, pad=0.015, fraction=0.03, aspect=aspect, extend=extend, extendfrac=0.03)
        ticks = [float(norm.inverse(share / 5)) for share in range(6)]
        bar.set_ticks(ticks, labels=[f"{tick:#.3g}".rstrip(".") for tick in ticks])
        bar.set_label(canvas.objective_name(objective, unit), color=canvas.SOFT, fontsize=8)
        bar.ax.tick_params(labelsize=8, colors=canvas.SOFT, length=0)
        bar.outline.set_visible(False)


def _draw_lines(axes: Axes, place: _Places, path: Sequence[Segment]) -> None:
    """Thin lines where a member goes on, darker ones with a head where it takes over another's weights."""
    from matplotlib.collections import LineCollection

    traced = {segment.key for segment in path}
    own = [place.link(s, place.span(s)[0]) for s in place.segments if s.start == "own" and s.parent]
    copies = [s for s in place.exploits if s.key in place.lanes]
    plain = [s for s in copies if s.key not in traced]
    proud = [place.link(s, place.lanes.get(s.key, place.span(s)[0])) for s in path if place.has_link(s)]
    for lines, colour, width, zorder, label in (
        (own, canvas.FAINT, 1.2, 2, "own"),
        ([place.link(s, place.lanes[s.key]) for s in plain], canvas.SOFT, 0.9, 2.5, "exploits"),
        (proud, canvas.WINNER, 2.0, 3, "ancestry links"),
    ):
        collection = LineCollection(lines, colors=colour, linewidths=width, zorder=zorder)
        collection.set(gid=label, capstyle="round", joinstyle="round")
        axes.add_collection(collection)
    size = min(26.0, 2.6 * _thickness(place))
    for segments, colour in ((plain, canvas.SOFT), ([s for s in copies if s.key in traced], canvas.WINNER)):
        heads = [place.bar(segment)[0] for segment in segments]
        axes.scatter(*canvas.columns(heads), marker=">", s=size, color=colour, linewidths=0, zorder=5, gid="heads")


def _draw_ends(axes: Axes, place: _Places) -> None:
    """A cross where a member failed, a ring where it diverged."""
    segments = place.segments
    failed = [place.bar(s)[1] for s in segments if s.status == "failed"]
    diverged = [
        place.bar(s)[1] for s in segments if s.status == "ended" and s.score is not None and math.isnan(s.score)
    ]
    size = 3.2 * _thickness(place)
    axes.scatter(*canvas.columns(failed), marker="x", s=size, color=canvas.INK, linewidths=1.6, zorder=6, gid="failed")
    axes.scatter(
        *canvas.columns(diverged), marker="o", s=size, facecolor="white", edgecolor=canvas.INK, zorder=6, gid="diverged"
    )


def _label(axes: Axes, place: _Places, best: int | None) -> None:
    members = list(place.row)
    axes.set_ylim(len(members) - 0.4, -0.6)
    axes.set_yticks(range(len(members)), [str(member) for member in members])
    axes.grid(False, axis="y")
    if best in place.row:
        label = axes.get_yticklabels()[place.row[best]]
        label.set(color=canvas.WINNER, fontweight="bold")
    ends = [place.span(segment)[1] for segment in place.segments if segment.status != "failed"]
    axes.set_xlim(-0.02 * max(ends), 1.01 * max(ends))
    canvas.steps_ticks(axes, [0.0, *ends])
    _label_generations(axes, place)


def _label_generations(axes: Axes, place: _Places) -> None:
    """Numbers of the generations along the top, counted from 1, over their middles."""
    middles: dict[int, list[float]] = defaultdict(list)
    for segment in place.segments:
        if segment.status != "failed":
            middles[segment.generation].append(statistics.fmean(place.span(segment)))
    every = 1 + (len(middles) - 1) // 20
    shown = {1 + generation: statistics.median(xs) for generation, xs in middles.items() if generation % every == 0}
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(shown.values()), [str(generation) for generation in shown])
    top.tick_params(colors=canvas.SOFT, labelsize=8, length=0, pad=1)
    top.spines["top"].set_visible(False)
    top.set_xlabel("generation", color=canvas.SOFT, fontsize=8, labelpad=3)


def _legend(place: _Places, best: int | None) -> Iterator[Any]:
    from matplotlib.lines import Line2D

    line: list[float] = []
    if best is not None:
        yield Line2D(line, line, color=canvas.WINNER, linewidth=4, label=f"ancestry of the best, member {best}")
    if place.exploits:
        yield Line2D(line, line, color=canvas.SOFT, linewidth=1, marker=">", markersize=5, label="weights taken over")
    segments = place.segments
    if any(s.status == "ended" and s.score is not None and math.isnan(s.score) for s in segments):
        ring = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": canvas.INK, "markersize": 6}
        yield Line2D(line, line, linestyle="", label="diverged", **ring)  # type: ignore[arg-type]
    if any(s.status == "running" for s in segments):
        yield Line2D(line, line, color=canvas.FAINT, linewidth=6, label="under way")
    if any(s.status == "failed" for s in segments):
        yield Line2D(line, line, linestyle="", marker="x", color=canvas.INK, markersize=6, label="failed")
