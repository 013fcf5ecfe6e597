"""A search: where its training went, and what that has brought."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pbt.record.frame import Floats, Ints
from pbt.record.result import Result
from pbt.record.sizes import Sizes
from pbt.report import canvas
from pbt.report.plots.subject import best_so_far, mode, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What was trained, segment by segment in the order of their ends, and what it came to.

    Attributes:
        member: Whose each segment was.
        spent: Steps of all that had been trained by then, in runs to the end.
        reached: Steps that the member had behind it.
        steps: Steps of the segment.
        score: At its end; NaN without one.
        best: The best score so far of those that were trained to the end; NaN before the first.
        target: Steps of a run to the end.
        num_begun: How many configurations there are.
        unit: What steps are counted in.
    """

    member: Ints
    spent: Floats
    reached: Floats
    steps: Floats
    score: Floats
    best: Floats
    target: int
    num_begun: int
    unit: str

    def share_between(self, edges: Floats) -> Floats:
        """The share of all steps that was trained between any two in a row of these, `(edges - 1,)`."""
        low, high = self.reached - self.steps, self.reached
        inside = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
        total = self.steps.sum()
        return np.clip(inside, 0.0, None).sum(axis=0) / (total if total > 0 else 1.0)


def effort(result: Result) -> Effort:
    """What a search has trained."""
    frame, target = result.frame, int(result.run.info["target_steps"])
    done = np.flatnonzero(frame.is_ended | frame.is_failed)
    done = done[np.argsort(frame.ended_at[done], kind="stable")]
    sizes, points = Sizes(result.run.info), [frame.distinct[it] for it in frame.hparams[done]]
    is_sized = result.run.info.get("fidelity") is not None
    rate = np.array([sizes.rate(it) for it in points])
    is_wanted = np.array([sizes.is_wanted(it) for it in points], dtype=bool)
    consumed = frame.consumed[done] * rate[:, None]
    steps = consumed[:, 1] - consumed[:, 0]
    is_complete = (consumed[:, 1] >= target) & frame.is_ended[done] & is_wanted
    return Effort(
        member=frame.member[done],
        spent=np.cumsum(steps) / target,
        reached=consumed[:, 1],
        steps=steps,
        score=frame.score[done],
        best=best_so_far(np.where(is_complete, frame.score[done], np.nan), mode(result)),
        target=target,
        num_begun=len({sizes.configuration(*it) for it in zip(frame.member[done].tolist(), points, strict=True)}),
        unit="steps, as many as cost as much with the wanted model" if is_sized else "steps of the configuration",
    )


def search_figure(result: Result) -> Figure:
    """How far each configuration was trained, where the training went, and the best that came of it.

    Args:
        result: The run of a search.

    Raises:
        PbtError: matplotlib is not installed.
    """
    found = effort(result)
    figure = canvas.new_figure(11.5, 7.2)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.6, 1.0))
    _draw_runs(figure.add_subplot(grid[:, 0]), found, mode(result) == "min")
    _draw_shares(figure.add_subplot(grid[0, 1]), found)
    _draw_best(figure.add_subplot(grid[1, 1]), found, result)
    complete = len(np.unique(found.member[found.reached >= found.target]))
    canvas.headline(figure, f"{found.num_begun:,} configurations, {complete:,} of them trained to the end")
    return figure


def _draw_runs(axes: Axes, found: Effort, is_min: bool) -> None:
    """Each segment over the training so far: the longer a configuration, the higher; the better, the darker."""
    canvas.dress(axes, "How far each came, and when", "trained so far, in runs to the end", found.unit)
    usual = canvas.usual(found.score)
    low, high = (float(usual.min()), float(usual.max())) if len(usual) else (0.0, 1.0)
    norm = canvas.score_norm(low, high if high > low else low + 1.0, reverse=is_min)
    colours = canvas.score_colours(reverse=is_min)
    for member in np.unique(found.member):
        own = found.member == member
        if own.sum() > 1:
            axes.plot(found.spent[own], found.reached[own], color=canvas.FAINT, linewidth=0.8, zorder=1)
    known = ~np.isnan(found.score)
    axes.scatter(
        found.spent[known], found.reached[known], c=found.score[known], cmap=colours, norm=norm, s=18, zorder=2,
        gid="segments",
    )  # fmt: skip
    lost = ~known
    axes.scatter(found.spent[lost], found.reached[lost], marker="x", s=18, color=canvas.WINNER, gid="lost", zorder=2)
    axes.set_yscale("log")
    canvas.plain_log_ticks(axes)
    canvas.note(axes, "darker is better" + (", x: failed or diverged" if lost.any() else ""))


def _draw_shares(axes: Axes, found: Effort) -> None:
    """The share of all steps that was trained at each age, by factors of three down from the target."""
    canvas.dress(axes, "Where the training went", found.unit, "share of all training, %")
    number = max(1, math.ceil(math.log(found.target / max(found.steps.min(initial=found.target), 1.0)) / math.log(3.0)))
    edges = np.array([0.0, *(found.target / 3.0**it for it in range(number - 1, -1, -1))])
    shares = 100.0 * found.share_between(edges)
    names = [f"{canvas.short(round(low))}-{canvas.short(round(high))}" for low, high in itertools.pairwise(edges)]
    axes.bar(range(len(shares)), shares, color=canvas.BASELINE, width=0.7)
    axes.set_xticks(range(len(shares)), names)
    axes.set_ylim(0.0, max(1.0, 1.15 * shares.max()))
    for place, share in enumerate(shares):
        axes.annotate(f"{share:.0f}", (place, share), (0, 3), textcoords="offset points", ha="center", fontsize=8)


def _draw_best(axes: Axes, found: Effort, result: Result) -> None:
    """The best that was trained to the end, over the training."""
    canvas.dress(axes, "The best that was trained to the end", "trained so far, in runs to the end", "")
    axes.set_ylabel(
        canvas.objective_name(result.run.info["objective"], unit(result.run.info)), color=canvas.SOFT, fontsize=8
    )
    known = ~np.isnan(found.best)
    if not known.any():
        canvas.note(axes, "nobody yet")
        return
    spent, best = found.spent[known], found.best[known]
    axes.plot(spent, best, color=canvas.WINNER, linewidth=2.0, drawstyle="steps-post", gid="best", zorder=3)
    changed = np.flatnonzero(np.append(True, best[1:] != best[:-1]))
    axes.scatter(spent[changed], best[changed], s=16, color=canvas.WINNER, zorder=4)
    axes.set_xlim(0.0, float(found.spent[-1]) * 1.02)
    axes.set_ylim(*canvas.limits([[value] for value in np.unique(best)]))
    canvas.whole_ticks(axes)
