"""Pictures of a run, as PNG files: its lineage, its learning curves, its schedules. Needs `pbt[plots]`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt.lineage import Lineage, Segment
from pbt.record.result import Result, load
from pbt.report import canvas, text
from pbt.report.show import population_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEPS = "training steps the member ran itself"

#: A place in a picture.
Point = tuple[float, float]


def write_plots(run: Path, folder: Path, baseline_run: Path | None = None) -> list[Path]:
    """Draw a run's pictures.

    Args:
        run: The run's folder.
        folder: Where the PNG files go; made if it is not there.
        baseline_run: A run to compare with; its best member is drawn beside the learning curves.

    Returns:
        The files.

    Raises:
        PbtError: matplotlib is not installed.
        RunNotFound: There is no such run.
    """
    result = load(run)
    figures = {
        "lineage": lineage_figure(result.lineage, result.run.info["objective"], best=_best(result), unit=_unit(result)),
        "curves": curves_figure(result, load(baseline_run) if baseline_run else None),
        "schedules": schedule_figure(result),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=canvas.DPI)
    return [folder / f"{name}.png" for name in figures]


def _best(result: Result) -> int | None:
    best = population_of(result).best
    return None if best is None else best.member


def _unit(result: Result) -> str:
    about = result.run.info["metrics"].get(result.run.info["objective"]["metric"], {})
    return str(about.get("unit", ""))


def _axis_name(objective: Mapping[str, Any], unit: str) -> str:
    direction = "lower" if objective["mode"] == "min" else "higher"
    name = f"{objective['split']} {objective['metric']}"
    return f"{name} [{unit}], {direction} is better" if unit else f"{name}, {direction} is better"


# ------------------------------------------------------------------------------------------------------- lineage


def lineage_figure(
    lineage: Lineage, objective: Mapping[str, Any], *, best: int | None = None, unit: str = ""
) -> Figure:
    """Every member's life as a row of segments, coloured by score, and every taking over of weights as a line.

    Args:
        lineage: All segments.
        objective: `metric`, `mode` and `split`.
        best: The winner, whose ancestry is traced; None traces nobody's.
        unit: Of the metric.
    """
    members = lineage.members
    row = {member: place for place, member in enumerate(members)}
    width = max(8.0, min(16.0, 4.0 + 0.55 * (1 + max(s.generation for s in lineage.segments.values()))))
    figure = canvas.new_figure(width, 1.9 + max(2.0, len(members) * max(0.165, 0.34 - 0.006 * len(members))))
    axes = figure.add_subplot()
    canvas.dress(axes, "Lineage: whose weights each member carries on", _STEPS, "member")
    map_ = _Map(lineage, row)
    path = set() if best is None else {segment.key for segment in lineage.path(lineage.last(best).key)}
    _draw_rows(figure, axes, map_, path, objective, unit)
    _draw_exploits(axes, map_, path)
    marked = _draw_ends(axes, map_)
    _label_members(axes, members, best)
    canvas.steps_ticks(axes)
    _label_generations(axes, lineage)
    canvas.legend_below(figure, _lineage_legend(axes, best, bool(lineage.exploits()), marked))
    return figure


@dataclass(frozen=True)
class _Map:
    """Where things go: segments begin a gap after their start, and lines between members run in the gaps."""

    lineage: Lineage
    row: Mapping[int, int]

    @property
    def segments(self) -> list[Segment]:
        return list(self.lineage.segments.values())

    @property
    def gap(self) -> float:
        return 0.22 * self.length

    @property
    def length(self) -> float:
        lengths = [end - start for start, end in (segment.consumed for segment in self.segments) if end is not None]
        return max(1.0, sorted(lengths)[len(lengths) // 2]) if lengths else 1.0

    def span(self, segment: Segment) -> tuple[float, float]:
        """Where a segment is drawn along x; one under way as long as most."""
        start, end = segment.consumed
        return start + self.gap, max(start + self.gap, start + self.length if end is None else end)

    def lanes(self) -> Iterator[tuple[Segment, Segment, float]]:
        """Copied segments with their donors' and the x at which the line between them runs.

        Lines of one moment that would run over each other get lanes of their own; those of one donor share one.
        """
        moments: dict[float, dict[Segment, list[Segment]]] = defaultdict(lambda: defaultdict(list))
        for segment in self.lineage.exploits():
            if segment.parent is not None:
                donor = self.lineage.segments[segment.parent]
                moments[segment.consumed[0]][_Same(donor)].append(segment)
        for start, donors in moments.items():
            spans = {donor: self._rows(donor, receivers) for donor, receivers in donors.items()}
            lane = _lanes(spans)
            num_lanes = 1 + max(lane.values())
            for donor, receivers in donors.items():
                at = start + self.gap * (0.2 + 0.5 * (lane[donor] + 0.5) / num_lanes)
                for receiver in receivers:
                    yield receiver, donor, at

    def _rows(self, donor: Segment, receivers: Sequence[Segment]) -> tuple[int, int]:
        rows = [self.row[segment.key.member] for segment in (donor, *receivers)]
        return min(rows), max(rows)
