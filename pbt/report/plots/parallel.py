"""All members at their end as lines through their hyperparameters to their score."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.record.frame import Floats
from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.plots.subject import Varied, best_member, mode, unit, varied

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

#: Where values of hyperparameters that are not active are drawn: below their axis.
_NOWHERE = -0.12
#: Letters of an option's name that there is room for.
_NAME = 16


def parallel_figure(result: Result) -> Figure:
    """Every member's hyperparameters and score at its end: a line each, coloured by score, the best on top.

    A member that failed, or has no score, is a pale line without an end.

    Args:
        result: The run.

    Raises:
        PbtError: matplotlib is not installed.
    """
    from matplotlib.cm import ScalarMappable

    panels, places, scores = varied(result), end_places(result), end_scores(result)
    small_is_good = mode(result) == "min"
    low, high = canvas.limits([scores.tolist()], pad=0.0)
    norm = canvas.score_norm(low, high, reverse=small_is_good)
    colours = ScalarMappable(norm=norm, cmap=canvas.score_colours(reverse=small_is_good))
    figure = canvas.new_figure(min(18.0, max(8.0, 2.2 + 1.25 * len(panels))), 5.0)
    axes = figure.add_subplot()
    canvas.dress(axes, "Members at their end: hyperparameters and score", "", "")
    _draw_members(axes, result, np.column_stack([places, _score_places(scores, norm, mode(result))]), colours)
    _draw_axes(axes, panels, norm, mode(result), bool(np.isnan(places).any()))
    objective = canvas.objective_name(result.run.info["objective"], unit(result.run.info))
    names = [canvas.plain("\n".join(textwrap.wrap(panel.title, 18))) for panel in panels]
    axes.set_xticks(range(len(panels) + 1), [*names, textwrap.fill(objective.replace("\n", ", "), 20)])
    if outside := int(((scores < low) | (scores > high)).sum()):
        canvas.note(axes, f"{text.count(outside, 'score')} beyond the edge")
    canvas.legend_below(figure, _legend(result, scores))
    return figure


def end_scores(result: Result) -> Floats:
    """Each member's last score, in order; NaN for those that failed, diverged, or have none yet."""
    frame = result.frame
    return np.where(frame.is_living, frame.score[frame.ends], np.nan)


def end_places(result: Result) -> Floats:
    """Where each member's hyperparameters at its end lie on their axes, from 0 to 1: `(members, hyperparameters)`.

    NaN where one is not active. Members that share an option lie a little apart.
    """
    frame = result.frame
    spread = (np.arange(len(frame.ends)) + 0.5) / max(1, len(frame.ends)) - 0.5
    found = []
    for panel in varied(result):
        places = panel.place(frame.each(panel.height)[frame.ends])
        found.append(places + 0.5 / len(panel.options) * spread if panel.options else places)
    return np.column_stack(found)


def _score_places(scores: Floats, norm: Normalize, mode: str) -> Floats:
    """Good scores at the top, finest there."""
    places = np.asarray(norm(np.nan_to_num(scores, nan=norm.vmin or 0.0)), dtype=float)
    return np.where(np.isnan(scores), np.nan, 1.0 - places if mode == "min" else places)


def _draw_members(axes: Axes, result: Result, places: Floats, colours: Any) -> None:
    from matplotlib.collections import LineCollection

    frame = result.frame
    scored = ~np.isnan(places[:, -1])
    scores = frame.score[frame.ends]
    members, best = frame.member[frame.ends], best_member(result)
    x = np.arange(places.shape[1])
    lines = np.stack([np.broadcast_to(x, places.shape), np.nan_to_num(places, nan=_NOWHERE)], axis=2)
    order = np.argsort(np.where(scored, places[:, -1], -1.0), kind="stable")  # the best are drawn last
    shown = order[scored[order] & (members[order] != best)]
    many = len(shown) > 64
    crowd = LineCollection(list(lines[shown]), linewidths=0.8 if many else 1.3, alpha=0.55 if many else 0.9, zorder=3)
    crowd.set(array=scores[shown], norm=colours.norm, gid="members")
    crowd.set_cmap(colours.cmap)
    lost = LineCollection(list(lines[~scored][:, :-1]), colors=canvas.FAINT, linewidths=1.2, zorder=2.5, gid="lost")
    axes.add_collection(crowd)
    axes.add_collection(lost)
    for line in lines[members == best]:
        axes.plot(line[:, 0], line[:, 1], color="white", linewidth=4.5, zorder=4)
        axes.plot(line[:, 0], line[:, 1], color=canvas.WINNER, linewidth=2.4, zorder=5, gid="winner", marker="o", ms=4)


def _draw_axes(axes: Axes, panels: Sequence[Varied], norm: Normalize, mode: str, is_any_idle: bool) -> None:
    """A vertical line for each hyperparameter, and one for the score, with their values beside them."""
    axes.grid(False)
    axes.set_yticks([])
    axes.tick_params(axis="x", colors=canvas.INK, labelsize=8)
    axes.set_xlim(-0.35, len(panels) + 0.6)
    axes.set_ylim(_NOWHERE - 0.08 if is_any_idle else -0.06, 1.06)
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    look: dict[str, Any] = {"fontsize": 7.5, "color": canvas.INK, "va": "center", "zorder": 6, "bbox": box}
    for number, panel in enumerate(panels):
        axes.vlines(number, 0, 1, color=canvas.SOFT, linewidth=0.9, zorder=3.5)
        for place, label in _ticks(panel):
            axes.annotate(label, (number, place), (4, 0), textcoords="offset points", gid=f"tick {number}", **look)
    if is_any_idle:
        axes.annotate("not active", (-0.33, _NOWHERE), fontsize=7.5, color=canvas.SOFT, va="center")
    axes.vlines(len(panels), 0, 1, color=canvas.SOFT, linewidth=0.9, zorder=3.5)
    places = np.linspace(0, 1, 5)
    values = [float(norm.inverse(1.0 - place if mode == "min" else place)) for place in places]
    for place, label in zip(places, canvas.told_apart(values), strict=True):
        axes.annotate(label, (len(panels), place), (4, 0), textcoords="offset points", gid="score tick", **look)


def _ticks(panel: Varied) -> list[tuple[float, str]]:
    if options := panel.options:
        every = math.ceil(len(options) / 12)
        names = [_shortened(text.hparam(option)) for option in options]
        return [((number + 0.5) / len(options), name) for number, name in enumerate(names)][::every]
    places = np.linspace(0.0, 1.0, 5)
    if panel.scale != "linear" and len(decades := _decades(panel)) > 2:
        return [(float(place), f"{value:.6g}") for place, value in zip(panel.place(decades), decades, strict=True)]
    if panel.domain.get("type") == "int":
        values = np.unique(np.round(panel.value(places)))
        places = panel.place(values)
        return [(float(place), f"{value:.6g}") for place, value in zip(places, values, strict=True)]
    digits = 4 if panel.scale == "nines" else 2
    return [(float(p), f"{value:.{digits}g}") for p, value in zip(places, panel.value(places), strict=True)]


def _shortened(name: str) -> str:
    return canvas.plain(name if len(name) <= _NAME else f"{name[: _NAME - 3]}...")


def _decades(panel: Varied) -> Floats:
    """Powers of ten within the bounds; for decay rates 0.9, 0.99, ..."""
    powers = 10.0 ** np.arange(-12, 13)
    values = powers if panel.scale == "log" else 1.0 - powers
    low, high = (float(panel.domain[end]) for end in ("low", "high"))
    return np.asarray(values[(values >= low * (1 - 1e-9)) & (values <= high * (1 + 1e-9))], dtype=float)


def _legend(result: Result, scores: Floats) -> list[Any]:
    from matplotlib.lines import Line2D

    best = best_member(result)
    handles = []
    if best is not None:
        handles.append(Line2D([], [], color=canvas.WINNER, linewidth=2.4, label=f"best, member {best}"))
    if known := int((~np.isnan(scores)).sum()):
        whole = canvas.score_colours(reverse=False)
        label = f"{text.count(known, 'member')}, the better the darker"
        handles.append(Line2D([], [], color=whole(0.75), linewidth=1.6, label=label))
    if lost := int(np.isnan(scores).sum()):
        handles.append(Line2D([], [], color=canvas.FAINT, linewidth=1.6, label=f"{lost:,} failed or without a score"))
    return handles
