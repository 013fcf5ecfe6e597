"""When each stack trained which generation, when it did not, and what went wrong meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.record.frame import Floats, Ints
from pbt.record.result import Result
from pbt.record.schema import to_rows
from pbt.record.story import is_routine
from pbt.report import canvas, text
from pbt.report.plots.elapsed import Elapsed, Work, busy, elapsed, work

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Stacks that have a row of their own, and the share of all time that a usual order must take to be drawn by itself.
_STACKS, _WIDE = 32, 0.0015
#: Rows and columns of the shares.
_ROWS, _COLUMNS = 64, 400
#: Pauses that are labelled.
_PAUSES = 6

#: Marks of incidents; whatever is not named is `other`.
_MARKS = {"host_lost": ("v", "host lost"), "moved": (">", "moved"), "other": ("X", "other incident")}


def timeline_figure(result: Result) -> Figure:
    """Work orders of each stack over time; what is shaded is idle. Pauses between sessions are left out.

    Args:
        result: The run.

    Raises:
        PbtError: matplotlib is not installed.
    """
    found, clock = work(result), elapsed(result)
    stacks = np.unique(result.frame.stack)
    row_of = _rows_of(stacks)
    one_by_one = len(stacks) <= _STACKS and _are_wide(found, clock)
    num_rows = int(row_of.max()) + 1
    figure = canvas.new_figure(
        11.5, 2.2 + (0.42 if num_rows <= 8 else 0.24 if num_rows <= _STACKS else 0.09) * num_rows
    )
    axes = figure.add_subplot()
    rows = row_of[np.searchsorted(stacks, found.stack)]
    seconds, unit = _unit(clock.total)
    (_draw_orders if one_by_one else _draw_shares)(figure, axes, found, clock, rows, seconds)
    shares = idle_shares(result, found, clock)
    incidents = [row for row in to_rows(result.tables["incidents"]) if not is_routine(row)]
    marked = _draw_incidents(axes, incidents, clock, dict(zip(stacks.tolist(), row_of.tolist(), strict=True)), seconds)
    whole = f"idle {100 * shares.mean():.0f}% of the time" if len(found.end) else "nothing has come to its end yet"
    pauses = f", {text.count(len(clock.pauses), 'pause')} between sessions left out" if len(clock.pauses) else ""
    canvas.dress(axes, f"When each stack trained: {whole}", f"{unit} since the beginning{pauses}", "stack")
    if len(clock.pauses):
        _draw_pauses(axes, clock, seconds)
    is_headed = any(row["stack"] is None for row in incidents)
    _label(axes, stacks, row_of, shares if one_by_one else None, -1.3 if is_headed else -0.6)
    axes.set_xlim(0, max(clock.total / seconds, 1e-9))
    canvas.legend_below(figure, [*_legend(found, one_by_one), *marked])
    return figure


def idle_shares(result: Result, found: Work, clock: Elapsed) -> Floats:
    """For each stack, the share of time without an order at work, from its first decision to the newest row."""
    frame = result.frame
    stacks, place = np.unique(frame.stack, return_inverse=True)
    begun = np.full(len(stacks), np.inf)
    np.minimum.at(begun, place, frame.decided_at)
    worked = np.bincount(np.searchsorted(stacks, found.stack), weights=found.wall_s, minlength=len(stacks))
    whole = np.maximum(clock.total - clock(begun), 1e-9)
    return np.clip(1.0 - worked / whole, 0.0, 1.0)


def _rows_of(stacks: Ints) -> Ints:
    """The row of each stack; neighbours share one where there are many."""
    together = max(1, -(-len(stacks) // _ROWS))
    return np.arange(len(stacks)) // together


def _are_wide(found: Work, clock: Elapsed) -> bool:
    """Whether orders take long enough to be seen one by one."""
    return not len(found.end) or float(np.median(found.wall_s)) >= _WIDE * clock.total


def _unit(total: float) -> tuple[float, str]:
    return next((length, name) for length, name, least in _UNITS if total >= least)


_UNITS = (
    (86400.0, "days", 3 * 86400.0),
    (3600.0, "hours", 2 * 3600.0),
    (60.0, "minutes", 120.0),
    (1.0, "seconds", -1.0),
)


def _draw_orders(figure: Figure, axes: Axes, found: Work, clock: Elapsed, rows: Ints, seconds: float) -> None:
    """A bar for each order, on a shaded row; bars of consecutive generations differ."""
    from matplotlib.collections import PolyCollection

    num_rows = int(rows.max()) + 1 if len(rows) else 1
    end = clock.total / seconds
    axes.barh(np.arange(num_rows), end, height=0.74, color=canvas.GRID, zorder=2, gid="idle")
    left, right = clock(found.start) / seconds, clock(found.end) / seconds
    corners = [
        [(a, row - 0.37), (b, row - 0.37), (b, row + 0.37), (a, row + 0.37)]
        for a, b, row in zip(left, right, rows, strict=True)
    ]
    shades = np.array(["#0072b2", "#56b4e9"])[found.generation % 2]
    bars = PolyCollection(corners, facecolors=shades.tolist(), linewidths=0, zorder=3, gid="orders")
    axes.add_collection(bars)
    _number_generations(axes, found, left, right, rows, end)


def _number_generations(axes: Axes, found: Work, left: Floats, right: Floats, rows: Ints, end: float) -> None:
    """Numbers in those bars that have room for them."""
    room = 0.012 * end
    for number in np.flatnonzero(right - left > room):
        label = str(found.generation[number] + 1)
        if (right[number] - left[number]) > room * len(label):
            place = ((left[number] + right[number]) / 2, rows[number])
            axes.annotate(label, place, ha="center", va="center", fontsize=7, color="white", zorder=4, gid="generation")


def _draw_shares(figure: Figure, axes: Axes, found: Work, clock: Elapsed, rows: Ints, seconds: float) -> None:
    """How much of each span of time the stacks of a row worked."""
    edges = np.linspace(0.0, max(clock.total, 1e-9), _COLUMNS + 1)
    num_stacks = np.array([len(np.unique(found.stack[rows == row])) for row in range(int(rows.max()) + 1)])
    shares = busy(found, clock, rows, edges) / np.diff(edges) / num_stacks[:, None]
    places = np.arange(len(shares) + 1) - 0.5
    mesh = axes.pcolormesh(edges / seconds, places, shares, cmap=canvas.share_colours(), vmin=0.0, vmax=1.0)
    mesh.set(gid="shares", rasterized=True)
    bar = figure.colorbar(mesh, ax=axes, fraction=0.02, pad=0.01)
    bar.set_ticks([0, 0.5, 1], labels=["idle", "50%", "at work"])
    bar.ax.tick_params(labelsize=8, colors=canvas.SOFT, length=0)
    bar.outline.set_visible(False)
    axes.grid(False)


def _draw_incidents(
    axes: Axes, incidents: Sequence[Mapping[str, Any]], clock: Elapsed, row_of: Mapping[int, int], seconds: float
) -> list[Any]:
    """Marks on the stacks they concern, those of the whole sweep above all; returns entries of a legend."""
    from matplotlib.lines import Line2D

    handles = []
    for kind, (marker, name) in _MARKS.items():
        here = [row for row in incidents if (row["kind"] if row["kind"] in _MARKS else "other") == kind]
        if here:
            x = clock(np.array([row["at"] for row in here])) / seconds
            y = [row_of.get(row["stack"], -0.85) for row in here]
            look: dict[str, Any] = {"marker": marker, "color": canvas.WINNER, "edgecolors": "white", "linewidths": 0.7}
            axes.scatter(x, y, s=46, zorder=6, gid=name, clip_on=False, **look)
            label = f"{name} ({len(here):,})"
            handles.append(Line2D([], [], linestyle="", marker=marker, color=canvas.WINNER, label=label))
    return handles


def _draw_pauses(axes: Axes, clock: Elapsed, seconds: float) -> None:
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=11, color=canvas.INK, pad=28)  # room for words
    places = clock(clock.pauses[:, 0]) / seconds
    for number, (place, (start, end)) in enumerate(zip(places, clock.pauses, strict=True)):
        axes.axvline(place, color=canvas.INK, linewidth=1.2, linestyle=(0, (3, 2)), zorder=5, gid="pause")
        if len(places) <= _PAUSES:
            words = f"paused {text.duration(end - start)}"
            level = 3 + 9 * (number % 2)  # neighbours at two heights
            side = "right" if place > 0.85 * clock.total / seconds else "left"
            shift = -3 if side == "right" else 3
            axes.annotate(
                words, (place, 1), (shift, level), ("data", "axes fraction"), "offset points",
                ha=side, fontsize=7.5, color=canvas.SOFT,
            )  # fmt: skip


def _label(axes: Axes, stacks: Ints, row_of: Ints, shares: Floats | None, top: float) -> None:
    firsts = np.flatnonzero(np.diff(row_of, prepend=-1))
    every = max(1, -(-len(firsts) // 32))
    axes.set_yticks(np.arange(len(firsts))[::every], [str(stacks[first]) for first in firsts[::every]])
    axes.set_ylim(len(firsts) - 0.4, top)
    axes.grid(False, axis="y")
    for row, share in enumerate(shares if shares is not None else ()):
        axes.annotate(
            f"{100 * share:.0f}% idle", (1, row), (5, 0), ("axes fraction", "data"), "offset points",
            va="center", fontsize=7.5, color=canvas.SOFT, gid="idle share",
        )  # fmt: skip


def _legend(found: Work, one_by_one: bool) -> Iterator[Any]:
    from matplotlib.patches import Patch

    if one_by_one and len(found.end):
        yield Patch(facecolor="#0072b2", label="generations 1, 3, ...")
        yield Patch(facecolor="#56b4e9", label="generations 2, 4, ...")
        yield Patch(facecolor=canvas.GRID, label="idle: no order at work")
