"""Which hyperparameters matter for the score, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.importance import NEXT_TO_NOTHING, Factor, Importance, encode, importance
from pbt.report.plots.subject import mode, rounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CAUTION = (
    "A hint, not an experiment: hyperparameters of a population are not drawn independently. Those that did well were\n"
    "copied, with their weights and with each other, and what was not tried cannot be seen to matter."
)


def importance_of(result: Result) -> Importance:
    """How much each hyperparameter of a sweep matters, as far as it tells."""
    frame, domains = result.frame, result.run.info["hparams"]
    columns = {name: encode(frame.distinct, domain, name)[frame.hparams] for name, domain in domains.items()}
    return importance(frame, columns, rounds(result), mode(result))


def importance_figure(result: Result) -> Figure:
    """How much each hyperparameter matters for gaining places over a segment; or why that cannot be said.

    Args:
        result: The run.

    Raises:
        PbtError: matplotlib is not installed.
    """
    found = importance_of(result)
    figure = canvas.new_figure(8.0, 2.3 + 0.36 * max(2, len(found.factors)))
    axes = figure.add_subplot()
    what = "" if found.reason else "share of the differences in places gained that is not explained without it"
    canvas.dress(axes, verdict(found), what, "")
    if found.reason:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.annotate(found.reason, (0.5, 0.5), xycoords="axes fraction", ha="center", color=canvas.SOFT, gid="reason")
    else:
        _draw_factors(axes, found.factors)
    figure.supxlabel(f"{_basis(found)}\n{_CAUTION}", x=0.012, ha="left", fontsize=7.5, color=canvas.SOFT)
    return figure


def verdict(found: Importance) -> str:
    """What matters, in a line."""
    if found.reason:
        return "What matters for the score: not known"
    names = [factor.name for factor in found.factors if factor.matters]
    if not names:
        return "What matters for the score: nothing that can be told from chance"
    *most, last = names
    return (
        f"What matters for the score: {', '.join(most)} and {last}" if most else f"What matters for the score: {last}"
    )


def _basis(found: Importance) -> str:
    counts = f"n = {text.count(found.num_segments, 'segment')} of {text.count(found.num_members, 'member')}"
    if found.reason:
        return f"{counts}."
    explained = f"a forest explains {100 * max(0.0, found.explained):.0f}% of them for members it has not seen"
    least = f"what matters has all of its own beyond the dotted {100 * NEXT_TO_NOTHING:.0f}%"
    return f"{counts}; {explained}.\nBars: 95% intervals, for all together; {least}."


def _draw_factors(axes: Axes, factors: Sequence[Factor]) -> None:
    heights = np.arange(len(factors))
    draw = partial(axes.hlines, linewidth=2.2, zorder=3)
    for matters, colour in ((True, canvas.BASELINE), (False, canvas.CROWD)):
        chosen = [number for number, factor in enumerate(factors) if factor.matters == matters]
        shown = [factors[number] for number in chosen]
        name = "matter" if matters else "may not matter"
        draw(chosen, [one.low for one in shown], [one.high for one in shown], colors=colour, gid=f"{name}, intervals")
        axes.scatter([one.mean for one in shown], chosen, s=42, color=colour, zorder=4, gid=name)
    axes.axvline(0.0, color=canvas.INK, linewidth=0.9, zorder=2)
    axes.axvline(NEXT_TO_NOTHING, color=canvas.SOFT, linewidth=0.9, linestyle=":", zorder=2, gid="next to nothing")
    axes.set_yticks(heights, [canvas.plain(factor.name) for factor in factors])
    for label, factor in zip(axes.get_yticklabels(), factors, strict=True):
        label.set(color=canvas.INK if factor.matters else canvas.SOFT, fontsize=9)
    axes.set_ylim(len(factors) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.margins(x=0.06)
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{100 * value:.0f}%" if abs(value) >= 0.01 or value == 0 else f"{100 * value:.1f}%"
    )
