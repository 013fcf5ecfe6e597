"""Scores of the whole population at equal age: how they spread, and who diverged or failed when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.plots.subject import AGE, is_synchronous, mode, rounds, steps, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Shares of the population below the lines that are drawn.
_LEVELS = (10, 25, 50, 75, 90)


@dataclass(frozen=True, slots=True)
class Moment:
    """All scores at one age.

    Attributes:
        generation: Counted from 1; in an asynchronous sweep, how many generations' worth of steps the weights have.
        age: Steps of the weights.
        best: The best score; NaN where there is none.
        levels: Scores that 10, 25, 50, 75 and 90 % of all are below.
        num_scores: Scores that are numbers.
        num_diverged: Scores that are not.
        num_failed: Members that failed on the way there.
    """

    generation: int
    age: float
    best: float
    levels: tuple[float, ...]
    num_scores: int
    num_diverged: int
    num_failed: int


def moments(result: Result) -> list[Moment]:
    """The scores at each age, in order. Scores of one age are those of weights with as many generations' steps."""
    frame, number = result.frame, rounds(result)
    best = np.min if mode(result) == "min" else np.max
    found = []
    for this in np.unique(number[~np.isnan(number)]):
        here = number == this
        ended, scores = here & frame.is_ended, frame.score[here & frame.is_ended]
        scores = scores[~np.isnan(scores)]
        found.append(
            Moment(
                generation=int(this),
                age=float(np.median(frame.age[ended, 1])) if ended.any() else this * steps(result),
                best=float(best(scores)) if len(scores) else np.nan,
                levels=tuple(np.percentile(scores, _LEVELS).tolist()) if len(scores) else (np.nan,) * len(_LEVELS),
                num_scores=len(scores),
                num_diverged=int((here & frame.is_diverged).sum()),
                num_failed=int((here & frame.is_failed).sum()),
            )
        )
    return found


def scores_figure(result: Result) -> Figure:
    """The population's scores by generation: its best, its median, its middle half, and all but the outer tenths.

    Scores are compared at equal age of the weights, also where members are not in step. A second panel shows the later
    half closer.

    Args:
        result: The run.

    Raises:
        PbtError: matplotlib is not installed.
    """
    found = moments(result)
    half = len(found) // 2
    panels = [found] if len(found) < 4 else [found, found[half - 1 :]]
    figure = canvas.new_figure(8.0 if len(panels) == 1 else 11.5, 4.8)
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=[3, 2][: len(panels)])[0]
    for axes, shown, title in zip(grid, panels, ("Scores by generation", "The later half, closer"), strict=False):
        canvas.dress(axes, title, AGE, "")
        _draw_bands(axes, shown, steps(result))
        _draw_losses(axes, shown, mode(result))
        canvas.steps_ticks(axes, [moment.age for moment in shown])
        if is_synchronous(result):
            _label_generations(axes, shown)
    grid[0].set_ylabel(canvas.objective_name(result.run.info["objective"], unit(result.run.info)))
    canvas.legend_below(figure, _legend(grid[0], found))
    return figure


def _draw_bands(axes: Axes, found: Sequence[Moment], length: int) -> None:
    scored = [moment for moment in found if moment.num_scores]
    if not scored:
        canvas.note(axes, "no scores yet")
        return
    # A single generation is drawn as wide as it is long: bands need some width.
    reach = [-0.4 * length, 0.4 * length] if len(scored) == 1 else [0.0]
    ages = [moment.age + shift for moment in scored for shift in reach]
    lines = np.array([moment.levels for moment in scored for _ in reach]).T
    band: dict[str, Any] = {"linewidth": 0, "color": canvas.BASELINE}
    axes.fill_between(ages, lines[0], lines[4], alpha=0.16, gid="outer", label="10 to 90% of the members", **band)
    axes.fill_between(ages, lines[1], lines[3], alpha=0.32, gid="middle", label="25 to 75%", **band)
    axes.plot(ages, lines[2], color=canvas.BASELINE, linewidth=1.8, gid="median", label="median")
    best = [moment.best for moment in scored for _ in reach]
    axes.plot(ages, best, color=canvas.WINNER, linewidth=2.2, gid="best", label="best", zorder=4)
    low, high = canvas.limits([[moment.best, *moment.levels] for moment in scored])
    axes.set_ylim(low, high)
    room = 0.02 * (ages[-1] - ages[0]) or 0.6 * length
    axes.set_xlim(ages[0] - room, ages[-1] + room)
    canvas.whole_ticks(axes)
    if outside := sum(moment.levels[-1] > high or moment.levels[0] < low for moment in scored):
        canvas.note(axes, f"in {text.count(outside, 'generation')} the outer tenth is beyond the edge")


def _draw_losses(axes: Axes, found: Sequence[Moment], mode: str) -> None:
    """Marks along the edge where bad scores are."""
    edges = (0.975, 0.93) if mode == "min" else (0.025, 0.07)
    ring = {"marker": "o", "facecolor": "white", "edgecolor": canvas.INK}
    cross = {"marker": "x", "color": canvas.INK}
    diverged = [moment.age for moment in found if moment.num_diverged]
    failed = [moment.age for moment in found if moment.num_failed]
    size = 26 if len(found) <= 60 else 12
    for ages, height, name, look in ((diverged, edges[0], "diverged", ring), (failed, edges[1], "failed", cross)):
        places = [height] * len(ages)
        axes.scatter(ages, places, transform=axes.get_xaxis_transform(), s=size, zorder=6, gid=name, **look)  # type: ignore[arg-type]


def _label_generations(axes: Axes, found: Sequence[Moment]) -> None:
    every = max(1, -(-(len(found) - 1) // 8))
    shown = found[::every]
    top = axes.secondary_xaxis("top")
    top.set_xticks([moment.age for moment in shown], [str(moment.generation) for moment in shown])
    top.tick_params(colors=canvas.SOFT, labelsize=8, length=0, pad=1)
    top.spines["top"].set_visible(False)
    top.set_xlabel("generation", color=canvas.SOFT, fontsize=8, labelpad=3)


def _legend(axes: Axes, found: Sequence[Moment]) -> list[Any]:
    from matplotlib.lines import Line2D

    diverged, failed = sum(one.num_diverged for one in found), sum(one.num_failed for one in found)
    handles = list(axes.get_legend_handles_labels()[0])
    if diverged:
        ring = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": canvas.INK}
        handles.append(Line2D([], [], linestyle="", label=f"diverged ({text.count(diverged, 'score')})", **ring))  # type: ignore[arg-type]
    if failed:
        label = f"failed ({text.count(failed, 'member')})"
        handles.append(Line2D([], [], linestyle="", marker="x", color=canvas.INK, label=label))
    return handles
