"""How sure a fitted law is: by fits to the same data with other weights.

Rows of one model size share its seed, its data order and its luck, so that they are not as many observations as there
are rows: by default sizes are drawn, with all their rows. Each fit has a weight of its own for each of them, from an
exponential distribution: as with drawing them again and again, but no size is ever missing altogether, without which
the law may say nothing at all.

With few sizes such fits lie closer together than estimates do, the more so the more a single size decides. How much is
told by leaving each out in turn: intervals are widened to that standard deviation, and as Student's distribution is
wider than the normal one.

Sources: MacKinnon, Nielsen & Webb 2023, "Fast and reliable jackknife and bootstrap methods for cluster-robust
inference", Journal of Applied Econometrics 38, equation 12 (CV3), of leaving out; Rubin 1981, "The Bayesian Bootstrap",
Annals of Statistics 9, of the weights; Field & Welsh 2007, "Bootstrapping clustered data", JRSS B 69, of drawing
clusters; Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 2.4, of intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import stats

from pbt.laws.fit import Fit, refit
from pbt.laws.form import Array

#: Coefficients that nothing bounds count as this, so that their squares are numbers.
_LARGE = 1e150


class Interval(NamedTuple):
    """From where to where."""

    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """A law with what it might have been.

    Attributes:
        fit: The law.
        theta: Parameters of each fit, `(draws, parameters)`.
        without: Parameters without each size, or row, `(clusters, parameters)`.
    """

    fit: Fit
    theta: Array
    without: Array

    def predict(self, inputs: Mapping[str, Array], level: float = 0.95) -> tuple[Array, Array]:
        """Lowest and highest expected losses at inputs, `(rows,)` each. A single run's noise comes on top of it."""
        x = self.fit.data.centred(inputs)
        evaluate = self.fit.form.evaluate
        estimate, drawn, without = (evaluate(theta, x) for theta in (self.fit.theta, self.theta, self.without))
        low, high = interval(estimate, drawn, without, level)
        return np.exp(low), np.exp(high)

    def written(self, level: float = 0.95) -> dict[str, Interval]:
        """Intervals of the parameters that people write."""
        drawn, without = self._all_written
        found = {}
        for name, value in self.fit.written.items():
            low, high = interval(np.array(value), drawn[name], without[name], level)
            found[name] = Interval(float(low), float(high))
        return found

    @cached_property
    def _all_written(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """By name, of what was drawn and of what was left out."""
        return self._written_of(self.theta), self._written_of(self.without)

    def _written_of(self, theta: Array) -> dict[str, Array]:
        rows = [self.fit.form.written(one, self.fit.data.centre) for one in theta]
        return {name: np.clip([row[name] for row in rows], -_LARGE, _LARGE) for name in self.fit.written}


def interval(estimate: Array, drawn: Array, without: Array, level: float) -> tuple[Array, Array]:
    """Quantiles of what was drawn, widened."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
    number = len(without)
    jackknife = np.sqrt((number - 1) / number * np.square(without - estimate).sum(axis=0))
    spread_s = np.maximum(drawn.std(axis=0), 1e-300)
    student = stats.t.ppf(1.0 - tail, max(number - 1, 1)) / stats.norm.ppf(1.0 - tail)
    wider = np.maximum(1.0, jackknife / spread_s) * student
    return estimate - wider * np.maximum(estimate - low, 0.0), estimate + wider * np.maximum(high - estimate, 0.0)


def spread(fit: Fit, clusters: Array | None = None, draws: int = 1000, seed: int = 0) -> Spread:
    """Fit the law again with other weights.

    Args:
        fit: The law.
        clusters: Of each row, what it shares with others, `(rows,)`; None takes each row for itself.
        draws: How many fits.
        seed: Of the weights.
    """
    _, own = np.unique(np.arange(len(fit.data.y)) if clusters is None else clusters, return_inverse=True)
    number = int(own.max()) + 1
    found = [refit(fit.form, fit.data, it[:, own], fit.theta) for it in other_weights(number, draws, seed)]
    return Spread(fit, *found)


def other_weights(number: int, draws: int, seed: int) -> tuple[Array, Array]:
    """Of clusters: as they are drawn, `(draws, clusters)`, and with each left out in turn, `(clusters, clusters)`."""
    drawn = np.random.default_rng(seed).exponential(size=(draws, number))
    return drawn / drawn.mean(axis=1, keepdims=True), 1.0 - np.eye(number)
