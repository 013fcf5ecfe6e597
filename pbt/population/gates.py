"""Whether a donor is so much better than a member that copying it is worth losing what the member has.

A member that diverged passes every gate: it has nothing to lose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from pbt.population.verdicts import Standing
from pbt.spec import Mode, is_number, require
from pbt.strategy import badness


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """How much better a donor has to be. By default, any better donor is copied.

    Attributes:
        min_gap: By which share of the larger of both scores.
        min_gap_std: By how many standard deviations of the population's scores.
        alpha: Level of a significance test between the last scores of both (`welch`); None asks for none.
    """

    min_gap: float = 0.0
    min_gap_std: float = 0.0
    alpha: float | None = None

    def __post_init__(self) -> None:
        """Refuse options outside their range."""
        where = "strategy.options."
        for name in ("min_gap", "min_gap_std"):
            value = getattr(self, name)
            is_known = is_number(value) and 0 <= value < math.inf
            require(is_known, where + name, f"{value!r} is not a number of at least 0", "Write 0 for no gate")
        is_known = self.alpha is None or (is_number(self.alpha) and 0 < self.alpha < 1)
        require(is_known, where + "alpha", f"{self.alpha!r} is not between 0 and 1", "Write 0.05, or leave it out")

    def objection(self, member: Standing, donor: Standing, mode: Mode, spread: float) -> str | None:
        """Why a member is not to copy a donor; None if it may.

        Args:
            member: Who would be replaced.
            donor: By whom.
            mode: Whether small or large scores are better.
            spread: Standard deviation of the scores of the population.
        """
        if math.isnan(member.score):
            return None
        gap = badness(member.score, mode) - badness(donor.score, mode)
        if gap < 0:
            return "which is worse"
        if self.min_gap and gap < self.min_gap * max(abs(member.score), abs(donor.score)):
            return f"which is less than {100 * self.min_gap:.3g} % better"
        if self.min_gap_std and gap < self.min_gap_std * spread:
            return f"which is better by less than {self.min_gap_std:.3g} standard deviations of the population"
        if self.alpha is not None and (p := welch(*at_equal_age(member, donor))) >= self.alpha:
            return f"which is not significantly better (p = {p:.2g}, not below {self.alpha:.3g})"
        return None


def spread_of(scores: Sequence[float]) -> float:
    """The sample standard deviation of those that are finite; 0 of fewer than two."""
    finite = [score for score in scores if math.isfinite(score)]
    return math.sqrt(variance(finite)) if len(finite) > 1 else 0.0


def at_equal_age(member: Standing, donor: Standing) -> tuple[list[float], list[float]]:
    """The last scores of both, as far as they are of ages that both have reached: older weights are no better ones."""
    youngest = min(member.age, donor.age)
    first, second = ([score for age, score in it.recent if age <= youngest] for it in (member, donor))
    return first, second


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of Welch's t-test, whether two samples have equal means; 1 where one of them is too small.

    Where neither sample varies, equal means give 1 and others 0.

    Source: Welch 1947, "The generalization of 'Student's' problem when several different population variances are
    involved"; degrees of freedom after Satterthwaite 1946. Used for exploiting by Jaderberg et al. 2017 (arXiv
    1711.09846), section 4.1.1.
    """
    from scipy.special import stdtr  # loaded by those who ask for a test

    if min(len(first), len(second)) < 2 or not all(map(math.isfinite, (*first, *second))):
        return 1.0
    unit = max(map(abs, (*first, *second))) or 1.0  # or squares of what is huge, or tiny, could not be computed with
    samples = [[score / unit for score in sample] for sample in (first, second)]
    gap = abs(fmean(samples[0]) - fmean(samples[1]))
    parts = [variance(sample) / len(sample) for sample in samples]
    if not (most := max(parts)):
        return float(gap == 0)
    shares = [part / most for part in parts]
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(sample) - 1) for share, sample in zip(shares, samples, strict=True)
    )
    return float(2.0 * stdtr(freedom, -gap / math.sqrt(sum(parts))))
