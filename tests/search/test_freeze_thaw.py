"""Freeze and thaw: what is begun, and who goes on."""

import copy
import math

import numpy as np
import pytest

from pbt.search.curve_model import CurveModel
from pbt.search.ensemble_search import EnsembleSearch
from pbt.search.entropy_search import EntropySearch
from pbt.search.freeze_thaw import FreezeThawPolicy
from pbt.search.policy import Begin, Book, GoOn, Ladder, Value
from pbt.search.promotion import Halving
from pbt.surrogates.curves import leveled
from searchspaces import Choice, Float, Int, Simplex, Space

SQUARE = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
MIXED = Space(
    {
        "optimizer": Choice(["sgd", "adam"]),
        "lr": Float(1e-5, 1.0, log=True),
        "momentum": Float(0.0, 0.99, when={"optimizer": "sgd"}),
        "layers": Int(1, 8),
        "mixture": Simplex(["web", "code", "books"]),
    }
)
LADDER = Ladder((1.0, 3.0, 9.0, 27.0))


def bowl(hparams):
    return (hparams["x"] - 0.7) ** 2 + (hparams["y"] - 0.2) ** 2


def curve(hparams, steps, loss=bowl):
    """Falls to a loss; those with a high `x` begin lower, and fall less."""
    return loss(hparams) + 0.5 / math.sqrt(steps) * (2.0 - 0.5 * hparams.get("x", 0.0))


def search(policy, loss=curve, decisions=60, slots=2, seed=0, cost=lambda hparams: 1.0, ladder=LADDER):
    """Play so many decisions: of the slots, the one that was taken first ends first."""
    book, going = Book(ladder), []
    for step in range(decisions):
        while len(going) < slots:
            (order,) = policy.choose(book, seed * 1000 + step)
            going.append(book.take(order))
        run = going.pop(0)
        until = book.runs[run].until
        hparams = book.runs[run].hparams
        book.saw(Value(run, until, loss(hparams, until), until * cost(hparams)))
    return book


@pytest.fixture(scope="module")
def searched():
    return search(FreezeThawPolicy(model=CurveModel(SQUARE)))


def drawn(book, seed, given):
    return SQUARE.sample(np.random.default_rng(seed))


def mean_loss(policy_for, seeds):
    """How much worse what a policy recommends is than the best there is, in the mean."""
    found = []
    for seed in range(seeds):
        policy = policy_for()
        book = search(policy, seed=seed)
        found.append(curve(book.runs[policy.recommend(book)].hparams, 27.0))
    return np.mean(found) - min(curve({"x": x, "y": 0.2}, 27.0) for x in np.linspace(0.0, 1.0, 1001))


@pytest.mark.parametrize("policy", [FreezeThawPolicy, EnsembleSearch, EntropySearch])
def test_what_is_begun_at_once_is_not_all_the_same(policy):
    """Where the best is believed to be is known well; four there would tell as much as one."""
    searched = policy(model=CurveModel(SQUARE), random=0.0)
    book, nearest = Book(LADDER), []
    for step in range(16):
        orders = searched.choose(book, 100 * step, 4)
        begun = [SQUARE.encode(it.hparams) for it in orders if isinstance(it, Begin) and len(book.runs) >= 8]
        for run in [book.take(order) for order in orders]:
            until = book.runs[run].until
            book.saw(Value(run, until, curve(book.runs[run].hparams, until), until))
        if len(begun) > 1:
            apart = np.linalg.norm(np.array(begun)[:, None] - np.array(begun)[None], axis=-1)
            nearest.append((apart + 9.0 * np.eye(len(begun))).min(axis=1).mean())
    assert np.median(nearest) > 0.04


def test_it_comes_nearer_to_the_best_than_halving_at_random():
    """In the mean of four draws, with no more training; though those that begin best do not end best."""
    by_model = mean_loss(lambda: FreezeThawPolicy(model=CurveModel(SQUARE)), 4)
    assert by_model < 0.004
    assert by_model < 0.5 * mean_loss(lambda: Halving(drawn), 4)


def test_no_rung_is_left_behind(searched):
    """A third of a rung goes on, as far as that is a whole number, and who is under way is counted."""
    for rung in LADDER.rungs[:-1]:
        been = [run for run in searched.runs if run.steps >= rung]
        gone = [run for run in been if run.steps > rung or run.until is not None]
        assert abs(len(gone) - len(been) // 3) <= 1


def test_it_decides_by_the_book_alone(searched):
    """One that has lived through it all, and one that was made just now."""
    lived = FreezeThawPolicy(model=CurveModel(SQUARE))
    search(lived)
    for seed in (2, 3, 5):
        assert lived.choose(searched, seed) == FreezeThawPolicy(model=CurveModel(SQUARE)).choose(
            copy.deepcopy(searched), seed
        )


def test_what_is_begun_at_once_differs(searched):
    before = copy.deepcopy(searched)
    orders = FreezeThawPolicy(model=CurveModel(SQUARE), random=0.0).choose(searched, 7, number=4)
    begun = [tuple(order.hparams.values()) for order in orders if isinstance(order, Begin)]
    assert len(set(begun)) == len(begun)
    going_on = [order.run for order in orders if isinstance(order, GoOn)]
    assert len(set(going_on)) == len(going_on)
    assert len(orders) == 4
    assert before == searched


def test_dear_configurations_are_begun_less_often():
    """Where `y` has nothing to do with the loss, but a hundredfold with the cost."""

    def loss(hparams, steps):
        return (hparams["x"] - 0.7) ** 2 + 0.1 / steps

    def mean_y(cost):
        book = search(FreezeThawPolicy(model=CurveModel(SQUARE), random=0.0), loss, decisions=40, cost=cost)
        return np.mean([run.hparams["y"] for run in book.runs[8:]])

    assert mean_y(lambda hparams: 100.0 ** hparams["y"]) < mean_y(lambda hparams: 100.0 ** -hparams["y"]) - 0.2


def test_those_that_diverge_are_kept_away_from():
    def loss(hparams, steps):
        return math.nan if hparams["x"] > 0.75 else curve(hparams, steps)

    book = search(FreezeThawPolicy(model=CurveModel(SQUARE), random=0.0), loss)
    diverged = [run.is_over for run in book.runs]
    assert sum(diverged[:8]) >= 1
    assert np.mean(diverged[12:]) < 0.25


@pytest.mark.parametrize("value", [math.nan, 1.0])
def test_values_that_say_nothing_are_borne(value):
    book = search(FreezeThawPolicy(model=CurveModel(MIXED)), lambda hparams, steps: value, decisions=30)
    for run in book.runs:
        MIXED.check(run.hparams)
    recommended = FreezeThawPolicy(model=CurveModel(MIXED)).recommend(book)
    assert (recommended is None) == math.isnan(value)


def test_configurations_of_every_kind_are_begun():
    def loss(hparams, steps):
        return abs(math.log10(hparams["lr"]) + 3.0) + (hparams["optimizer"] == "sgd") - hparams["mixture"]["code"]

    book = search(FreezeThawPolicy(model=CurveModel(MIXED)), loss, decisions=50)
    found = book.runs[FreezeThawPolicy(model=CurveModel(MIXED)).recommend(book)].hparams
    MIXED.check(found)
    assert found["optimizer"] == "adam"
    assert abs(math.log10(found["lr"]) + 3.0) < 1.0


def test_a_model_that_ranks_no_better_than_a_coin_is_not_asked():
    """Where values have nothing to do with hyperparameters; an ensemble decides instead."""
    rng = np.random.default_rng(0)
    noise = search(Halving(drawn), loss=lambda hparams, steps: float(rng.normal()), decisions=40)
    model = CurveModel(SQUARE)
    assert not model.is_trusted(noise)
    policy = FreezeThawPolicy(model=model, random=0.0)
    (order,) = policy.choose(noise, 3)
    rungs = EnsembleSearch(model=CurveModel(SQUARE), startup=0, random=0.0)
    assert [order] == rungs.choose(noise, 3)


def test_a_model_that_ranks_well_is_trusted(searched):
    assert CurveModel(SQUARE).is_trusted(searched)


def test_the_lowest_last_value_is_recommended(searched):
    last = {number: run.badness for number, run in enumerate(searched.runs)}
    assert FreezeThawPolicy(model=CurveModel(SQUARE)).recommend(searched) == min(last, key=last.get)


def test_who_diverged_between_two_rungs_would_have_been_the_worst_of_the_next():
    """Not one of the better ones, as those who come that far otherwise are."""
    book = Book(LADDER)
    for number in range(12):
        run = book.take(Begin({"x": number / 12, "y": 0.5}, 1.0))
        book.saw(Value(run, 1.0, float(number), 1.0))
    for run, steps, badness in ((0, 3.0, 0.0), (1, 3.0, 1.0), (2, 2.0, math.inf), (3, 2.0, math.inf)):
        book.take(GoOn(run, 3.0))
        book.saw(Value(run, steps, badness, steps))
    values = CurveModel(SQUARE).values(book)
    told = leveled(values)
    assert set(values.depth) == {math.log10(27.0), math.log10(9.0)}
    assert told[-1] == told[-2] == told[12:].max()


def test_a_rung_on_which_all_diverged_is_as_bad_as_the_worst_before():
    book = Book(LADDER)
    for number in range(8):
        run = book.take(Begin({"x": number / 8, "y": 0.5}, 1.0))
        book.saw(Value(run, 1.0, float(number), 1.0))
    book.take(GoOn(0, 3.0))
    book.saw(Value(0, 3.0, math.inf, 3.0))
    told = leveled(CurveModel(SQUARE).values(book))
    assert told[-1] == told[:-1].max()
