"""What a fitted law cannot tell, and how far it holds: asked before anybody believes it.

Sources: Besiroglu et al. 2024 (arXiv 2404.10102) and Porian et al. 2024 (arXiv 2406.19146), of fits that looked right;
Murphy & van der Vaart 2000, "On Profile Likelihood", JASA 95, of profiles; Huber 1981, "Robust Statistics", section
7.6, of how far a robust sum of losses may rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from pbt.laws.fit import Data, Fit, descend, fit
from pbt.laws.form import Array, Centred, Form, times_beyond
from pbt.laws.intervals import Interval, Spread
from pbt.spec import require

#: Parameters that are as correlated as this stand in for each other.
_RIDGE = 0.99
#: An exponent whose interval comes as near to nothing as this may be nothing.
_NOTHING = 0.02
#: With fewer sizes than this, intervals rest on little.
_FEW = 5
#: Rows further beyond the fitted range than this are far.
_FAR = 10.0
#: Moments of a profile on either side, and how many standard deviations they reach.
_POINTS, _REACH = 20, 4.0


class Held(NamedTuple):
    """What a law of the smaller runs said of the next larger.

    Attributes:
        scale: Of those that were asked of.
        rows: How many they are.
        error: Mean of what is off, as a share, without its sign.
        bias: With it: positive where the law says too much.
    """

    scale: float
    rows: int
    error: float
    bias: float


def rolling(form: Form, inputs: Mapping[str, Array], loss: Array, by: Array, least: int = 4) -> list[Held]:
    """Fit to all up to one scale, and ask of the next, again and again.

    Args:
        form: The law's form.
        inputs: Of the runs, `(rows,)` each.
        loss: Their losses, `(rows,)`.
        by: Their scale, such as parameters or compute, `(rows,)`.
        least: Scales that the first fit has.

    Raises:
        SpecError: There are not so many scales.
    """
    scales = np.unique(by)
    mend = "Have runs of more sizes, or ask for fewer"
    require(len(scales) > least, "scales", f"are {len(scales)}, and {least} are fitted before one is asked of", mend)
    found = []
    for scale in scales[least:]:
        seen, asked = by < scale, by == scale
        law = fit(form, Data.of(form, {k: it[seen] for k, it in inputs.items()}, loss[seen]), starts=512)
        off = law.predict({k: it[asked] for k, it in inputs.items()}) / loss[asked] - 1.0
        found.append(Held(float(scale), int(asked.sum()), float(np.abs(off).mean()), float(off.mean())))
    return found


@dataclass(frozen=True)
class Profile:
    """How well a law fits with one parameter held.

    Attributes:
        parameter: Which.
        values: Of it, ascending, `(values,)`.
        risen: How far the sum of losses is above the least, in units of what one degree of freedom brings, `(values,)`.
        interval: Where that is within what chance brings.
    """

    parameter: str
    values: Array
    risen: Array
    interval: Interval


def profile(law: Fit, parameter: str, level: float = 0.95) -> Profile:
    """Hold a parameter at many values, and fit the others.

    An interval that ends where the values do is open there: the data do not tell.

    Raises:
        SpecError: The law has no such parameter.
    """
    names = law.form.parameters
    require(parameter in names, "parameter", f"{parameter!r} is none of this law", f"Name one of {', '.join(names)}")
    number, data = names.index(parameter), law.data
    unit = 0.5 * float(np.square(law.pull).sum() / max(law.is_near.sum() - len(names), 1))
    slopes = law.form.jacobian(law.theta, data.x)[law.is_near]
    deviation = np.sqrt(2.0 * unit * np.linalg.pinv(slopes.T @ slopes)[number, number])
    steps = np.linspace(0.0, _REACH * deviation, _POINTS + 1)[1:]
    sides = []
    for way in (-1.0, 1.0):
        theta, side = np.delete(law.theta, number)[None], []
        for step in way * steps:
            value = law.theta[number] + step
            held = _held(law.form, number, value)
            theta, objective = descend(held, data, np.ones((1, len(data.y))), theta, 200)
            side.append((value, (float(objective[0]) - law.objective) / unit))
        sides.append(side)
    points = [*sides[0][::-1], (float(law.theta[number]), 0.0), *sides[1]]
    values, risen = np.array(points).T
    inside = values[risen <= stats.chi2.ppf(level, 1)]
    return Profile(parameter, values, risen, Interval(float(inside.min()), float(inside.max())))


def _held(form: Form, number: int, value: float) -> Form:
    """The form with a parameter that is not looked for."""

    def whole(theta: Array) -> Array:
        return np.insert(theta, number, value, axis=-1)

    def evaluate(theta: Array, x: Centred) -> Array:
        return form.evaluate(whole(theta), x)

    def slopes(theta: Array, x: Centred) -> Array:
        return np.delete(form.jacobian(whole(theta), x), number, axis=-1)

    names = tuple(np.delete(form.parameters, number))
    return replace(form, parameters=names, evaluate=evaluate, slopes=slopes)


def alarms(spread: Spread, clusters: Array | None = None, asked: Mapping[str, Array] | None = None) -> list[str]:
    """What has to be known before a law is believed; nothing if there is nothing.

    Args:
        spread: The law with what it might have been.
        clusters: Of each row, such as its size, `(rows,)`.
        asked: Inputs that predictions are wanted for.
    """
    law, found = spread.fit, []
    if clusters is not None and (number := len(np.unique(clusters))) < _FEW:
        found.append(f"only {number} sizes: intervals rest on little")
    if len(law.basins) > 1:
        found.append(f"{len(law.basins)} sets of parameters fit as well and predict something else: have more runs")
    found += _ridges(spread)
    written = spread.written()
    for name in law.form.exponents:
        low, high = written[name]
        if low < _NOTHING:
            told = f"{name} may be 0 ({low:.3g} to {high:.3g}): the runs hardly say that its input matters"
            found.append(told)
    for name, times in _beyond(law, asked or {}).items():
        if times > _FAR:
            found.append(
                f"{name} asked for lies {times:.0f} times beyond the runs: nothing says that the law holds there"
            )
    return found


def _ridges(spread: Spread) -> list[str]:
    """Pairs of parameters that can stand in for each other."""
    drawn, names = spread.theta, spread.fit.form.parameters
    if (drawn.std(axis=0) <= 0.0).any():
        return []
    correlation = np.corrcoef(drawn.T)
    pairs = [(i, j) for i in range(len(names)) for j in range(i) if abs(correlation[i, j]) > _RIDGE]
    return [
        f"{names[j]} and {names[i]} can stand in for each other (correlation {correlation[i, j]:.3f}): "
        "trust what the law predicts, not what each of them is"
        for i, j in pairs
    ]


def _beyond(law: Fit, asked: Mapping[str, Array]) -> dict[str, float]:
    """How many times the furthest that is asked for is beyond the runs, by input."""
    at = law.data.centred(asked) if asked else {}
    return {name: times_beyond(law.data.x[name], values) for name, values in at.items()}


def tried_too_little(values: Sequence[float], best: float, plateau: float) -> str:
    """Why a sweep of one hyperparameter does not show where the best is; nothing if it does.

    Args:
        values: That were tried.
        best: The best by the fit.
        plateau: The factor by which it may be off without harm.
    """
    ordered = np.unique(values)
    if len(ordered) < 3:
        return f"only {len(ordered)} values were tried: have at least three"
    if not ordered[0] < best < ordered[-1]:
        tried = f"{ordered[0]:.3g} to {ordered[-1]:.3g}"
        return f"the best ({best:.3g}) is at the edge of what was tried ({tried}): go on beyond"
    step = float((ordered[1:] / ordered[:-1]).max())
    if step > plateau**2:
        return (
            f"steps of {step:.3g} times jump over the plateau, which is {plateau**2:.3g} times wide: try values between"
        )
    return ""
