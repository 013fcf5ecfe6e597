"""What the score has cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pbt.record.result import Result
from pbt.report import canvas
from pbt.report.plots.cost import cost_figure, costs
from tests.report.drawn import drawn, titles, words
from tests.report.plots.test_timeline import Scribe


def test_a_stack_s_time_counts_once_for_all_its_members(small: Result) -> None:
    """Two stacks, four generations of 2.5 s each; member 3 failed in one of them."""
    found = costs(small)
    assert 2 * 4 * 2.5 == found.device_s[-1]
    assert (20 + 1) * 51200 + 40 * 512 == found.tokens[-1]


def test_the_best_so_far_never_gets_worse(small: Result) -> None:
    """It is what the costs have bought."""
    found = costs(small)
    assert 2.0 == found.best[0]
    assert 1.3 == found.best[-1]
    assert (np.diff(found.best) <= 0).all()
    figure = cost_figure(small)
    assert 1.3 == drawn(figure, "best", panel=1).get_ydata()[-1]
    assert 20.0 == drawn(figure, "best", panel=1).get_xdata()[-1]


def test_where_the_energy_is_not_known_it_says_so(small: Result) -> None:
    """Device time is drawn instead, and FLOPs if they are counted."""
    figure = cost_figure(small)
    assert "Device time used (the energy was not measured)" in titles(figure)
    assert "The energy was not measured,\nand the FLOPs of a step are not known." in words(figure)
    assert 20.0 == drawn(figure, "used").get_ydata()[-1]


@pytest.mark.parametrize("known", ["joules", "flops"])
def test_what_was_measured_is_drawn(tmp_path: Path, known: str) -> None:
    """Energy before FLOPs."""
    scribe = Scribe(tmp_path / "run")
    for member in range(2):
        key: dict[str, Any] = {"member": member, "segment": 0}
        scribe.at(0, "segments", **key, generation=0, stack=0, start="fresh", hparams="{}", age_start=0)
        done = {"age_end": 10, "consumed_end": 10, "score": 2.0 - member, "wall_s": 4.0, "tokens": 100, known: 30.0}
        scribe.at(5, "outcomes", **key, **done, status="ended")
    result = scribe.close()
    figure = cost_figure(result)
    names = {"joules": "Best so far, over energy", "flops": "Best so far, over FLOPs (the energy was not measured)"}
    assert names[known] in titles(figure)
    assert_allclose([30, 60], drawn(figure, "best", panel=3).get_xdata())
    assert 4.0 == costs(result).device_s[-1]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (2.5, "2.5"),
        (250, "250"),
        (1500, "1,500"),
        (15000, "15k"),
        (250_000, "250k"),
        (2e7, "20M"),
        (3e9, "3G"),
        (4.5e12, "4.5T"),
        (6e18, "6e+18"),
    ],
)
def test_large_numbers_are_short(value: float, said: str) -> None:
    """As people write them."""
    assert said == canvas.short(value)
