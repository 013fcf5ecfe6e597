"""Searches beside freeze-thaw: by entropy, by an ensemble, and what is drawn without looking."""

import copy

import numpy as np
import pytest
from scipy.stats import qmc

from pbt.search.curve_model import CurveModel
from pbt.search.ensemble_search import EnsembleSearch
from pbt.search.entropy_search import EntropySearch
from pbt.search.policy import Begin, Book, GoOn, Ladder
from pbt.search.promotion import Halving
from pbt.search.proposers import sobol, uniform
from searchspaces import Float, Space
from tests.search.test_freeze_thaw import LADDER, MIXED, SQUARE, mean_loss, search

POLICIES = {
    "entropy": lambda space, **changes: EntropySearch(model=CurveModel(space), **changes),
    "ensemble": lambda space, **changes: EnsembleSearch(model=CurveModel(space), **changes),
}


@pytest.mark.parametrize("name", POLICIES)
def test_it_comes_near_to_the_best(name):
    """In the mean of three draws, nearer than halving at random."""
    assert mean_loss(lambda: POLICIES[name](SQUARE), 3) < mean_loss(lambda: Halving(uniform(SQUARE)), 3)


@pytest.mark.parametrize("name", POLICIES)
def test_it_decides_by_the_book_alone(name):
    lived = POLICIES[name](SQUARE)
    book = search(lived, decisions=30)
    for seed in (2, 3):
        assert lived.choose(book, seed) == POLICIES[name](SQUARE).choose(copy.deepcopy(book), seed)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("value", [float("nan"), 1.0])
def test_values_that_say_nothing_are_borne(name, value):
    book = search(POLICIES[name](MIXED), lambda hparams, steps: value, decisions=25)
    for run in book.runs:
        MIXED.check(run.hparams)


def test_by_entropy_runs_may_begin_and_go_on_to_any_rung():
    """And only upwards; where going on costs as much as beginning, too."""
    for kinds in ((), (0, 1, 2, 3)):
        policy = POLICIES["entropy"](SQUARE, random=0.0)
        book = search(policy, decisions=40, ladder=Ladder(LADDER.rungs, kinds))
        orders = [order for seed in range(6) for order in policy.choose(book, seed, number=2)]
        assert {type(order) for order in orders} <= {Begin, GoOn}
        for order in orders:
            assert order.until in LADDER.rungs
            if isinstance(order, GoOn):
                assert order.until > book.runs[order.run].steps


def test_a_sobol_sequence_is_that_of_scipy():
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
    propose, book = sobol(space, seed=3), Book(LADDER)
    drawn = []
    for _ in range(8):
        hparams = propose(book, 0, {})
        drawn.append(list(hparams.values()))
        book.take(Begin(hparams, 1.0))
    expected = qmc.Sobol(2, scramble=True, rng=np.random.default_rng(3)).random(8)
    np.testing.assert_allclose(drawn, expected)
