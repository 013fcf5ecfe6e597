"""What the score has cost: device time, tokens, and energy where it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pbt.record.frame import Flags, Floats
from pbt.record.result import Result
from pbt.report import canvas
from pbt.report.plots.elapsed import elapsed
from pbt.report.plots.subject import best_so_far, mode, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Share of the cost before which the best so far may be beyond the edge: weights that have hardly been trained.
_FIRST = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What all segments together had cost when each ended, in the order of their ends.

    Attributes:
        at: Seconds since the beginning, pauses left out.
        best: The best score so far; NaN before the first.
        device_s: Seconds that stacks worked, all added up, those of each process of a member too.
        tokens: Tokens trained on.
        flops: Model FLOPs; None where those of a segment that came to its end are not known.
        joules: Energy; likewise.
    """

    at: Floats
    best: Floats
    device_s: Floats
    tokens: Floats
    flops: Floats | None
    joules: Floats | None


def costs(result: Result) -> Costs:
    """Cumulative costs, and what they have bought."""
    frame = result.frame
    done = np.flatnonzero(frame.is_ended | frame.is_failed)
    done = done[np.argsort(frame.ended_at[done], kind="stable")]
    # A stack trains the members of an order together: its time counts once.
    counted = np.zeros(len(done))
    counted[np.unique(frame.order[done], return_index=True)[1]] = 1.0
    ranks = result.run.info["spec"].get("hosts", {}).get("ranks", 1)
    return Costs(
        at=elapsed(result)(frame.ended_at[done]),
        best=best_so_far(frame.score[done], mode(result)),
        device_s=np.cumsum(counted * np.nan_to_num(frame.wall_s[done])) * ranks,
        tokens=np.cumsum(np.nan_to_num(frame.tokens[done])),
        flops=_total(frame.flops[done], frame.is_ended[done]),
        joules=_total(frame.joules[done], frame.is_ended[done]),
    )


def _total(values: Floats, is_ended: Flags) -> Floats | None:
    """Added up; what is not known of one that came to its end is not known of all."""
    return np.cumsum(np.nan_to_num(values)) if is_ended.any() and not np.isnan(values[is_ended]).any() else None


def cost_figure(result: Result) -> Figure:
    """What was used over time, and the best score so far over device time, tokens, and energy or FLOPs.

    Args:
        result: The run.

    Raises:
        PbtError: matplotlib is not installed.
    """
    found, info = costs(result), result.run.info
    figure = canvas.new_figure(11.5, 7.2)
    (used, *bought) = figure.subplots(2, 2).flatten()
    _draw_use(used, found)
    for axes, (title, label, cost) in zip(bought, _prices(found), strict=False):
        canvas.dress(axes, title, label, "")
        _draw_best(axes, cost, found.best)
        axes.set_ylabel(canvas.objective_name(info["objective"], unit(info)), color=canvas.SOFT, fontsize=8)
    for axes in bought[len(list(_prices(found))) :]:
        axes.set_axis_off()
        axes.annotate(
            "The energy was not measured,\nand the FLOPs of a step are not known.",
            (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=canvas.SOFT, fontsize=9,
        )  # fmt: skip
    canvas.headline(figure, "What the score has cost")
    return figure


def _draw_use(axes: Axes, found: Costs) -> None:
    """Energy over time or, where it is not known, device time, which says so."""
    cost, label, title = found.joules, "joules", "Energy used"
    if cost is None:
        cost, label, title = found.device_s, "device-seconds", "Device time used (the energy was not measured)"
    canvas.dress(axes, title, "seconds since the beginning, pauses left out", f"{label}, in all")
    spent = np.append(0.0, found.at), np.append(0.0, cost)
    axes.plot(*spent, color=canvas.BASELINE, linewidth=2.0, gid="used", drawstyle="steps-post")
    if len(cost):
        axes.annotate(
            f"{canvas.short(float(cost[-1]))} {label}", (found.at[-1], cost[-1]), (-6, 2), textcoords="offset points",
            ha="right", va="bottom", fontsize=8.5, color=canvas.INK, gid="total",
        )  # fmt: skip
    _plain_ticks(axes)


def _prices(found: Costs) -> Iterator[tuple[str, str, Floats]]:
    yield "Best so far, over device time", "device-seconds: seconds at work, all stacks added up", found.device_s
    yield "Best so far, over tokens", "tokens (or examples) trained on", found.tokens
    if found.joules is not None:
        yield "Best so far, over energy", "joules", found.joules
    elif found.flops is not None:
        yield "Best so far, over FLOPs (the energy was not measured)", "model FLOPs", found.flops


def _draw_best(axes: Axes, cost: Floats, best: Floats) -> None:
    known = ~np.isnan(best)
    cost, best = cost[known], best[known]
    if not len(best):
        canvas.note(axes, "no scores yet")
        return
    changed = np.flatnonzero(np.append(True, best[1:] != best[:-1]))
    axes.plot(cost, best, color=canvas.WINNER, linewidth=2.0, drawstyle="steps-post", gid="best", zorder=3)
    if len(changed) <= 60:
        axes.scatter(cost[changed], best[changed], s=16, color=canvas.WINNER, zorder=4, gid="improvements")
    low, high = canvas.limits([[value] for value in np.unique(best[cost >= _FIRST * cost[-1]])])
    axes.set_ylim(low, high)
    canvas.whole_ticks(axes)
    _plain_ticks(axes)


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: canvas.short(value))
    axes.set_xlim(left=0)
    if axes.get_lines() and axes.get_lines()[0].get_gid() == "used":
        axes.yaxis.set_major_formatter(lambda value, _: canvas.short(value))
        axes.set_ylim(bottom=0)
