"""Members at their end as lines through their hyperparameters to their score."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pbt.record.result import Result
from pbt.report.plots.parallel import end_places, end_scores, parallel_figure
from pbt.report.plots.subject import Varied
from tests.report.drawn import all_drawn, drawn, legend


def test_every_member_is_a_line_and_the_best_is_on_top(small: Result) -> None:
    """Four of the others have a score, one failed; the better the later they are drawn."""
    figure = parallel_figure(small)
    scores = drawn(figure, "members").get_array().tolist()
    assert [1.8, 1.75, 1.65, 1.4] == scores
    assert 1 == len(drawn(figure, "lost").get_segments())
    winner = drawn(figure, "winner")
    assert winner.get_zorder() > drawn(figure, "members").get_zorder()
    assert ["best, member 1", "5 members, the better the darker", "1 failed or without a score"] == legend(figure)


def test_good_scores_end_at_the_top(small: Result) -> None:
    """Whichever way the objective goes."""
    figure = parallel_figure(small)
    ends = [line[-1][1] for line in drawn(figure, "members").get_segments()]
    assert sorted(ends) == ends
    assert 1.0 == drawn(figure, "winner").get_ydata()[-1]


def test_hyperparameters_at_the_end_lie_on_their_scale(small: Result) -> None:
    """The winner ended with lr 0.012, between 1e-4 and 1e-1."""
    places = end_places(small)[1]
    assert_allclose(np.log(0.012 / 1e-4) / np.log(1e3), places[0])
    assert 0.0 < places[1] < 0.5, "sgd is the first of two options"


def test_what_is_not_active_lies_below_the_axis(rich: Result) -> None:
    """And an axis says so."""
    figure = parallel_figure(rich)
    idle = np.isnan(end_places(rich)[:, 5])
    assert 0 < idle.sum() < len(idle)
    lines = [*drawn(figure, "members").get_segments(), drawn(figure, "winner").get_xydata()]
    assert idle.sum() == sum(line[5][1] < 0 for line in lines)


def test_failed_members_have_no_score(many: Result) -> None:
    """Though they were given one before."""
    scores = end_scores(many)
    assert np.isnan(scores[98])
    assert 99 <= (~np.isnan(scores)).sum() + 1


@pytest.mark.parametrize(
    ("domain", "value", "place"),
    [
        ({"type": "float", "low": 0.9, "high": 0.999, "log_complement": True}, 0.99, 0.5),
        ({"type": "float", "low": 1e-4, "high": 1.0, "log": True}, 1e-2, 0.5),
        ({"type": "int", "low": 0, "high": 4}, 1, 0.25),
        ({"type": "choice", "options": ["a", "b"]}, "b", 0.75),
        ({"type": "choice", "options": [0, False, 1, True]}, True, 0.875),
        ({"type": "float", "low": 3.0, "high": 3.0}, 3.0, 0.0),
    ],
)
def test_where_a_value_lies(domain: dict[str, object], value: object, place: float) -> None:
    """Between 0 and 1, on the domain's own scale."""
    panel = Varied("x", ("x",), domain)
    height = panel.height({"x": value})
    assert height is not None
    (found,) = panel.place(np.array([height]))
    assert place == pytest.approx(found)
    if "options" not in domain:
        assert value == pytest.approx(panel.value(np.array([place]))[0])


def test_ticks_of_long_scales_are_powers_of_ten(rich: Result) -> None:
    """And 0.9, 0.99, ... of decay rates."""
    figure = parallel_figure(rich)
    shown = {number: [tick.get_text() for tick in all_drawn(figure, f"tick {number}")] for number in (0, 1)}
    assert ["0.0001", "0.001", "0.01", "0.1"] == shown[0]
    assert {"0.9", "0.99", "0.999", "0.9999"} == set(shown[1])
