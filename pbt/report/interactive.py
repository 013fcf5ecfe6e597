"""Pictures that can be moved: parallel coordinates and scores, with plotly. Needs `pbt[plots]`."""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.errors import PbtError
from pbt.record.result import Result
from pbt.report import canvas, text
from pbt.report.plots.parallel import end_places, end_scores
from pbt.report.plots.scores import Moment, moments
from pbt.report.plots.subject import AGE, Varied, best_entries, best_member, mode, unit, varied

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: Members whose scores have a line of their own: the best at their end.
_LINES = 40

#: Pixels between two axes that their names need, and of a page.
_AXIS, _PAGE = 112, 1050

_FONT = {"family": "system-ui, sans-serif", "size": 12, "color": "#777777"}


def library() -> str:
    """The program that moves the pictures, to be put into a page once.

    Raises:
        PbtError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise PbtError("reports need plotly, which is not installed: pip install 'pbt[plots]'") from error
    return str(get_plotlyjs())


def as_html(figure: Figure, name: str) -> str:
    """A picture as a part of a page that has the library."""
    from plotly.io import to_html

    config = {"displaylogo": False, "responsive": True}
    return str(to_html(figure, config=config, include_plotlyjs=False, full_html=False, div_id=name))


def parallel(result: Result) -> Figure:
    """Members at their end as lines through their hyperparameters to their score; axes can be moved and brushed."""
    from plotly.graph_objects import Figure, Parcoords

    scores, panels = end_scores(result), varied(result)
    known = ~np.isnan(scores)
    places = np.nan_to_num(end_places(result)[known], nan=-0.1)
    dimensions = [_dimension(panel, places[:, number]) for number, panel in enumerate(panels)]
    shown = scores[known]
    low, high = canvas.limits([shown.tolist()], pad=0.0)
    small_is_good = mode(result) == "min"
    label = _label(result.run.info["objective"]["metric"])
    dimensions.append({"label": label, "values": shown, "range": [high, low] if small_is_good else [low, high]})
    line = {
        "color": shown,
        "cmin": low,
        "cmax": high,
        "colorscale": "Viridis",
        "reversescale": not small_is_good,
        "showscale": True,
    }
    figure = Figure(Parcoords(line=line, dimensions=dimensions))
    figure = _dress(figure, height=430)
    if (width := _AXIS * len(dimensions)) > _PAGE:  # it is scrolled rather than squeezed
        figure.update_layout(width=width)
    return figure


def _dimension(panel: Varied, places: Any) -> dict[str, Any]:
    """An axis from 0 to 1, labelled with the values that lie there; what is not active lies below."""
    if panel.options:
        ticks = [((number + 0.5) / len(panel.options), text.hparam(one)) for number, one in enumerate(panel.options)]
    else:
        at = np.linspace(0.0, 1.0, 5)
        ticks = [(float(a), f"{value:.4g}") for a, value in zip(at, panel.value(at), strict=True)]
    if (places < 0).any():
        ticks.insert(0, (-0.1, "not active"))
    return {
        "label": _label(panel.title),
        "values": places,
        "range": [-0.12 if (places < 0).any() else 0.0, 1.0],
        "tickvals": [at for at, _ in ticks],
        "ticktext": [html.escape(name) for _, name in ticks],
    }


def _label(name: str) -> str:
    return "<br>".join(html.escape(line) for line in textwrap.wrap(name, 15))


def scores(result: Result) -> Figure:
    """The population's scores at equal age, and the best members' one by one; pointing at a line tells whose it is."""
    from plotly.graph_objects import Figure, Scatter

    found = [moment for moment in moments(result) if moment.num_scores]
    figure = Figure()
    figure.add_trace(_band(found, 0, 4, "10 to 90%", 0.14))
    figure.add_trace(_band(found, 1, 3, "25 to 75%", 0.28))
    ages = [moment.age for moment in found]
    figure.add_traces([_member_line(result, number) for number in _best_first(result)[:_LINES]])
    line: dict[str, Any] = {"mode": "lines+markers", "marker": {"size": 4}}
    medians, best = [moment.levels[2] for moment in found], [moment.best for moment in found]
    figure.add_trace(Scatter(x=ages, y=medians, name="median", line={"color": canvas.BASELINE, "width": 2}, **line))
    figure.add_trace(Scatter(x=ages, y=best, name="best at its age", line={"color": "#009e73", "width": 2}, **line))
    figure.add_trace(_winner_line(result))
    objective = canvas.objective_name(result.run.info["objective"], unit(result.run.info)).replace(r"\$", "$")
    title = html.escape(objective).replace("\n", "<br>")
    low, high = canvas.limits([[moment.best, *moment.levels] for moment in found])
    figure.update_xaxes(title=AGE, gridcolor="rgba(128,128,128,0.2)", zeroline=False)
    figure.update_yaxes(title=title, gridcolor="rgba(128,128,128,0.2)", zeroline=False, range=[low, high])
    return _dress(figure, height=480)


def _band(found: list[Moment], low: int, high: int, name: str, shade: float) -> Any:
    from plotly.graph_objects import Scatter

    ages = [moment.age for moment in found]
    around = [moment.levels[high] for moment in found] + [moment.levels[low] for moment in reversed(found)]
    return Scatter(
        x=ages + ages[::-1],
        y=around,
        mode="lines",
        fill="toself",
        fillcolor=f"rgba(0,114,178,{shade})",
        line={"width": 0},
        name=name,
        hoverinfo="skip",
    )


def _best_first(result: Result) -> list[int]:
    """Places of members among all, the best last score first; those without one are left out."""
    last = end_scores(result) * (1 if mode(result) == "min" else -1)
    return [int(place) for place in np.argsort(last, kind="stable") if not np.isnan(last[place])]


def _member_line(result: Result, place: int) -> Any:
    from plotly.graph_objects import Scattergl

    frame = result.frame
    member = int(frame.member[frame.ends[place]])
    own = np.flatnonzero((frame.member == member) & frame.is_ended)
    # A gap where it took over other weights: their age need not follow its own.
    y = np.where(frame.is_copy[own], np.nan, frame.score[own])
    return Scattergl(
        x=frame.age[own, 1],
        y=y,
        name=f"member {member}",
        mode="lines",
        line={"color": "rgba(138,151,165,0.6)", "width": 1},
        showlegend=False,
    )


def _winner_line(result: Result) -> Any:
    from plotly.graph_objects import Scatter

    frame, path = result.frame, best_entries(result)
    names = list(result.run.info["hparams"])
    told = [
        f"trained by member {frame.member[entry]}<br>"
        + "<br>".join(html.escape(f"{name} {text.hparam(hparams.get(name))}") for name in names)
        for entry, hparams in ((entry, frame.distinct[frame.hparams[entry]]) for entry in path)
    ]
    return Scatter(
        x=frame.age[path, 1],
        y=frame.score[path],
        name=f"ancestry of the best, member {best_member(result)}",
        mode="lines+markers",
        line={"color": canvas.WINNER, "width": 3},
        hovertext=told,
    )


def _dress(figure: Figure, height: int) -> Figure:
    """No background of its own: the page is light or dark."""
    figure.update_layout(
        template="none",
        font=_FONT,
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 80, "r": 40, "t": 60, "b": 60},
        legend={"orientation": "h", "y": 1.12},
        hovermode="closest",
    )
    return figure
