"""Processes of rungs, and what they count for."""

import numpy as np
import pytest

from pbt.surrogates.curves import NOBODY, Values, evened, with_parameters
from pbt.surrogates.ensemble import ensemble, found_parameters, in_order, rungs_of


def values_of(*rungs):
    """Of `(depth, cube, badness)`, one after another."""
    columns = [(np.arange(len(cube)), np.full(len(cube), depth), cube, badness) for depth, cube, badness in rungs]
    return Values(*(np.concatenate(column) for column in zip(*columns, strict=True)))


@pytest.fixture(scope="module")
def rungs():
    """Forty values that say the opposite of the target, twenty that say the same, eight at the target."""
    cube = np.random.default_rng(0).random((40, 2))
    loss = np.square(cube - 0.3).sum(axis=1)
    values = values_of((1.0, cube, -loss), (0.5, cube[:20], loss[:20]), (0.0, cube[:8], loss[:8]))
    return rungs_of(values)


def test_rungs_come_from_the_lowest_on_and_only_with_enough(rungs):
    assert [40, 20, 8] == [len(rung) for rung in rungs]
    cube = np.random.default_rng(0).random((9, 2))
    few = values_of((1.0, cube, cube[:, 0]), (0.0, cube[:3], cube[:3, 0]))
    assert [9] == [len(rung) for rung in rungs_of(few)]
    diverged = values_of((1.0, cube, np.full(9, np.nan)))
    assert rungs_of(diverged) == []


def test_a_rung_that_ranks_badly_counts_for_nothing(rungs):
    model = ensemble(rungs, lambda number: found_parameters(rungs[number]))
    assert model.weights.sum() == pytest.approx(1.0)
    assert model.weights[0] < 0.02
    assert model.weights[1] > 0.3
    cube = np.random.default_rng(1).random((200, 2))
    expected, deviation = model.predict(cube)
    assert np.corrcoef(expected, np.square(cube - 0.3).sum(axis=1))[0, 1] > 0.9
    assert (deviation > 0).all()


def test_alone_it_is_the_process_itself(rungs):
    parameters = found_parameters(rungs[1])
    alone = with_parameters(rungs[1], evened(rungs[1].badness), parameters)
    cube = np.random.default_rng(1).random((9, 2))
    expected = alone.predict(np.full(9, NOBODY), np.zeros(9), cube)
    np.testing.assert_allclose(ensemble(rungs[1:2], lambda number: parameters).predict(cube), expected)


@pytest.mark.parametrize(
    ("expected", "seen", "share"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1.0),
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], 0.0),
        ([1.0, 3.0, 2.0], [1.0, 2.0, 3.0], 2 / 3),
        ([1.0, 2.0], [5.0, 5.0], 0.0),
        ([1.0, 2.0, 3.0], [1.0, np.inf, np.inf], 1.0),
    ],
)
def test_pairs_in_order(expected, seen, share):
    assert in_order(np.array(expected), np.array(seen)) == pytest.approx(share)
