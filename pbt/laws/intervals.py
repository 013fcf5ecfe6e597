"""How sure a fitted law is: by fits to the same data with other weights.

Rows of one model size share its seed, its data order and its luck, so that they are not as many observations as there
are rows: by default sizes are drawn, with all their rows. Each fit has a weight of its own for each of them, from an
exponential distribution: as with drawing them again and again, but no size is ever missing altogether, without which
the law may say nothing at all. With few sizes the spread of such fits is less than that of the estimate; it is widened
as Student's distribution is wider than the normal one.

Sources: Rubin 1981, "The Bayesian Bootstrap", Annals of Statistics 9, of the weights; Field & Welsh 2007,
"Bootstrapping clustered data", JRSS B 69, of drawing clusters; Davison & Hinkley 1997, "Bootstrap Methods and their
Application", section 2.4, of intervals.
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
        clusters: How many were weighed: sizes, or rows.
    """

    fit: Fit
    theta: Array
    clusters: int

    def predict(self, inputs: Mapping[str, Array], level: float = 0.95) -> tuple[Array, Array]:
        """Lowest and highest expected losses at inputs, `(rows,)` each. A single run's noise comes on top of it."""
        x = self.fit.data.centred(inputs)
        low, high = self._interval(
            self.fit.form.evaluate(self.fit.theta, x), self.fit.form.evaluate(self.theta, x), level
        )
        return np.exp(low), np.exp(high)

    def written(self, level: float = 0.95) -> dict[str, Interval]:
        """Intervals of the parameters that people write."""
        drawn = {name: np.array([one[name] for one in self._all_written]) for name in self.fit.written}
        return {
            name: Interval(*map(float, self._interval(np.array(self.fit.written[name]), values, level)))
            for name, values in drawn.items()
        }

    @cached_property
    def _all_written(self) -> list[dict[str, float]]:
        return [self.fit.form.written(theta, self.fit.data.centre) for theta in self.theta]

    def _interval(self, estimate: Array, drawn: Array, level: float) -> tuple[Array, Array]:
        """Quantiles of what was drawn, as far from the estimate as few clusters ask for."""
        tail = (1.0 - level) / 2.0
        low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
        wider = _wider(self.clusters, level)
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
    drawn = np.random.default_rng(seed).exponential(size=(draws, number))
    weights = (drawn / drawn.mean(axis=1, keepdims=True))[:, own]
    return Spread(fit, refit(fit.form, fit.data, weights, fit.theta), number)


def _wider(clusters: int, level: float) -> float:
    """Student's quantile over the normal one; and a variance is a mean over one observation fewer."""
    free = max(clusters - 1, 1)
    upper = 0.5 + level / 2.0
    return float(stats.t.ppf(upper, free) / stats.norm.ppf(upper) * np.sqrt(clusters / free))
