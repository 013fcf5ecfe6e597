"""Who goes on, against cases counted by hand; and what holds whatever values come."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbt.search.policy import Begin, Book, GoOn, Ladder, Value
from pbt.search.promotion import Halving, MedianStopping, Straight, lowest

LADDER = Ladder((1.0, 3.0, 9.0))


def propose(book, seed, given):
    return {"x": seed}


def book_of(*curves, going=(), ladder=LADDER):
    """A book of runs by their values on the rungs; those in `going` are being trained to the next."""
    book = Book(ladder)
    for number, curve in enumerate(curves):
        book.take(Begin({"x": number}, ladder.rungs[0]))
        for index, badness in enumerate(curve):
            if index:
                book.take(GoOn(number, ladder.rungs[index]))
            book.saw(Value(number, ladder.rungs[index], badness, ladder.rungs[index]))
    for number in going:
        book.take(GoOn(number, ladder.next(book.runs[number].steps)))
    return book


class TestLadder:
    @pytest.mark.parametrize(
        ("least", "target", "eta", "rungs"),
        [
            (1, 81, 3, (1, 3, 9, 27, 81)),
            (2, 51, 3, (2, 6, 17, 51)),
            (2, 51, 2, (2, 3, 6, 13, 26, 51)),
            (10, 10, 3, (10,)),
            (7, 10, 3, (10,)),
            (1, 2, 4, (2,)),
        ],
    )
    def test_rungs_lie_as_far_apart_as_can_be(self, least, target, eta, rungs):
        assert rungs == Ladder.between(least, target, eta).rungs

    def test_it_tells_where_one_is(self):
        assert [-1, 0, 0, 1, 2] == [LADDER.index(it) for it in (0, 1, 2, 3, 9)]
        assert [1, 3, 9] == [LADDER.next(it) for it in (0, 1, 3)]


class TestBook:
    def test_runs_rest_between_two_rungs(self):
        book = book_of([5.0], [4.0, 3.0], [4.0, 3.0, 2.0], [math.nan], [6.0], going=[4])
        assert [0, 1] == book.resting()
        assert 1 + 3 + 9 + 1 + 1 == book.spent

    def test_who_diverged_is_the_worst_on_every_rung_from_there_on(self):
        book = book_of([5.0, 4.0], [3.0, math.nan], [2.0])
        assert {0: 5.0, 1: 3.0, 2: 2.0} == book.at(1.0)
        assert {0: 4.0, 1: math.inf} == book.at(3.0)
        assert {1: math.inf} == book.at(9.0)


class TestHalving:
    @pytest.mark.parametrize(
        ("curves", "going", "wanted"),
        [
            ([], [], Begin({"x": 0}, 1.0)),
            ([[3.0], [1.0]], [], Begin({"x": 0}, 1.0)),  # a third of two is nobody
            ([[3.0], [1.0], [2.0]], [], GoOn(1, 3.0)),
            ([[3.0], [1.0], [2.0]], [1], Begin({"x": 0}, 1.0)),  # who went on is still counted
            ([[3.0], [1.0], [2.0], [4.0], [5.0], [6.0]], [1], GoOn(2, 3.0)),
            ([[3.0], [1.0], [2.0], [4.0], [5.0], [0.5]], [1], GoOn(5, 3.0)),  # who came late may be better
            ([[1.0, 7.0], [2.0, 6.0], [3.0, 5.0], *[[9.0]] * 9], [], GoOn(2, 9.0)),  # the highest rung first
            ([[1.0, 7.0], [2.0, math.nan], [3.0, math.nan], *[[9.0]] * 6], [], GoOn(0, 9.0)),
            ([[math.nan]] * 3, [], Begin({"x": 0}, 1.0)),  # who diverged does not go on, whoever else there is
        ],
    )
    def test_the_best_third_of_a_rung_goes_on(self, curves, going, wanted):
        assert [wanted] == Halving(propose).choose(book_of(*curves, going=going), seed=0)

    def test_brackets_get_equally_many_steps(self):
        book, policy, ordered = Book(LADDER), Halving(propose, brackets=3), [0.0, 0.0, 0.0]
        for step in range(300):
            (order,) = policy.choose(book, step)
            steps = book.runs[order.run].steps if isinstance(order, GoOn) else 0.0
            run = book.take(order)
            ordered[LADDER.index(book.runs[run].first)] += order.until - steps
            book.saw(Value(run, order.until, float(np.random.default_rng(step).random()), order.until))
        assert max(ordered) - min(ordered) <= 9.0

    @settings(deadline=None)
    @given(
        st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=60),
        st.integers(1, 5),
        st.integers(1, 3),
        st.sampled_from([2.0, 3.0]),
    )
    def test_whatever_comes(self, values, slots, brackets, eta):
        """Nobody is on two slots, nobody goes on who is not among the best of a rung, nobody is asked for in vain."""
        book, policy = Book(LADDER), Halving(propose, eta, brackets)
        for step, badness in enumerate(values):
            free = slots - sum(run.until is not None for run in book.runs)
            for order in policy.choose(book, step, free):
                if isinstance(order, GoOn):
                    run = book.runs[order.run]
                    assert run.until is None
                    assert not run.is_over
                    assert order.until == LADDER.next(run.steps)
                    peers = {it: bad for it, bad in book.at(run.steps).items() if book.runs[it].first == run.first}
                    ahead = sum(bad < peers[order.run] for bad in peers.values())
                    assert ahead < math.floor(len(peers) / eta)
                book.take(order)
            going = [number for number, run in enumerate(book.runs) if run.until is not None]
            assert slots == len(going)
            now = going[step % slots]
            until = book.runs[now].until
            assert until is not None
            book.saw(Value(now, until, badness, until))


class TestMedian:
    @pytest.mark.parametrize(
        ("curves", "wanted"),
        [
            ([[3.0]], GoOn(0, 3.0)),  # too few to compare it with
            ([[3.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], Begin({"x": 0}, 1.0)),
            ([[3.0], [1.0, 1.0, 1.0], [4.0]], GoOn(0, 3.0)),
        ],
    )
    def test_the_worse_half_rests(self, curves, wanted):
        assert [wanted] == MedianStopping(propose, least=3).choose(book_of(*curves), seed=0)


def test_straight_trains_everybody_to_the_target():
    assert [Begin({"x": it}, 9.0) for it in range(3)] == Straight(propose).choose(Book(LADDER), seed=0, number=3)


def test_the_lowest_last_value_is_recommended():
    assert lowest(Book(LADDER)) is None
    assert lowest(book_of([1.0, 4.0], [3.0], [2.0, math.nan])) == 1
