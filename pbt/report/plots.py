"""Pictures of a run: its lineage, its learning curves, its schedules. Needs `pbt[plots]`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt.lineage import Segment
from pbt.member import Hparams, SegmentKey
from pbt.record.result import Result, load
from pbt.report import canvas, text
from pbt.report.canvas import Line
from pbt.report.lineage_plot import lineage_figure
from pbt.report.show import population_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "lineage_figure", "schedule_figure", "write_plots"]

_CONSUMED = "training steps of each member"


def write_plots(run: Path, folder: Path, baseline_run: Path | None = None) -> list[Path]:
    """Draw a run's pictures as PNG files: `lineage.png`, `curves.png`, `schedules.png`.

    Args:
        run: The run's folder.
        folder: Where the files go; made if it is not there.
        baseline_run: A run to compare with; its best member is drawn among the learning curves.

    Returns:
        The files; none if the run has not trained anything yet.

    Raises:
        PbtError: matplotlib is not installed.
        RunNotFound: There is no such run.
    """
    result = load(run)
    if not result.lineage.segments:
        return []
    info = result.run.info
    figures = {
        "lineage": lineage_figure(result.lineage, info["objective"], best=_best(result), unit=_unit(info)),
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


def _unit(info: Mapping[str, Any]) -> str:
    return str(info["metrics"].get(info["objective"]["metric"], {}).get("unit", ""))


def _path(result: Result) -> list[Segment]:
    """Segments that made the best member's weights."""
    best = _best(result)
    return [] if best is None else result.lineage.path(result.lineage.last(best).key)


def _boundaries(result: Result) -> set[float]:
    segments = result.lineage.segments.values()
    return {float(s.consumed[1]) for s in segments if s.consumed[1] is not None and s.status == "ended"}


# -------------------------------------------------------------------------------------------------------- curves


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
    info, curves, path = result.run.info, _Curves(result), _path(result)
    lines = [curves.along(path), _Curves(baseline).along(_path(baseline)) if baseline else []]
    ends = sorted(_boundaries(result))
    halves = [0.0] if len(ends) < 4 else [0.0, ends[len(ends) // 2 - 1]]
    figure = canvas.new_figure(8.0 if len(halves) == 1 else 11.5, 4.8)
    grid = figure.subplots(1, len(halves), squeeze=False, width_ratios=[3, 2][: len(halves)])[0]
    for axes, start, title in zip(
        grid, halves, ("Learning curves of all members", "The later half, closer"), strict=False
    ):
        canvas.dress(axes, title, _CONSUMED, "")
        _draw_members(axes, curves)
        _draw_best(axes, lines[0], path)
        _draw_baseline(axes, lines[1], baseline)
        canvas.steps_ticks(axes, [end for end in ends if end >= start])
        _frame_curves(axes, curves, lines, start)
    grid[0].set_ylabel(canvas.objective_name(info["objective"], _unit(info)))
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
    label = f"{name}, member {_best(baseline)}: {text.score(line[-1][1])}"
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


# ----------------------------------------------------------------------------------------------------- schedules


def schedule_figure(result: Result) -> Figure:
    """Each varied hyperparameter over training, of every member; what the best one's weights saw stands out.

    Args:
        result: The run.

    Raises:
        PbtError: matplotlib is not installed.
    """
    panels = [panel for name, domain in result.run.info["hparams"].items() for panel in _panels(name, domain)]
    columns = 1 if len(panels) == 1 else 2 if len(panels) <= 6 else 3
    rows = math.ceil(len(panels) / columns)
    figure = canvas.new_figure(5.2 * columns if columns > 1 else 8.0, 1.1 + 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    path = _path(result)
    for number, (title, keys, domain) in enumerate(panels):
        axes = grid[number]
        _draw_schedule(axes, result, path, keys, domain)
        canvas.dress(axes, title, _CONSUMED if number + columns >= len(panels) else "", "")
        canvas.steps_ticks(axes, {0.0} | _boundaries(result))
        _scale(axes, domain)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    canvas.headline(figure, "Schedules: what the members trained with")
    canvas.legend_below(figure, _schedule_legend(path))
    return figure


def _panels(name: str, domain: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], Mapping[str, Any]]]:
    """Title, keys into the hyperparameters, and domain: one panel, or several for a simplex."""
    if domain.get("type") == "simplex":
        share = {"type": "float", "low": 0.0, "high": 1.0}
        first, *others = domain["parts"]
        if len(others) == 1:
            return [(f"{name}: share of {first} (the rest is {others[0]})", (name, first), share)]
        return [(f"{name}: share of {part}", (name, part), share) for part in domain["parts"]]
    return [(name, (name,), domain)]


def _draw_schedule(
    axes: Axes, result: Result, path: Sequence[Segment], keys: tuple[str, ...], domain: Mapping[str, Any]
) -> None:
    from matplotlib.collections import LineCollection

    members = result.lineage.members
    alpha = 0.75 if len(members) <= 32 else 0.4
    lines = list(_flats(result.lineage.segments.values(), result, keys, domain, members))
    axes.add_collection(
        LineCollection(lines, colors=canvas.CROWD, linewidths=1.3, alpha=alpha, gid="members", zorder=3)
    )
    steps = [point for line in _flats(path, result, keys, domain) for point in line]
    axes.plot(
        *canvas.columns(steps), color=canvas.WINNER, linewidth=2.2, zorder=4, gid="winner", solid_joinstyle="round"
    )


def _flats(
    segments: Iterable[Segment],
    result: Result,
    keys: tuple[str, ...],
    domain: Mapping[str, Any],
    spread: Sequence[int] = (),
) -> Iterator[Line]:
    """A level line for each segment; where options are few, members a little apart if `spread` names them."""
    steps = result.run.info["spec"]["budget"]["steps"]
    for segment in segments:
        height = _height(segment.hparams, keys, domain)
        if height is not None:
            if spread and domain.get("options"):
                height += 0.5 * (spread.index(segment.key.member) + 0.5) / len(spread) - 0.25
            start, end = segment.consumed
            yield [(start, height), (start + steps if end is None else end, height)]


def _height(hparams: Hparams, keys: tuple[str, ...], domain: Mapping[str, Any]) -> float | None:
    """Where a value lies; options by their place. None where the hyperparameter is not active."""
    value: Any = hparams
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if "options" in domain:
        options = list(domain["options"])
        return float(options.index(value)) if value in options else None
    return None if value is None else float(value)


def _scale(axes: Axes, domain: Mapping[str, Any]) -> None:
    if options := list(domain.get("options", ())):
        axes.set_yticks(range(len(options)), [text.hparam(option) for option in options])
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
