"""The benchmark of searches: what is played, and how it is judged; by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.search.methods import METHODS, OURS
from benchmarks.search.scores import (
    FIRST,
    MOMENTS,
    cost_to_reach,
    mean_ranks,
    paired_interval,
    regret_over_cost,
    spending,
)
from benchmarks.search.tasks import Table
from benchmarks.search.world import Played, play
from pbt.search.policy import Begin, Book, GoOn, Ladder
from pbt.search.promotion import lowest
from searchspaces import Float, Space


def table(**changes):
    """Three configurations of which the second is the best, and one that diverges on its way."""
    fields = {
        "name": "made up",
        "space": Space({"x": Float(0.0, 3.0)}),
        "rows": [{"x": float(it)} for it in range(4)],
        "steps": np.array([1.0, 3.0, 9.0]),
        "values": np.array([[5.0, 4.0, 3.0], [6.0, 3.0, 1.0], [4.0, 4.0, 2.0], [5.0, np.inf, np.inf]]),
        "costs": np.tile([1.0, 3.0, 9.0], (4, 1)),
    }
    return Table(**{**fields, **changes})


class Scripted:
    def __init__(self, *orders):
        self.orders = list(orders)

    def choose(self, book, seed, number=1, alike=()):
        return [self.orders.pop(0)]

    def recommend(self, book):
        return lowest(book)


def test_a_run_that_goes_on_costs_what_is_new():
    orders = [Begin({"x": 0.1}, 1.0), Begin({"x": 1.2}, 1.0), GoOn(1, 9.0), Begin({"x": 1.0}, 9.0)]
    played = play(table(), lambda snap: Scripted(*orders), seed=0, workers=1, runs=19 / 9)
    assert played.rows == [0, 1, 2]  # the nearest that was not begun
    assert [(it.run, it.steps, it.cost) for it in played.book.values] == [
        (0, 1.0, 1.0),
        (1, 1.0, 1.0),
        (1, 9.0, 9.0),
        (2, 9.0, 9.0),
    ]
    assert [(it.spent, it.row) for it in played.moments] == [(1.0, 0), (2.0, 0), (10.0, 1), (19.0, 1)]


def test_where_nobody_can_go_on_it_costs_all_of_it_again():
    orders = [Begin({"x": 1.0}, 1.0), GoOn(0, 9.0), Begin({"x": 0.0}, 9.0)]
    played = play(table(resumable=False), lambda snap: Scripted(*orders), seed=0, workers=1, runs=10 / 9)
    assert [value.cost for value in played.book.values] == [1.0, 10.0]
    assert table(resumable=False).ladder().kinds == (0, 1, 2)


def test_workers_share_the_time_and_the_budget():
    orders = [Begin({"x": 0.0}, 9.0), Begin({"x": 1.0}, 1.0), Begin({"x": 2.0}, 1.0), *[Begin({"x": 3.0}, 9.0)] * 2]
    played = play(table(), lambda snap: Scripted(*orders), seed=0, workers=2, runs=1)
    assert [(it.spent, it.row) for it in played.moments] == [(2.0, 1), (4.0, 2)]


def test_regret_is_0_of_the_best_and_1_of_the_middle():
    assert [table().regret(row) for row in range(4)] == pytest.approx([4 / 3, 0.0, 2 / 3, 4 / 3])


def test_until_anything_is_recommended_regret_is_1():
    made = table()
    played = Played(Book(Ladder((1.0, 3.0, 9.0))))
    played.moments = [type("Moment", (), {"spent": 9.0, "row": 1})(), type("Moment", (), {"spent": 18.0, "row": 2})()]
    regrets = regret_over_cost(made, played, 4.0)
    where = spending(4.0)
    assert len(regrets) == MOMENTS
    assert where[0] == pytest.approx(FIRST)
    np.testing.assert_allclose(regrets, np.where(where < 1.0, 1.0, np.where(where < 2.0, 0.0, 2 / 3)))
    assert cost_to_reach(regrets, 0.5, 4.0) == where[where >= 1.0][0]
    assert cost_to_reach(regrets, -0.1, 4.0) == float("inf")


def test_ranks_are_among_methods_and_equals_share():
    ranks = mean_ranks({"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0, 2.0]]), "c": np.array([[2.0, 5.0]])})
    np.testing.assert_allclose([ranks["a"], ranks["b"], ranks["c"]], [[[1.0, 1.5]], [[3.0, 1.5]], [[2.0, 3.0]]])


def test_an_interval_holds_the_mean_and_narrows_with_more_tasks():
    rng = np.random.default_rng(0)
    few, many = rng.normal(1.0, 1.0, (4, 5)), rng.normal(1.0, 1.0, (64, 5))
    low, high = paired_interval(few)
    assert low < few.mean() < high
    assert np.subtract(*paired_interval(many)[::-1]) < 0.5 * (high - low)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "smac"])
def test_every_method_can_be_played(name):
    """To the end of a small budget, on a table of sixty rows."""
    rng = np.random.default_rng(0)
    x = rng.random((60, 2))
    ends = np.square(x - 0.6).sum(axis=1)
    values = ends[:, None] + np.array([0.5, 0.2, 0.0]) * rng.random((60, 1))
    made = table(
        space=Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)}),
        rows=[{"a": float(a), "b": float(b)} for a, b in x],
        values=values,
        costs=np.tile([1.0, 3.0, 9.0], (60, 1)),
    )
    played = play(made, lambda snap: METHODS[name](made.space, snap, made.ladder(), 0), seed=0, workers=2, runs=4)
    assert len(set(played.rows)) == len(played.rows)
    assert played.moments
    assert name not in OURS or made.regret(played.moments[-1].row) < 0.5
