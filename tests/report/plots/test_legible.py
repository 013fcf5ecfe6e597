"""Every picture can be read, whatever the sweep's size and hyperparameters, and also while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbt.record.result import load
from pbt.report.plots import FIRST, figures
from tests import ledgers
from tests.report.drawn import illegible, words

NAMES = ["scores", "density", "parallel", "importance", "timeline", "cost", "exploits"]


@pytest.mark.parametrize("sweep", ["tiny", "rich", "many"])
@pytest.mark.parametrize("name", NAMES)
def test_no_words_lie_over_others(name: str, sweep: str, request: pytest.FixtureRequest) -> None:
    """Nor beyond the edge."""
    figure = figures(request.getfixturevalue(sweep))[name]()
    assert [] == illegible(figure)
    assert len(words(figure)) > 2


@pytest.mark.parametrize("commits", [1, 5], ids=["begun", "under way"])
def test_a_sweep_under_way_has_all_pictures(tmp_path: Path, commits: int) -> None:
    """Also one of which no segment has come to its end."""
    drawn = figures(load(ledgers.tell(tmp_path / "run", commits=commits)))
    assert {*FIRST, *NAMES} == set(drawn)
    for name in NAMES:
        drawn[name]().draw_without_rendering()
