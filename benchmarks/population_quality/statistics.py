"""What scores over seeds say: means, paired differences, and how many of them would be found by chance.

Methods with the same seed begin with the same population, so that what they owe to it cancels in their difference.
Intervals are Student's, of the mean over seeds, each by itself at 95 %. Whoever asks the same question of several tasks
finds something by chance: p values are corrected by Holm's method over the tasks of a question, which is a method and
what it is compared with.

Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure"; Student's paired test as in any textbook.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from scipy import stats

from pbt.spec import Mode

_CONFIDENCE = 0.95
#: Two-sided, of all tasks of a question together.
LEVEL = 0.05

Verdict: TypeAlias = Literal["better", "worse", "equal", "not told apart", "unknown"]
#: Scores by task, method and place of the seed.
Scores: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its interval; NaN where a score is missing, or one seed says nothing of the others."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A method beside another on one task.

    Attributes:
        task: Its name.
        method: Of which it is said.
        reference: What it is compared with.
        lead: By how much the method is ahead, seed by seed: positive where it is better, whatever the objective's mode.
        wins: With how many seeds it is.
        p: Of the paired test.
        p_holm: The same, corrected over the tasks of the question.
        verdict: In words.
    """

    task: str
    method: str
    reference: str
    lead: Estimate
    wins: int
    p: float
    p_holm: float = math.nan
    verdict: Verdict = "unknown"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of one value for each seed."""
    mean, margin = _mean(values), _margin(values)
    return Estimate(mean, mean - margin, mean + margin)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values and all(map(math.isfinite, values)) else math.nan


def _margin(values: Sequence[float]) -> float:
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    t = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, len(values) - 1))
    return t * statistics.stdev(values) / math.sqrt(len(values))


def p_value(leads: Sequence[float]) -> float:
    """How probable a mean this far from 0 is by chance; NaN where that cannot be said."""
    margin = _margin(leads)
    if math.isnan(margin):
        return math.nan
    if margin == 0.0:  # the same with all seeds
        return 0.0 if leads[0] else 1.0
    return float(stats.ttest_1samp(leads, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p value corrected for the others; those that are NaN stay so and count for nothing."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, most = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * p))
        corrected[place] = most
    return corrected


def compare(scores: Scores, modes: Mapping[str, Mode], questions: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Ask each question of every task that has scores of both methods.

    Args:
        scores: Of all methods; those of a task are in the order of the same seeds.
        modes: Whether small or large is better, by task.
        questions: Pairs of a method and what it is compared with.
    """
    found = []
    for method, reference in questions:
        asked = [
            _compared(task, method, reference, own[method], own[reference], modes[task])
            for task, own in scores.items()
            if method in own and reference in own
        ]
        corrected = holm([it.p for it in asked])
        found += [
            replace(it, p_holm=p, verdict=_verdict(it.lead.mean, p)) for it, p in zip(asked, corrected, strict=True)
        ]
    return found


def _compared(
    task: str, method: str, reference: str, own: Sequence[float], other: Sequence[float], mode: Mode
) -> Comparison:
    sign = 1.0 if mode == "max" else -1.0
    leads = [sign * (a - b) for a, b in zip(own, other, strict=True)]
    wins = sum(lead > 0 for lead in leads)
    return Comparison(task=task, method=method, reference=reference, lead=estimate(leads), wins=wins, p=p_value(leads))


def _verdict(lead: float, p: float) -> Verdict:
    if math.isnan(p):
        return "unknown"
    if p < LEVEL:
        return "better" if lead > 0 else "worse"
    return "equal" if p == 1.0 and lead == 0.0 else "not told apart"
