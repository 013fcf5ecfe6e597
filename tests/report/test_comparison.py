"""Differences paired by seed: intervals by hand, and sentences that say no more than they do."""

from __future__ import annotations

import math

import pytest

from pbt.report import comparison
from pbt.report.comparison import ArmScores, difference, margin

NAN = math.nan


def test_intervals_by_hand() -> None:
    """1, 2, 3: mean 2, s 1, t(2) at 0.975 is 4.302653, over the root of 3."""
    assert 4.302653 / math.sqrt(3) == pytest.approx(margin([1.0, 2.0, 3.0]), abs=1e-6)
    assert 0.0 == margin([0.5, 0.5])
    assert 12.706205 * 1.0 == pytest.approx(margin([0.0, 2.0]), abs=1e-5)  # s is the root of 2, as is that of n
    assert [None] * 3 == [margin([1.0]), margin([1.0, NAN]), margin([1.0, math.inf])]


@pytest.mark.parametrize(
    ("mode", "other", "verdict", "wins"),
    [
        ("max", (0.0, 0.1, 0.0, 0.1), "better", 4),
        ("min", (0.0, 0.1, 0.0, 0.1), "worse", 0),
        ("min", (2.0, 2.1, 2.0, 2.1), "better", 4),
        ("max", (0.0, 2.0, 1.0, 0.9), "nothing", 2),
        ("max", (1.0, 1.0, 1.0, 1.0), "equal", 0),
        ("max", (0.5, 0.5, 0.5, 0.5), "better", 4),
        ("max", (NAN, 0.0, 0.0, 0.0), "unknown", 4),
        ("max", (0.0, -math.inf, 0.0, 0.0), "unknown", 4),
        ("min", (2.0, 2.0, math.inf, 2.0), "unknown", 4),
    ],
)
def test_verdicts_say_no_more_than_the_interval(mode: str, other: tuple[float, ...], verdict: str, wins: int) -> None:
    """The first arm scores 1 with each of four seeds."""
    arms = [ArmScores(name=name, source="", scores=scores) for name, scores in (("this", (1.0,) * 4), ("that", other))]
    lead = difference(*arms, mode)
    assert (verdict, wins) == (lead.verdict, lead.wins)
    said = comparison._sentence(*arms, lead, "Q")
    expected = {
        "better": "This is better than that by ",
        "worse": "This is worse than that by ",
        "nothing": "No difference between this and that is shown: the interval of the lead, ",
        "equal": "No difference between this and that is shown: they score",
        "unknown": "Nothing is shown about this and that: 1 of 4 of that diverged or failed; this is ahead with 4 of",
    }
    assert said.startswith(expected[verdict]), said
    if verdict == "nothing":
        assert "-1.2767 to 1.3267 Q, holds 0" in said  # 0.025 ± 3.182446 * 0.818026 / 2
