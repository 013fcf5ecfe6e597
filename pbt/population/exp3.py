"""Which category to try next, where what pays changes with time.

A bandit with C arms of which B are played in a round. Weights of arms grow with what they gained; a share of all
weights goes to every arm in every round, so that none is forgotten for good:

    q_c = (1 - gamma) w_c / sum(w) + gamma / C                     the chance of each play to be of arm c
    w_c <- w_c exp(gamma B g_c / (C p_c)) + (e alpha / C) sum(w)   with p_c = B q_c and alpha = 1 / T

Where an arm would be played more than once (p_c > 1), its weight is cut to what is played once, and for that round
its gain does not count. Gains are in [0, 1].

A population is not that tidy: its members, N of them, may have the same category. The gain of an arm is then that of
all members that have it, each counted B / N times with B = min(N, C); with N <= C different arms that is the formula.
Members that were not replaced have not drawn their category anew either; they are counted as if they had.

Sources: TV.EXP3.M of Parker-Holder et al. 2021, "Tuning Mixed Input Hyperparameters on the Fly for Efficient Population
Based AutoRL" (PB2-Mix, arXiv 2106.15883); from its authors' code (github.com/jparkerholder/procgen_autorl, `exp3.py`)
the exploration of 0.2 where there are at least as many plays as arms. Before that Uchiya et al. 2010, "Algorithms for
Adversarial Bandit Problems with Multiple Plays" (EXP3.M), and Auer et al. 2002 (EXP3.S). T is a constant here, not the
length of the sweep, which may be extended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: Exploration where every arm can be played in every round.
_CROWDED = 0.2


def exploration(arms: int, plays: int, horizon: int) -> float:
    """`gamma`: how much of each play is drawn evenly from all arms."""
    if plays >= arms:
        return _CROWDED
    return min(1.0, math.sqrt(arms * math.log(arms / plays) / ((math.e - 1.0) * plays * horizon)))


def chances(weights: np.ndarray, plays: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """The chance of each play to be of each arm, `(arms,)`, and which arms are cut to one play.

    Args:
        weights: Positive, `(arms,)`.
        plays: In this round, one at least.
        horizon: T.
    """
    arms = len(weights)
    gamma = exploration(arms, plays, horizon)
    known, is_cut = weights, np.zeros(arms, dtype=bool)
    if plays < arms and gamma < 1.0:
        known, is_cut = _cut(weights, (1.0 / plays - gamma / arms) / (1.0 - gamma))
    return (1.0 - gamma) * known / known.sum() + gamma / arms, is_cut


def updated(weights: np.ndarray, plays: Sequence[tuple[int, float]], horizon: int) -> np.ndarray:
    """The weights after a round, `(arms,)`, with a mean of 1.

    Args:
        weights: Before, positive.
        plays: The arm and the gain of each.
        horizon: T.
    """
    if not plays:
        return weights
    arms, number = len(weights), len(plays)
    chance, is_cut = chances(weights, number, horizon)
    gains = np.zeros(arms)
    for arm, gain in plays:
        gains[arm] += gain / (number * chance[arm])
    gamma, counted = exploration(arms, number, horizon), min(number, arms)
    growth = np.where(is_cut, 1.0, np.exp(gamma * counted / arms * gains))
    grown = weights * growth + math.e / (horizon * arms) * weights.sum()
    return grown / grown.mean()


def draw(chance: np.ndarray, plays: int, rng: np.random.Generator) -> list[int]:
    """The arms to play, in any order: different ones where there are enough.

    Args:
        chance: Of each play to be of each arm, none above `1 / plays` where `plays` is below their number.
        plays: How many.
        rng: Source of the draws.
    """
    arms = len(chance)
    if plays >= arms:
        edges = np.cumsum(chance)
        return [min(int(np.searchsorted(edges, it * edges[-1], side="right")), arms - 1) for it in rng.random(plays)]
    drawn = np.flatnonzero(_rounded(chance * plays, rng))
    return [int(it) for it in rng.permutation(drawn)]


def _cut(weights: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights with those that are more than a share `most` of all cut to just that share; and which these are."""
    rising = np.sort(weights)
    falling, rests = rising[::-1], np.cumsum(rising)[::-1]  # summed from below, or what is small would be lost
    for number, (weight, rest) in enumerate(zip(falling, rests, strict=True)):
        # With the `number` largest cut to `limit`, that is the share `most` of limit * number + rest.
        limit = most * rest / (1.0 - most * number) if most * number < 1.0 else math.inf
        if weight <= limit:
            is_cut = weights > limit
            return np.where(is_cut, limit, weights), is_cut
    return weights, np.zeros(len(weights), dtype=bool)


def _rounded(shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each share rounded to 0 or 1, to 1 as often as it says, so that their sum stays what it is.

    Source: Gandhi et al. 2006, "Dependent Rounding and its Applications to Approximation Algorithms", section 2.
    """
    left = [float(it) for it in shares]
    open_ = [it for it, share in enumerate(left) if 1e-9 < share < 1.0 - 1e-9]
    while len(open_) > 1:
        i, j = open_[0], open_[1]
        up, down = min(1.0 - left[i], left[j]), min(left[i], 1.0 - left[j])
        change = up if rng.random() < down / (up + down) else -down
        left[i], left[j] = left[i] + change, left[j] - change
        open_ = [it for it in open_ if 1e-9 < left[it] < 1.0 - 1e-9]
    return np.array(left) > 0.5
