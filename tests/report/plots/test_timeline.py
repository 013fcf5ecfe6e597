"""When each stack trained, when it did not, and what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pbt.record.ledger import Ledger
from pbt.record.result import Result, load
from pbt.report.plots.elapsed import Elapsed, Work, busy, elapsed, work
from pbt.report.plots.timeline import idle_shares, timeline_figure
from tests import ledgers
from tests.report.drawn import all_drawn, drawn, legend, titles, words

START = ledgers.CREATED


class Scribe:
    """Writes what two stacks did, at given seconds."""

    def __init__(self, run: Path, members: int = 2) -> None:
        ledgers.run_json(run, members=members, generations=2, steps=10)
        self.run = run
        self._rows: list[tuple[float, str, dict[str, Any]]] = []

    def at(self, second: float, table: str, **row: Any) -> None:
        self._rows.append((second, table, row))

    def close(self) -> Result:
        """Write everything in order of time."""
        now = [START]
        ledger = Ledger(self.run, lambda: now[0])
        for second, table, row in sorted(self._rows, key=lambda entry: entry[0]):
            now[0] = START + second
            ledger.append(table, **row)
        ledger.close(finished=False)
        return load(self.run)

    def train(self, member: int, index: int, decided: float, ended: float, wall_s: float) -> None:
        key = {"member": member, "segment": index}
        own = {"parent_member": member, "parent_segment": index - 1} if index else {}
        where = {"generation": index, "stack": member, "hparams": "{}", "age_start": 10 * index}
        start = "own" if index else "fresh"
        self.at(decided, "segments", **key, **own, **where, start=start, consumed_start=10 * index)
        done = {"age_end": 10 * index + 10, "consumed_end": 10 * index + 10, "score": 1.0, "wall_s": wall_s}
        self.at(ended, "outcomes", **key, **done, status="ended")


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Two stacks, two generations, and a night between them.

    Stack 0 works from 0 to 10 and from 1010 to 1020, stack 1 from 5 to 10 and from 1015 to 1020; nobody does from 10 to
    1010.
    """
    scribe = Scribe(tmp_path_factory.mktemp("paused") / "run")
    scribe.at(0, "sessions", session=1, reason="start")
    scribe.train(0, 0, 0, 10, 10)
    scribe.train(1, 0, 0, 10, 5)
    scribe.at(1010, "sessions", session=2, reason="resume")
    scribe.train(0, 1, 1010, 1020, 10)
    scribe.at(1011, "incidents", kind="host_lost", stack=1, message="killed")
    scribe.at(1012, "incidents", kind="moved", stack=0, message="to another node")
    scribe.at(1013, "incidents", kind="storage", message="full")
    scribe.at(1014, "incidents", kind="recovered", message="all states were at hand")
    scribe.train(1, 1, 1010, 1020, 5)
    return scribe.close()


def test_a_pause_is_cut_out(paused: Result) -> None:
    """Twenty seconds in all, whatever the clock says."""
    clock = elapsed(paused)
    assert_allclose([[START + 10, START + 1010]], clock.pauses, atol=0.01)
    assert 20 == pytest.approx(clock.total, abs=0.01)
    assert_allclose([0, 10, 10, 12], clock(START + np.array([0.0, 10.0, 500.0, 1012.0])), atol=0.01)


def test_orders_are_bars_from_beginning_to_end(paused: Result) -> None:
    """A stack's second bar begins where its wait ended."""
    corners = [path.vertices for path in drawn(timeline_figure(paused), "orders").get_paths()]
    spans = sorted((round(c[0][1] + 0.37), round(c[0][0], 1), round(c[1][0], 1)) for c in corners)
    assert [(0, 0.0, 10.0), (0, 10.0, 20.0), (1, 5.0, 10.0), (1, 15.0, 20.0)] == spans


def test_idle_time_is_stated_for_all_and_for_each(paused: Result) -> None:
    """Stack 1 waits half of the time."""
    figure = timeline_figure(paused)
    assert_allclose([0.0, 0.5], idle_shares(paused, work(paused), elapsed(paused)), atol=0.01)
    assert ["When each stack trained: idle 25% of the time"] == titles(figure)
    assert ["0% idle", "50% idle"] == [text.get_text() for text in all_drawn(figure, "idle share")]


def test_incidents_lie_where_they_happened(paused: Result) -> None:
    """On their stack, those of the whole sweep above all; what is routine is left out."""
    figure = timeline_figure(paused)
    places = {name: drawn(figure, name).get_offsets().tolist() for name in ("host lost", "moved", "other incident")}
    assert_allclose([[11, 1]], places["host lost"], atol=0.01)
    assert_allclose([[12, 0]], places["moved"], atol=0.01)
    assert_allclose([[13, -0.85]], places["other incident"], atol=0.01)
    assert {"host lost (1)", "moved (1)", "other incident (1)"} <= set(legend(figure))


def test_a_pause_is_marked_with_its_length(paused: Result) -> None:
    """In the words of the table."""
    figure = timeline_figure(paused)
    assert_allclose(10, drawn(figure, "pause").get_xdata(), atol=0.01)
    assert "paused 16:40" in words(figure)


def test_many_stacks_are_shares_of_time(tmp_path: Path) -> None:
    """Each row the mean of its stacks: here all work the second half of the time."""
    scribe = Scribe(tmp_path / "run", members=80)
    for member in range(80):
        scribe.train(member, 0, 0, 20, 10)
    figure = timeline_figure(scribe.close())
    shares = np.asarray(drawn(figure, "shares").get_array()).reshape(40, -1)
    assert_allclose(0.0, shares[:, :199], atol=1e-6)
    assert_allclose(1.0, shares[:, 201:], atol=0.01)
    assert [] == all_drawn(figure, "orders")


def test_seconds_at_work_between_edges() -> None:
    """Parts of orders count as far as they lie within."""
    clock = Elapsed(0.0, 10.0, np.empty((0, 2)))
    rows, spans = np.array([0, 0, 1]), (np.array([1.0, 6.0, 0.0]), np.array([3.0, 7.0, 10.0]))
    found = Work(rows, rows, *spans, spans[1] - spans[0])
    assert_allclose([[1, 1, 1, 0], [2, 3, 3, 2]], busy(found, clock, rows, np.array([0.0, 2.0, 5.0, 8.0, 10.0])))
