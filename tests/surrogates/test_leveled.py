"""Values of rungs that only the better runs reach, on one scale."""

import numpy as np
import pytest

from pbt.surrogates.curves import Values, leveled


def values(run, depth, badness):
    return Values(np.array(run), np.array(depth, dtype=float), np.zeros((len(run), 1)), np.array(badness))


def drawn(persistence, number=4000, seed=0):
    """Runs, a third of which go on at each of two rungs; their standings, and what is seen of them."""
    rng = np.random.default_rng(seed)
    standings = [rng.normal(size=number)]
    for _ in range(2):
        fresh = rng.normal(size=number)
        standings.append(persistence * standings[-1] + np.sqrt(1 - persistence**2) * fresh)
    there = [np.arange(number)]
    for standing in standings[:2]:
        before = there[-1]
        there.append(before[np.argsort(standing[before])[: len(before) // 3]])
    depth = np.concatenate([np.full(len(it), 2.0 - rung) for rung, it in enumerate(there)])
    run = np.concatenate(there)
    truth = np.concatenate([standing[it] for standing, it in zip(standings, there, strict=True)])
    return run, depth, truth


@pytest.mark.parametrize("persistence", [0.7, 0.9])
def test_standings_among_all_are_found_whatever_the_units_of_a_rung(persistence):
    """As drawn, with losses of another location and scale on each rung."""
    run, depth, truth = drawn(persistence)
    badness = truth * 10.0**depth + 5.0 * depth
    found = leveled(values(run, depth, badness), persistence)
    for rung in (2.0, 1.0, 0.0):
        here = depth == rung
        assert truth[here].mean() == pytest.approx(found[here].mean(), abs=0.12)
        assert truth[here].std() == pytest.approx(found[here].std(), abs=0.12)
        assert np.corrcoef(truth[here], found[here])[0, 1] > 0.97


def test_order_within_a_rung_is_never_reversed():
    run, depth, truth = drawn(0.8, number=60)
    found = leveled(values(run, depth, np.exp(truth)))
    for rung in (2.0, 1.0, 0.0):
        here = depth == rung
        assert (np.diff(found[here][np.argsort(truth[here])]) >= 0).all()


def test_who_goes_on_alone_stands_where_it_stood_or_a_little_nearer_to_all():
    found = leveled(values([0, 1, 2, 1], [1, 1, 1, 0], [3.0, 1.0, 2.0, 0.5]), persistence=0.9)
    assert found[3] == pytest.approx(0.9 * found[1])


def test_who_diverged_is_as_bad_as_the_worst_of_the_rung():
    found = leveled(values([0, 1, 2, 3], [1, 1, 1, 1], [3.0, np.nan, 2.0, np.inf]))
    assert found[1] == found[3] == found[0] > found[2]
