"""Which hyperparameters matter: right where the answer is known, and silent where there is none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pbt.record.result import Result, load
from pbt.report.importance import Factor, Importance, encode, standings
from pbt.report.plots.importance import importance_figure, importance_of, verdict
from pbt.report.plots.subject import rounds
from tests import ledgers
from tests.report.drawn import drawn, titles, words
from tests.report.plots.conftest import SPACE, lr_gain, sample


def test_where_only_the_learning_rate_matters_it_alone_is_named(tmp_path: Path) -> None:
    """Of eight hyperparameters, in a population whose members copy each other."""
    run = ledgers.evolve(tmp_path / "run", space=SPACE, sample=sample, gain=lr_gain, members=24, generations=8)
    found = importance_of(load(run))
    assert ["lr"] == [factor.name for factor in found.factors if factor.matters]
    assert "lr" == found.factors[0].name
    assert set(SPACE) == {factor.name for factor in found.factors}
    assert "What matters for the score: lr" == verdict(found)


@pytest.mark.parametrize("copies", [True, False], ids=["copies", "fixed"])
def test_where_nothing_matters_nothing_is_named(tmp_path: Path, copies: bool) -> None:
    """Though members differ, and weights that were taken over go on doing well."""
    settings = {"members": 24, "generations": 8, "copies": copies, "seed": 1}
    run = ledgers.evolve(tmp_path / "run", space=SPACE, sample=sample, gain=lambda _: 0.1, **settings)  # type: ignore[arg-type]
    found = importance_of(load(run))
    assert [] == [factor.name for factor in found.factors if factor.matters]
    assert "What matters for the score: nothing that can be told from chance" == verdict(found)


def test_too_few_segments_are_refused(small: Result) -> None:
    """Six members are too few, and the picture says what it takes."""
    found = importance_of(small)
    assert () == found.factors
    assert "too few segments to tell: at least 48 segments of 8 members are needed" == found.reason
    figure = importance_figure(small)
    assert ["What matters for the score: not known"] == titles(figure)
    assert found.reason == drawn(figure, "reason").get_text()


def test_the_picture_states_n_the_intervals_and_the_caution(rich: Result) -> None:
    """A point and an interval for each, the most important at the top."""
    figure, found = importance_figure(rich), importance_of(rich)
    assert [factor.name for factor in found.factors] == [t.get_text() for t in figure.axes[0].get_yticklabels()]
    counted = len(drawn(figure, "matter").get_offsets()) + len(drawn(figure, "may not matter").get_offsets())
    assert len(SPACE) == counted
    said = " ".join(words(figure))
    assert "n = 128 segments of 16 members" in said
    assert "not drawn independently" in said
    assert all(factor.low <= factor.mean <= factor.high for factor in found.factors)
    middles = sorted(x for name in ("matter", "may not matter") for x, _ in drawn(figure, name).get_offsets())
    assert sorted(factor.mean for factor in found.factors) == pytest.approx(middles), "the same each time it is asked"


def test_standings_are_among_those_of_equal_age(small: Result) -> None:
    """Fresh weights stand in the middle, a copy where its donor stood, what diverged last."""
    frame = small.frame
    before, after = standings(frame, rounds(small), "min")
    first = frame.generation == 0
    assert_array_equal([0.5] * 6, before[first])
    assert_array_equal([0.0, 0.2, 0.4, 0.6, 1.0, 0.8], after[first])  # members 0 to 5; member 4 diverged
    second = (frame.generation == 1) & frame.is_ended
    assert before[second & (frame.member == 5)] == before[second & (frame.member == 0)]


def test_hyperparameters_become_columns() -> None:
    """A choice has one for each option, a simplex for each part; NaN is not active."""
    rows = [{"a": 1, "b": "x", "c": {"u": 0.25, "v": 0.75}}, {"b": "y", "c": {"u": 1.0, "v": 0.0}}]
    assert_array_equal([[1.0], [math.nan]], encode(rows, {"type": "int"}, "a"))
    assert_array_equal([[1, 0], [0, 1]], encode(rows, {"type": "choice", "options": ["x", "y"]}, "b"))
    assert_array_equal([[0.25, 0.75], [1, 0]], encode(rows, {"type": "simplex", "parts": ["u", "v"]}, "c"))


def test_several_that_matter_are_told_together() -> None:
    """In one sentence."""
    factors = tuple(Factor(name, 0.3, low, 0.4) for name, low in (("lr", 0.2), ("wd", 0.1), ("mix", -0.1)))
    found = Importance(factors=factors, num_segments=99, num_members=9, explained=0.5)
    assert "What matters for the score: lr and wd" == verdict(found)


def test_a_hyperparameter_that_never_varied_does_not_matter(tmp_path: Path) -> None:
    """It has no interval to speak of."""
    space = {"lr": SPACE["lr"], "depth": {"type": "int", "low": 1, "high": 3}}

    def draw(rng: np.random.Generator) -> dict[str, float]:
        return {"lr": float(10 ** rng.uniform(-4, -1)), "depth": 2}

    run = ledgers.evolve(tmp_path / "run", space=space, sample=draw, gain=lr_gain, members=16, generations=6)
    (depth,) = (factor for factor in importance_of(load(run)).factors if factor.name == "depth")
    assert Factor("depth", 0.0, 0.0, 0.0) == depth
    assert not depth.matters
