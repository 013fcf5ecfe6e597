"""Every picture can be read, whatever the sweep's size and hyperparameters, and also while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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
    assert {*FIRST, *NAMES} - {"search", "expected"} == set(drawn)
    for name in NAMES:
        drawn[name]().draw_without_rendering()


def test_dollars_in_names_are_dollars(tmp_path: Path) -> None:
    """Not the beginning of a formula, which might be a wrong one."""
    name = "cost $x_$ and $"
    space = {name: {"type": "float", "low": 0.0, "high": 1.0}, "way": {"type": "choice", "options": [name, "b"]}}

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        return {name: float(rng.random()), "way": str(rng.choice([name, "b"]))}

    run = ledgers.evolve(tmp_path / "run", space=space, sample=draw, gain=lambda _: 0.1, members=12, generations=4)
    for picture in ("schedules", "density", "parallel", "importance"):
        figure = figures(load(run))[picture]()
        figure.draw_without_rendering()
        assert any(r"\$x_\$" in said for said in words(figure))
