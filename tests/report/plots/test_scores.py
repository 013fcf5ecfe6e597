"""Scores of the population at equal age."""

from __future__ import annotations

from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from pbt.record.ledger import Ledger
from pbt.record.result import Result, load
from pbt.report.plots.scores import moments, scores_figure
from tests import ledgers
from tests.report.drawn import all_drawn, drawn, legend, points, titles


def test_quantiles_are_of_the_scores_that_are_numbers(small: Result) -> None:
    """The first generation has 2.0, 2.1, 2.2, 2.3, 2.5 and one that diverged; in the second a member fails."""
    first, second, *_ = moments(small)
    assert (1, 100, 2.0, 5, 1, 0) == (
        first.generation,
        first.age,
        first.best,
        first.num_scores,
        first.num_diverged,
        first.num_failed,
    )
    assert_allclose((2.04, 2.1, 2.2, 2.3, 2.42), first.levels)
    assert (5, 0, 1) == (second.num_scores, second.num_diverged, second.num_failed)


def test_best_and_median_are_lines_over_age(small: Result) -> None:
    """Both panels hold the same sweep, the second its later half."""
    figure = scores_figure(small)
    assert ["Scores by generation", "The later half, closer"] == titles(figure)
    assert [(100, 2.0), (200, 1.6), (300, 1.5), (400, 1.3)] == points(figure, "best")
    assert_allclose([(100, 2.2), (200, 1.95), (300, 1.85), (400, 1.65)], points(figure, "median"))
    assert [(200, 1.6), (300, 1.5), (400, 1.3)] == points(figure, "best", panel=1)


def test_where_large_is_good_the_best_is_the_largest(small: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the marks of what was lost are below."""
    monkeypatch.setitem(small.run.info["objective"], "mode", "max")
    figure = scores_figure(small)
    assert [2.5, 2.05, 1.9, 1.8] == [y for _, y in points(figure, "best")]
    assert all(y < 0.5 for _, y in points(figure, "diverged"))


def test_what_was_lost_is_marked_and_counted(small: Result) -> None:
    """A ring where a score diverged, a cross where a member failed."""
    figure = scores_figure(small)
    assert [100] == [x for x, _ in points(figure, "diverged")]
    assert [200] == [x for x, _ in points(figure, "failed")]
    assert {"diverged (1 score)", "failed (1 member)"} <= set(legend(figure))


def test_one_that_ran_away_does_not_squeeze_the_others(many: Result) -> None:
    """One member scores some forty times what the others do."""
    figure = scores_figure(many)
    assert figure.axes[0].get_ylim()[1] < 4.0


def test_a_single_generation_is_a_block(tiny: Result) -> None:
    """Bands need a width to be seen."""
    figure = scores_figure(tiny)
    assert {60, 140} == {x for x, _ in points(figure, "best")}
    assert 1 == len(all_drawn(figure, "outer"))


def test_asynchronous_sweeps_are_compared_at_equal_age(tmp_path: Path) -> None:
    """A copy is as old as its donor, in whatever generation its member is."""
    run = ledgers.run_json(tmp_path / "run", members=2, generations=3, steps=10)
    ledger = Ledger(run)
    rows = [(0, 0, 0, 1.0), (0, 1, 10, 0.8), (1, 0, 0, 3.0), (1, 1, 20, 0.5)]  # the last a copy of weights 20 steps old
    for member, index, age, score in rows:
        key = {"member": member, "segment": index}
        start = {"start": "fresh" if not index else "own", "parent_member": member if index else None}
        parent = {"parent_segment": index - 1 if index else None}
        where = {"generation": index, "stack": 0, "hparams": "{}", "age_start": age, "consumed_start": 10 * index}
        ledger.append("segments", **key, **start, **parent, **where)
        ledger.append("outcomes", **key, status="ended", age_end=age + 10, consumed_end=10 * index + 10, score=score)
    ledger.close(finished=False)
    found = [(moment.age, moment.best, moment.num_scores) for moment in moments(load(run))]
    assert [(10, 1.0, 2), (20, 0.8, 1), (30, 0.5, 1)] == found


def test_without_scores_the_picture_says_so(tmp_path: Path) -> None:
    """A sweep that has only begun."""
    figure = scores_figure(load(ledgers.tell(tmp_path / "run", commits=1)))
    assert ["no scores yet"] == [text.get_text() for text in figure.axes[0].texts]
    assert 0 == len(drawn(figure, "diverged").get_offsets())
