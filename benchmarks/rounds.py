"""Sides that take turns, and what their rates say: medians, ratios, intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over rounds, with its 95 % interval by bootstrap over rounds."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Median and interval, each by the spec."""
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def take_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure all sides once in each round, one after the other: a busy moment of the machine strikes them alike."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def estimate(values: Sequence[float]) -> Estimate:
    """The median of a value per round.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    rounds = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(rounds), size=(_RESAMPLES, len(rounds)))
    tail = 100.0 * (1.0 - _CONFIDENCE) / 2.0
    low, high = np.percentile(np.median(rounds[draws], axis=1), [tail, 100.0 - tail])
    return Estimate(float(np.median(rounds)), float(low), float(high))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """The median of the ratios within each round."""
    return estimate([own / other for own, other in zip(ours, theirs, strict=True)])
