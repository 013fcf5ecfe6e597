"""What a search's model expects: how curves go on to the target, and what each hyperparameter makes of the best.

The process is that of searches (`pbt.surrogates.curves`), fitted anew to what the ledger holds, of scores themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt.member import Hparams
from pbt.record.frame import Floats, Ints
from pbt.record.result import Result
from pbt.record.sizes import Sizes
from pbt.report import canvas, text
from pbt.report.plots.subject import Varied, best_member, mode, unit, varied
from pbt.search.chart import Chart
from pbt.search.curve_search import thinned
from searchspaces import Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pbt.surrogates.curves import Curves

#: Fewer scores tell nothing; more than so many are not told to the process, but the last of each run.
_FEWEST, _MOST = 8, 300
#: Of a curve, a score is told for each of these factors of steps.
_THINNING = 2.0
#: Curves that are drawn to the target, and hyperparameters of which there is a slice, at most; places of each line.
_CURVES, _SLICES, _PLACES = 6, 4, 41


@dataclass(frozen=True)
class Expected:
    """A fitted process, and what it was told.

    Attributes:
        curves: Of each configuration: steps of the target, and scores, ascending.
        points: Their hyperparameters.
        chart: Where the process sees them.
        best: Number of the best configuration.
        target: Steps of a run to the end.
        process: Of scores, standardised.
        middle: What 0 of the process is.
        deviation: What 1 of it is.
    """

    curves: list[tuple[Floats, Floats]]
    points: list[Hparams]
    chart: Chart
    best: int
    target: float
    process: Curves
    middle: float
    deviation: float

    def ahead(self, run: int) -> tuple[Floats, Floats, Floats]:
        """From where a run is to the target: steps, the expected score, and its standard deviation."""
        steps = np.geomspace(self.curves[run][0][-1], self.target, _PLACES)
        place = np.repeat(self.chart.encode(self.points[run])[None], _PLACES, axis=0)
        return steps, *self._told(np.full(_PLACES, run), np.log10(self.target / steps), place)

    def slice(self, one: Varied) -> tuple[Floats, Floats, Floats]:
        """What the best would come to with other values of one hyperparameter: values, expected scores, deviations."""
        points, heights = [], []
        for hparams in self._others(one):
            points.append(self.chart.encode(hparams))
            heights.append(one.height(hparams))
        number = len(points)
        mean, deviation = self._told(np.full(number, -1), np.zeros(number), np.array(points))
        return np.array(heights, dtype=float), mean, deviation

    def at_target(self) -> Floats:
        """What is expected of each configuration."""
        places = np.array([self.chart.encode(it) for it in self.points])
        return self._told(np.arange(len(places)), np.zeros(len(places)), places)[0]

    def _told(self, run: Ints, depth: Floats, places: Floats) -> tuple[Floats, Floats]:
        mean, deviation = self.process.predict(run, depth, places)
        return self.middle + self.deviation * mean, self.deviation * deviation

    def _others(self, one: Varied) -> list[dict[str, Any]]:
        """The best, with each value of one hyperparameter."""
        domain = self.chart.space[one.name]
        values = one.options or [domain.decode([place]) for place in np.linspace(0.0, 1.0, _PLACES).tolist()]
        space, best = self.chart.space, self.points[self.best]
        # Of those that only another value makes active, any.
        others = {name: domain.sample(np.random.default_rng(0)) for name, domain in space.items()}
        return [space.point({**others, **best, one.name: value}) for value in values]


def expected(result: Result) -> Expected | None:
    """Fit the process to a run's scores; None where there are too few."""
    from pbt.surrogates.curves import Values, fit
    from pbt.surrogates.process import winsorised

    fidelity = (result.run.info.get("fidelity") or {}).get("name")
    space = Space.from_json(result.run.info["hparams"])
    chart = Chart(Space({name: domain for name, domain in space.items() if name != fidelity}))
    points, curves, best = _curves(result, chart.space)
    if sum(len(scores) for _, scores in curves) < _FEWEST or best is None:
        return None
    target = float(result.run.info["target_steps"])
    rows = [row for number, curve in enumerate(curves) for row in _thinned(number, *curve)]
    rows = rows if len(rows) <= _MOST else [_thinned(number, *curve)[0] for number, curve in enumerate(curves)][-_MOST:]
    run, steps, scores = (np.array(column) for column in zip(*rows, strict=True))
    told = winsorised(scores)
    middle, deviation = float(told.mean()), float(told.std()) or 1.0
    places = np.array([chart.encode(it) for it in points])
    values = Values(run.astype(int), np.log10(target / steps), places[run.astype(int)], told)
    process = fit(values, (told - middle) / deviation)
    return Expected(curves, points, chart, best, target, process, middle, deviation)


def _curves(result: Result, space: Space) -> tuple[list[Hparams], list[tuple[Floats, Floats]], int | None]:
    """Configurations with scores, their curves, and which is the best."""
    frame, rate, winner = result.frame, Sizes(result.run.info).rate, best_member(result)
    found: dict[str, tuple[Hparams, list[tuple[float, float]]]] = {}
    best: str | None = None
    for it in np.flatnonzero(frame.is_ended & ~np.isnan(frame.score)):
        hparams = frame.distinct[frame.hparams[it]]
        own = space.point(hparams)
        key = repr(own)
        steps = float(frame.consumed[it, 1]) * rate(hparams)
        found.setdefault(key, (own, []))[1].append((steps, float(frame.score[it])))
        best = key if frame.member[it] == winner else best
    curves = [np.array(sorted(points)).T for _, points in found.values()]
    return (
        [own for own, _ in found.values()],
        [(steps, scores) for steps, scores in curves],
        None if best is None else list(found).index(best),
    )


def _thinned(number: int, steps: Floats, scores: Floats) -> list[tuple[int, float, float]]:
    curve = list(zip(steps.tolist(), scores.tolist(), strict=True))
    return [(number, *point) for point in thinned(curve, _THINNING)]


def expected_figure(result: Result) -> Figure:
    """How the best curves are expected to go on, and what each hyperparameter is expected to make of the best.

    Args:
        result: The run of a search.

    Raises:
        PbtError: matplotlib is not installed.
    """
    figure = canvas.new_figure(11.5, 7.6)
    found = expected(result)
    slices = [] if found is None else [one for one in varied(result) if _has_slice(found, one)][:_SLICES]
    grid = figure.add_gridspec(2, max(1, len(slices)), height_ratios=(1.25, 1.0))
    axes = figure.add_subplot(grid[0, :])
    objective = canvas.objective_name(result.run.info["objective"], unit(result.run.info))
    canvas.dress(axes, "How the curves go on", "steps, of the target's", objective)
    canvas.headline(figure, "What the model expects at the target")
    if found is None:
        canvas.note(axes, f"fewer than {_FEWEST} scores")
        return figure
    _draw_curves(axes, found, mode(result) == "min")
    at_target = found.at_target()
    for number, one in enumerate(slices):
        _draw_slice(figure.add_subplot(grid[1, number]), found, one, at_target)
    return figure


def _has_slice(found: Expected, one: Varied) -> bool:
    return len(one.keys) == 1 and one.name in found.chart.space and one.name in found.points[found.best]


def _draw_curves(axes: Axes, found: Expected, is_min: bool) -> None:
    """All that was seen; and of the best, those that are not complete, where they are expected to end."""
    for steps, scores in found.curves:
        axes.plot(steps, scores, color=canvas.FAINT, linewidth=0.8, marker=".", markersize=3, zorder=1)
    last = np.array([scores[-1] for _, scores in found.curves])
    order = np.argsort(last if is_min else -last, kind="stable")
    going = [int(it) for it in order if found.curves[it][0][-1] < found.target][:_CURVES]
    for run in going:
        steps, mean, deviation = found.ahead(run)
        axes.fill_between(steps, mean - deviation, mean + deviation, color=canvas.BASELINE, alpha=0.12, linewidth=0)
        axes.plot(steps, mean, color=canvas.BASELINE, linewidth=1.0, linestyle="--", gid="ahead", zorder=2)
        axes.plot(*found.curves[run], color=canvas.BASELINE, linewidth=1.4, zorder=3)
    axes.plot(*found.curves[found.best], color=canvas.WINNER, linewidth=2.0, marker=".", gid="best", zorder=4)
    axes.set_xscale("log")
    canvas.plain_log_ticks(axes, "x")
    axes.set_ylim(*canvas.limits([canvas.usual(np.concatenate([scores for _, scores in found.curves]))]))
    canvas.note(axes, f"orange: the best; blue: the next {len(going)} that were stopped, and one standard deviation")


def _draw_slice(axes: Axes, found: Expected, one: Varied, at_target: Floats) -> None:
    """The best with other values of one hyperparameter; and where the configurations that were tried lie."""
    heights, mean, deviation = found.slice(one)
    canvas.dress(axes, one.title, "", "")
    tried = np.array([math.nan if (height := one.height(it)) is None else height for it in found.points])
    axes.scatter(one.place(tried), at_target, s=10, color=canvas.CROWD, alpha=0.6, linewidth=0, zorder=2, gid="tried")
    places, low, high = one.place(heights), mean - deviation, mean + deviation
    if one.options:
        axes.errorbar(places, mean, deviation, fmt="o", color=canvas.BASELINE, capsize=3, zorder=3)
        axes.set_xticks(places, [canvas.plain(text.hparam(option)) for option in one.options])
    else:
        axes.fill_between(places, low, high, color=canvas.BASELINE, alpha=0.15, linewidth=0)
        axes.plot(places, mean, color=canvas.BASELINE, linewidth=1.5, gid="slice", zorder=3)
        ticks = np.array([0.0, 0.5, 1.0])
        axes.set_xticks(ticks, canvas.told_apart(one.value(ticks).tolist()))
    best = np.array([float(one.height(found.points[found.best]) or 0.0)])
    axes.axvline(float(one.place(best)[0]), color=canvas.WINNER, linewidth=1.2, zorder=1)
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(*canvas.limits([canvas.usual(np.concatenate([at_target, low, high]))]))
