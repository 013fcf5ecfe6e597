"""Gates: how much better a donor has to be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pbt.errors import SpecError
from pbt.population.gates import Gates, at_equal_age, spread_of, welch
from pbt.population.verdicts import Standing

NAN = math.nan


def standing(score, *recent, age=10, member=0):
    return Standing(member, score, {}, age, tuple(recent))


@pytest.mark.parametrize(
    ("gates", "member", "donor", "spread", "objection"),
    [
        (Gates(), 1.0, 1.0, 0.0, None),  # as good will do
        (Gates(), 1.0, 0.99, 0.0, "which is worse"),
        (Gates(min_gap=0.1), 9.0, 10.0, 0.0, None),  # a tenth of the larger, exactly
        (Gates(min_gap=0.1), 9.1, 10.0, 0.0, "which is less than 10 % better"),
        (Gates(min_gap=0.1), -10.0, -9.1, 0.0, "which is less than 10 % better"),
        (Gates(min_gap=0.1), -0.01, 0.01, 0.0, None),
        (Gates(min_gap=0.1), 0.0, 0.0, 0.0, None),  # no gap is asked for of nothing
        (Gates(min_gap_std=0.5), 1.0, 1.5, 1.0, None),
        (
            Gates(min_gap_std=0.5),
            1.0,
            1.4,
            1.0,
            "which is better by less than 0.5 standard deviations of the population",
        ),
        (Gates(min_gap=0.1, min_gap_std=0.5), 1.0, 1.4, 1.0, "which is better by less than 0.5 standard deviations"),
        (Gates(alpha=0.05), 1.0, 2.0, 0.0, "which is not significantly better (p = 1, not below 0.05)"),
        (Gates(min_gap=0.9, min_gap_std=9.0, alpha=0.01), NAN, 1.0, 1.0, None),  # it has nothing to lose
        (Gates(min_gap=0.9), -math.inf, 1.0, 0.0, None),
    ],
)
def test_a_gate(gates, member, donor, spread, objection):
    """In the direction that is better, and in the other one, mirrored."""
    told = gates.objection(standing(member), standing(donor, member=1), "max", spread)
    mirrored = gates.objection(standing(-member), standing(-donor, member=1), "min", spread)
    assert told == mirrored
    assert told is None if objection is None else told.startswith(objection)


@pytest.mark.parametrize(
    ("scores", "spread"),
    [([], 0.0), ([3.0], 0.0), ([1.0, 3.0], math.sqrt(2.0)), ([1.0, NAN, 3.0, math.inf], math.sqrt(2.0))],
)
def test_the_spread_is_of_those_that_are_finite(scores, spread):
    """The sample standard deviation."""
    assert spread_of(scores) == pytest.approx(spread)


def test_scores_are_compared_at_ages_that_both_have_reached():
    """A donor that is ahead is better for being older; so are a member's own last scores."""
    young = standing(0.3, (10, 0.1), (20, 0.3), age=20)
    old = standing(0.9, (10, 0.2), (20, 0.4), (30, 0.9), age=30)
    assert at_equal_age(young, old) == ([0.1, 0.3], [0.2, 0.4])
    assert at_equal_age(old, young) == ([0.2, 0.4], [0.1, 0.3])


SAMPLES = st.lists(st.integers(-100, 100), min_size=2, max_size=10)


@given(SAMPLES, SAMPLES)
def test_welchs_test_is_scipys(first, second):
    """Where both samples vary: of one that does not, scipy says that it is not sure."""
    if 1 in (len(set(first)), len(set(second))):
        return
    assert welch(first, second) == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        ([1.0], [5.0, 6.0], 1.0),  # too few to tell
        ([], [], 1.0),
        ([1.0, 1.0], [1.0, 1.0], 1.0),
        ([1.0, 1.0], [2.0, 2.0], 0.0),
        ([1.0, NAN], [2.0, 2.0], 1.0),
        ([0.0, 1e-92], [0.0, 0.0], 0.5),  # t is 1, with a degree of freedom
        ([0.0, 1e300], [1e300, 1e300], 0.5),
    ],
)
def test_welchs_test_at_its_limits(first, second, p):
    """No score is compared with one that diverged."""
    assert welch(first, second) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_gap": -0.1}, "strategy.options.min_gap: -0.1 is not a number of at least 0. Write 0 for no gate"),
        ({"min_gap_std": NAN}, "strategy.options.min_gap_std: nan is not a number"),
        ({"alpha": 1.0}, "strategy.options.alpha: 1.0 is not between 0 and 1. Write 0.05, or leave it out"),
        ({"alpha": True}, "strategy.options.alpha: True is not"),
    ],
)
def test_bad_options_are_named_with_the_mend(options, message):
    """Field, value, mend."""
    with pytest.raises(SpecError) as raised:
        Gates(**options)
    assert str(raised.value).startswith(message)
