"""The bandit of categories, against numbers worked out by hand."""

import collections
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pbt.population import exp3


def test_how_much_is_explored():
    """`sqrt(C ln(C / B) / ((e - 1) B T))`; 0.2 where there are plays for all; never more than all."""
    assert exp3.exploration(4, 2, 50) == pytest.approx(math.sqrt(4 * math.log(2) / (1.718281828459045 * 2 * 50)))
    assert exp3.exploration(4, 4, 50) == exp3.exploration(4, 9, 50) == 0.2
    assert exp3.exploration(6, 1, 1) == 1.0


def test_a_round_with_fewer_plays_than_arms_by_hand():
    """C = 4, B = 2, T = 50, all weights 1: q = 1/4, p = 1/2, and nothing is cut, as 0.25 is less than 0.5."""
    gamma = math.sqrt(4 * math.log(2) / ((math.e - 1) * 100))
    chance, is_cut = exp3.chances(np.ones(4), 2, 50)
    np.testing.assert_allclose(chance, 0.25)
    assert not is_cut.any()
    # Arm 1 gained 0.8, arm 3 gained 0.1; each is counted 1 / p = 2 times.
    growth = [1.0, math.exp(gamma * 2 / 4 * 0.8 * 2), 1.0, math.exp(gamma * 2 / 4 * 0.1 * 2)]
    grown = np.array(growth) + math.e * (1 / 50) / 4 * 4
    np.testing.assert_allclose(exp3.updated(np.ones(4), [(1, 0.8), (3, 0.1)], 50), grown / grown.mean(), rtol=1e-12)


def test_a_round_with_more_plays_than_arms_by_hand():
    """C = 2 with weights 3 and 1: q = 0.8 * (3/4, 1/4) + 0.1 = (0.7, 0.3), as gamma is 0.2."""
    weights = np.array([3.0, 1.0])
    chance, _ = exp3.chances(weights, 4, 50)
    np.testing.assert_allclose(chance, [0.7, 0.3])
    plays = [(0, 1.0), (0, 0.5), (0, 0.0), (1, 0.75)]
    growth = np.exp([0.2 * 1.5 / (4 * 0.7), 0.2 * 0.75 / (4 * 0.3)])
    grown = weights * growth + math.e / (50 * 2) * 4.0
    np.testing.assert_allclose(exp3.updated(weights, plays, 50), grown / grown.mean(), rtol=1e-12)


def test_an_arm_that_would_be_played_twice_is_cut_to_once():
    """C = 3, B = 2: the weight of the heavy arm is cut until p = B q = 1; its gain does not count in that round."""
    weights = np.array([100.0, 1.0, 2.0])
    gamma = exp3.exploration(3, 2, 50)
    chance, is_cut = exp3.chances(weights, 2, 50)
    assert is_cut.tolist() == [True, False, False]
    assert 2 * chance[0] == pytest.approx(1.0)
    assert chance.sum() == pytest.approx(1.0)
    # eta = (1/2 - gamma/3) / (1 - gamma), and the cut weight v has v / (v + 3) = eta.
    eta = (0.5 - gamma / 3) / (1 - gamma)
    v = 3 * eta / (1 - eta)
    np.testing.assert_allclose(chance, (1 - gamma) * np.array([v, 1, 2]) / (v + 3) + gamma / 3)
    grown = weights + math.e / 150 * 103.0
    np.testing.assert_allclose(exp3.updated(weights, [(0, 1.0)] * 2, 50), grown / grown.mean())


def test_nothing_played_nothing_learned():
    """A choice that is inactive for everybody."""
    weights = np.array([1.0, 3.0])
    assert exp3.updated(weights, [], 50) is weights


@example(weights=np.array([1.0, 1.0, 1.0, 393214.0, 131071.61615387218, 2.0**-9, 2.0**-14]), plays=6, horizon=1, seed=0)
@given(
    weights=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=7).map(np.array),
    plays=st.integers(1, 9),
    horizon=st.integers(1, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_chances_are_chances_and_so_are_draws(weights, plays, horizon, seed):
    """They sum to 1 and none is played more than once where there are arms enough; then draws are different arms."""
    chance, _ = exp3.chances(weights, plays, horizon)
    assert chance.sum() == pytest.approx(1.0)
    assert (chance > 0).all()
    drawn = exp3.draw(chance, plays, np.random.default_rng(seed))
    assert len(drawn) == plays
    assert set(drawn) <= set(range(len(weights)))
    if plays < len(weights):
        assert plays * chance.max() <= 1 + 1e-9
        assert len(set(drawn)) == plays


@pytest.mark.parametrize("plays", [1, 2, 4, 6])
def test_arms_are_drawn_as_often_as_they_say(plays):
    """Over 4000 rounds each arm's share is its chance, to three standard deviations."""
    chance = np.array([0.25, 0.05, 0.2, 0.25, 0.25])
    rng = np.random.default_rng(0)
    drawn = collections.Counter(arm for _ in range(4000) for arm in exp3.draw(chance, plays, rng))
    for arm, expected in enumerate(chance):
        mean = expected * plays * 4000
        assert abs(drawn[arm] - mean) < 3.5 * math.sqrt(mean)


def test_the_better_arm_is_found_and_a_change_is_noticed():
    """Eight members, three arms, one of which gains more; halfway another does."""
    rng, weights, shares = np.random.default_rng(0), np.ones(3), []
    for generation in range(80):
        good = 0 if generation < 40 else 2
        chance, _ = exp3.chances(weights, 8, 50)
        plays = [(arm, float(arm == good)) for arm in exp3.draw(chance, 8, rng)]
        weights = exp3.updated(weights, plays, 50)
        shares.append(exp3.chances(weights, 8, 50)[0])
    assert shares[39][0] > 0.6
    assert shares[79][2] > 0.6
