"""The way to the target, by hand."""

import pytest

from pbt.search.fidelity import cost_of, course
from pbt.search.policy import Begin, Book, GoOn, Ladder, Value
from searchspaces import Choice, Float, Space

STEPS = Ladder((1.0, 3.0, 9.0, 27.0))


def test_without_anything_smaller_it_is_the_ladder():
    way = course(STEPS)
    assert way.ladder == STEPS
    assert [way.own_steps(it) for it in STEPS.rungs] == [1, 3, 9, 27]
    assert not way.ladder.begins_again(3.0, 9.0)
    assert way.ladder.to_train(3.0, 9.0) == 6.0
    assert way.hparams({"lr": 0.1}, 9.0) == {"lr": 0.1}


def test_steps_and_sizes_get_cheaper_from_the_target_down():
    """Three widths on four rungs; a step with half the width costs a quarter."""
    way = course(STEPS, "width", [16, 32, 64], exponent=2.0)
    assert way.steps == (1, 3, 9, 27)
    assert way.values == (16, 16, 32, 64)
    assert way.ladder.rungs == (1 / 16, 3 / 16, 9 / 4, 27.0)
    assert [way.rate(it) for it in way.ladder.rungs] == [1 / 16, 1 / 16, 1 / 4, 1.0]
    assert way.hparams({"lr": 0.1}, 9 / 4) == {"lr": 0.1, "width": 32}


def test_where_there_are_more_sizes_than_rungs_the_first_steps_come_again():
    way = course(Ladder((5.0,)), "width", [16, 32, 64])
    assert way.steps == (5, 5, 5)
    assert way.values == (16, 32, 64)
    assert way.ladder.rungs == (5 / 4, 5 / 2, 5.0)


def test_with_another_size_a_run_begins_again():
    ladder = course(STEPS, "width", [32, 64]).ladder
    assert ladder.rungs == (0.5, 1.5, 4.5, 27.0)
    assert [False, False, True] == [ladder.begins_again(*it) for it in ((0.0, 0.5), (0.5, 4.5), (4.5, 27.0))]
    assert [0.5, 4.0, 27.0] == [ladder.to_train(*it) for it in ((0.0, 0.5), (0.5, 4.5), (4.5, 27.0))]


def test_where_nobody_can_go_on_a_run_begins_again_at_each_rung():
    ladder = course(STEPS, resumable=False).ladder
    assert [1.0, 3.0, 27.0] == [ladder.to_train(*it) for it in ((0.0, 1.0), (1.0, 3.0), (9.0, 27.0))]


def test_a_target_that_is_further_is_whole_generations():
    """Of four steps each: 3.3 of them are no rung."""
    raised = course(Ladder((4.0, 8.0)), generation=4).raised(40)
    assert all(step % 4 == 0 for step in raised.steps)
    assert raised.steps[-1] == 40


def test_recorded_runs_are_compared_with_models_of_their_size():
    way = course(STEPS, "width", [32, 64])
    assert way.reach({"width": 32}) == (0.5, 4.5)
    assert way.reach({"width": 64}) == (27.0, float("inf"))
    assert course(STEPS).reach({}) == (0.0, float("inf"))


def test_what_was_trained_again_is_counted_again():
    book = Book(course(STEPS, resumable=False).ladder)
    run = book.take(Begin({}, 1.0))
    book.saw(Value(run, 1.0, 0.5, 1.0))
    book.take(GoOn(run, 9.0))
    book.saw(Value(run, 9.0, 0.4, 10.0))
    assert book.runs[run].trained == 10.0


def test_the_size_is_not_searched():
    space = Space({"lr": Float(0.0, 1.0), "width": Choice([16, 32])})
    assert list(course(STEPS, "width", [16, 32]).varied(space)) == ["lr"]


@pytest.mark.parametrize(
    ("exponents", "cost"),
    [({}, 1.0), ({"width": 2}, 256.0), ({"width": 1, "depth": 0.5}, 32.0), ({"momentum": 1}, 1.0)],
)
def test_costs_are_products_of_powers(exponents, cost):
    assert cost_of({"width": 16, "depth": 4}, exponents) == cost


@pytest.mark.parametrize(
    ("way", "rungs", "kinds"),
    [
        (course(STEPS), (1.0, 3.0, 9.0, 27.0, 81.0), ()),
        (course(STEPS, resumable=False), (1.0, 3.0, 9.0, 27.0, 81.0), (0, 1, 2, 3, 4)),
        (course(STEPS, "width", [32, 64]), (0.5, 1.5, 4.5, 27.0, 81.0), (0, 0, 0, 3, 3)),
    ],
)
def test_a_target_that_is_further_leaves_the_rungs_where_they_are(way, rungs, kinds):
    raised = way.raised(81)
    assert raised.ladder == Ladder(rungs, kinds)
    assert raised.own_steps(81.0) == 81
    assert raised.values[-1:] == way.values[-1:]
    assert [raised.rate(it) for it in rungs[:4]] == [way.rate(it) for it in rungs[:4]]
