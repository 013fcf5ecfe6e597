"""Optuna's samplers as proposers."""

import math

import numpy as np
import pytest

from pbt.search.optuna_proposer import OptunaProposer
from pbt.search.policy import Begin, Book, Ladder, Value
from pbt.search.promotion import Halving, Straight, lowest
from searchspaces import Float, Space
from tests.search.test_freeze_thaw import MIXED, SQUARE, bowl, search

SAMPLERS = ("tpe", "gp", "cma_es")
ONE = Ladder((27.0,))


def ended(policy, decisions, space=SQUARE, loss=bowl):
    """A book of runs that were trained one after another."""
    book = Book(ONE)
    for seed in range(decisions):
        (order,) = policy.choose(book, seed)
        run = book.take(order)
        space.check(order.hparams)
        book.saw(Value(run, order.until, loss(order.hparams), order.until))
    return book


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_comes_nearer_than_chance(sampler):
    book = ended(Straight(OptunaProposer(SQUARE, sampler, seed=0)), 40)
    drawn = [bowl(SQUARE.sample(np.random.default_rng(seed))) for seed in range(40)]
    late = [bowl(run.hparams) for run in book.runs[20:]]
    assert np.mean(late) < 0.5 * np.mean(drawn)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_who_was_not_there_from_the_beginning_suggests_the_same(sampler):
    """Also where some of the configurations were given, which no sampler has suggested."""
    policy, book = Straight(OptunaProposer(SQUARE, sampler, seed=3)), Book(ONE)
    for number in range(24):
        (order,) = policy.choose(book, number)
        order = Begin({"x": 0.5, "y": 0.5}, 27.0) if number in (0, 5) else order
        run = book.take(order)
        if number % 3:  # some are under way for a while
            for it in [it for it in range(run + 1) if book.runs[it].until]:
                book.saw(Value(it, 27.0, bowl(book.runs[it].hparams) if it != 7 else math.nan, 27.0))
    again = Straight(OptunaProposer(SQUARE, sampler, seed=3))
    assert again.choose(book, 99) == policy.choose(book, 99)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_knows_whatever_a_space_may_have(sampler):
    """Choices, whole numbers, conditions, mixtures."""

    def loss(hparams):
        return abs(math.log10(hparams["lr"]) + 2.0) + hparams["mixture"]["web"] + hparams.get("momentum", 0.5)

    assert len(ended(Straight(OptunaProposer(MIXED, sampler, seed=0)), 25, MIXED, loss).runs) == 25


def test_tpe_learns_from_runs_that_rest_on_a_rung():
    book = search(Halving(OptunaProposer(SQUARE, "tpe", seed=0)), decisions=60)
    drawn = search(Halving(lambda known, seed, given: SQUARE.sample(np.random.default_rng(seed))), decisions=60)
    assert np.mean([bowl(it.hparams) for it in book.runs[15:]]) < np.mean([bowl(it.hparams) for it in drawn.runs[15:]])
    assert lowest(book) is not None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_are_exact(sampler):
    """Theirs are sums of floats."""
    space = Space({"s": Float(0.0, 1.0, step=0.1), "x": Float(0.0, 1.0)})
    book = ended(Straight(OptunaProposer(space, sampler, seed=0)), 20, space, lambda it: it["s"] + it["x"])
    assert len(book.runs) == 20


def test_values_that_are_given_are_had():
    hparams = OptunaProposer(MIXED, "tpe", seed=0)(Book(ONE), 0, {"optimizer": "sgd", "layers": 2})
    MIXED.check(hparams)
    assert (hparams["optimizer"], hparams["layers"]) == ("sgd", 2)
