"""What is known before anything is tried."""

import dataclasses
import math

import numpy as np
import pytest

from pbt.search.beforehand import Earlier, Guess
from pbt.search.curve_model import CurveModel
from pbt.search.ensemble_search import EnsembleSearch
from pbt.search.entropy_search import EntropySearch
from pbt.search.freeze_thaw import FreezeThawPolicy
from pbt.search.policy import Begin, Book
from tests.search.test_freeze_thaw import LADDER, MIXED, SQUARE, bowl, curve, search


def recorded(number, seed=0, space=SQUARE, loss=curve):
    rng = np.random.default_rng(seed)
    found = [space.sample(rng) for _ in range(number)]
    return tuple(Earlier(it, tuple((steps, loss(it, steps)) for steps in (1.0, 9.2, 26.0))) for it in found)


def test_a_recorded_run_counts_on_the_rungs_that_it_was_looked_at_nearly():
    run = Earlier({}, ((1.0, 5.0), (4.5, 3.0), (9.2, 2.0), (26.0, 1.0)))
    assert [(1.0, 5.0), (9.0, 2.0), (27.0, 1.0)] == list(run.on(LADDER))


def test_it_does_not_count_on_rungs_of_models_of_another_size():
    run = Earlier({}, ((1.0, 5.0), (9.0, 2.0), (27.0, 1.0)), reach=(27.0, math.inf))
    assert [(27.0, 1.0)] == list(run.on(LADDER))


@pytest.mark.parametrize(
    "policy_for",
    [
        lambda model: FreezeThawPolicy(model=model, random=0.0),
        lambda model: EntropySearch(model=model, random=0.0),
        lambda model: EnsembleSearch(model=model, random=0.0),
    ],
    ids=["freeze_thaw", "entropy", "ensemble"],
)
def test_who_knows_of_others_begins_near_the_best(policy_for):
    policy = policy_for(CurveModel(SQUARE, recorded(30)))
    begun = [policy.choose(Book(LADDER), seed)[0] for seed in range(5)]
    assert all(isinstance(order, Begin) for order in begun)
    drawn = np.mean([bowl(SQUARE.sample(np.random.default_rng(seed))) for seed in range(40)])
    assert np.mean([bowl(order.hparams) for order in begun]) < 0.4 * drawn


def test_what_it_knows_does_not_depend_on_when_it_was_first_asked():
    earlier = recorded(6)
    book = search(FreezeThawPolicy(model=CurveModel(SQUARE, earlier)), decisions=5)
    lived = FreezeThawPolicy(model=CurveModel(SQUARE, earlier))
    for number in range(len(book.values)):
        before = Book(LADDER)
        for value in book.values[:number]:
            before.runs = [*before.runs, *book.runs[len(before.runs) : value.run + 1]]
        before.values = book.values[:number]
        lived.choose(before, number)
    assert lived.choose(book, 9) == FreezeThawPolicy(model=CurveModel(SQUARE, earlier)).choose(book, 9)


def test_the_ensemble_does_not_depend_on_when_it_was_first_asked():
    """Recorded runs at the target only: that rung is the first that has enough, until the lowest has."""
    earlier = tuple(dataclasses.replace(it, curve=it.curve[-1:]) for it in recorded(8))
    book = search(EnsembleSearch(model=CurveModel(SQUARE, earlier), random=0.0), decisions=20)
    lived = EnsembleSearch(model=CurveModel(SQUARE, earlier), random=0.0)
    for number in range(len(book.values)):
        before = Book(LADDER, runs=[dataclasses.replace(run) for run in book.runs], values=book.values[:number])
        lived.choose(before, number)
    fresh = EnsembleSearch(model=CurveModel(SQUARE, earlier), random=0.0)
    assert lived.choose(book, 9) == fresh.choose(book, 9)


def test_so_many_recorded_runs_that_they_cannot_all_be_borne():
    model = CurveModel(SQUARE, recorded(300))
    values = model.values(Book(LADDER))
    assert 150 <= len(values) <= 200
    assert len(np.unique(values.depth)) == 3
    assert values.badness.min() == min(bad for it in model.earlier for _, bad in it.on(LADDER))


def test_half_of_what_is_drawn_lies_around_a_guess():
    guess, rng = Guess({"lr": 1e-3, "optimizer": "adam"}), np.random.default_rng(0)
    first = guess.sample(MIXED, rng, {}, is_first=True)
    assert (first["lr"], first["optimizer"]) == (pytest.approx(1e-3), "adam")
    drawn = [guess.sample(MIXED, rng, {}, is_first=False) for _ in range(400)]
    for hparams in drawn:
        MIXED.check(hparams)
    near = np.mean([abs(math.log10(it["lr"]) + 3.0) < 0.75 for it in drawn])  # of five decades
    assert near == pytest.approx(0.5 * 0.68 + 0.5 * 0.3, abs=0.08)
    adam = np.mean([it["optimizer"] == "adam" for it in drawn])
    assert 0.65 < adam < 0.85


def test_what_a_stack_has_in_common_goes_before_a_guess():
    guess = Guess({"layers": 3})
    drawn = [guess.sample(MIXED, np.random.default_rng(it), {"layers": 7}, is_first=False) for it in range(9)]
    assert {7} == {it["layers"] for it in drawn}


def test_the_first_configuration_is_the_guess_whatever_is_known():
    model = CurveModel(SQUARE, recorded(30), Guess({"x": 0.125}))
    (order,) = FreezeThawPolicy(model=model, random=0.0).choose(Book(LADDER), 0)
    assert order.hparams["x"] == pytest.approx(0.125)
