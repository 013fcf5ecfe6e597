"""A run's segments as numpy columns say what its lineage says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pbt.member import SegmentKey
from pbt.record.frame import frame, points
from pbt.record.ledger import Ledger
from pbt.record.result import Result, load
from pbt.record.schema import to_arrow
from tests import ledgers


@pytest.fixture(scope="module", params=["whole", "under way", "many"])
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Sweeps with a failure, a divergence and copies."""
    run = tmp_path_factory.mktemp("frame") / "run"
    if request.param == "many":
        return load(ledgers.simulate(run, members=40, generations=6))
    return load(ledgers.tell(run, commits=None if request.param == "whole" else 5))


def test_every_segment_is_an_entry(result: Result) -> None:
    """In order of member and segment, with all the lineage says of it."""
    found, segments = result.frame, [segment for _, segment in sorted(result.lineage.segments.items())]
    keys = [SegmentKey(int(member), int(index)) for member, index in zip(found.member, found.segment, strict=True)]
    assert [segment.key for segment in segments] == keys
    assert [segment.generation for segment in segments] == found.generation.tolist()
    assert [segment.parent for segment in segments] == [keys[p] if p >= 0 else None for p in found.parent]
    assert [segment.start == "copied" for segment in segments] == found.is_copy.tolist()
    assert [segment.status == "ended" for segment in segments] == found.is_ended.tolist()
    assert [segment.status == "failed" for segment in segments] == found.is_failed.tolist()
    assert [segment.hparams for segment in segments] == [found.distinct[entry] for entry in found.hparams]
    nan = math.nan
    np.testing.assert_array_equal([s.age[1] if s.age[1] is not None else nan for s in segments], found.age[:, 1])
    np.testing.assert_array_equal([s.consumed[0] for s in segments], found.consumed[:, 0])
    np.testing.assert_array_equal([nan if s.score is None else s.score for s in segments], found.score)
    assert [segment.score is not None for segment in segments] == found.is_scored.tolist()
    assert [segment.start == "own" for segment in segments] == found.is_own.tolist()
    assert [segment.reason for segment in segments] == [reason or "" for reason in found.reason.to_pylist()]
    rates = [(s.hparams_in_effect or {}).get("lr", nan) for s in segments]
    np.testing.assert_array_equal(rates, found.each_in_effect(lambda hparams: hparams["lr"]))


def test_a_metric_s_values_stand_behind_their_segments(result: Result) -> None:
    """Each segment's are those that its rows say, in order of age; what belongs to no segment is left out."""
    found, metrics = result.frame, result.tables["metrics"]
    stray = {
        "member": 0,
        "segment": 99,
        "split": "train",
        "name": "loss",
        "age": 1,
        "consumed": 1,
        "value": 1.0,
        "at": 1.0,
    }
    told = points(pa.concat_tables([to_arrow("metrics", [stray]), metrics]), found, "train", "loss")
    keys = [(int(found.member[entry]), int(found.segment[entry])) for entry in told.entry]
    rows = sorted((r for r in result.rows["metrics"] if r["name"] == "loss"), key=lambda r: (r["member"], r["segment"]))
    assert [(row["member"], row["segment"]) for row in rows] == keys
    np.testing.assert_array_equal([row["value"] for row in rows], told.value)
    assert [(row["age"], row["consumed"]) for row in rows] == list(zip(told.age, told.consumed, strict=True))
    assert [sum(key == one for one in keys) for key in dict.fromkeys(keys)] == [
        count for count in np.diff(told.until(len(found)), prepend=0) if count
    ]


def test_segments_are_found_by_member_and_number(result: Result) -> None:
    """And what is not there is not."""
    found = result.frame
    assert list(range(len(found))) == found.find(found.member, found.segment).tolist()
    assert [-1, -1] == found.find(np.array([0, 999]), np.array([999, 0])).tolist()


def test_members_ends_and_the_leader(result: Result) -> None:
    """The same as asking the lineage, member by member."""
    found, lineage = result.frame, result.lineage
    keys = [SegmentKey(int(found.member[end]), int(found.segment[end])) for end in found.ends]
    assert [lineage.last(member).key for member in lineage.members] == keys
    assert [lineage.is_living(member) for member in lineage.members] == found.is_living.tolist()
    scores = {member: lineage.last(member).score for member in lineage.members if lineage.is_living(member)}
    best = min((score, member) for member, score in scores.items() if score is not None and not math.isnan(score))
    leader = found.leader("min")
    assert leader is not None
    assert best == (found.score[leader], found.member[leader])


def test_an_ancestry_is_that_of_the_lineage(result: Result) -> None:
    """Root first."""
    found = result.frame
    for end in found.ends:
        path = [(int(found.member[entry]), int(found.segment[entry])) for entry in found.path(int(end))]
        key = SegmentKey(int(found.member[end]), int(found.segment[end]))
        assert [(one.key.member, one.key.index) for one in result.lineage.path(key)] == path


def test_a_segment_trained_again_has_its_last_end(tmp_path: Path) -> None:
    """Rows written twice: the later one holds."""
    tables = dict(load(ledgers.tell(tmp_path / "run")).tables)
    row = {"member": 0, "segment": 3, "status": "ended", "score": 9.0, "age_end": 400, "consumed_end": 400, "at": 1.0}
    tables["outcomes"] = type(tables["outcomes"]).from_batches(
        [*tables["outcomes"].to_batches(), *to_arrow("outcomes", [row]).to_batches()]
    )
    found = frame(tables)
    assert [9.0] == found.score[(found.member == 0) & (found.segment == 3)].tolist()


def test_segments_of_one_order_are_one(tmp_path: Path) -> None:
    """As the orders say; where none are on record, by stack and generation."""
    run = ledgers.run_json(tmp_path / "run", members=3, generations=1, steps=10)
    ledger = Ledger(run)
    for member in range(3):
        row = {"member": member, "segment": 0, "generation": 0, "start": "fresh", "hparams": "{}", "stack": 0}
        ledger.append("segments", **row, age_start=0, consumed_start=0, until=10)
    ledger.append("orders", order="1:0", stack=0, kind="work", segments="[[0, 0], [2, 0]]")
    for member in (0, 1):
        ledger.append("outcomes", member=member, segment=0, status="ended", age_end=10, consumed_end=10, score=1.0)
    ledger.append("outcomes", member=2, segment=0, status="failed")
    ledger.close(finished=False)
    first, second, third = load(run).frame.order.tolist()
    assert first == third
    assert second not in (first, -1)


def test_nothing_is_no_entry(tmp_path: Path) -> None:
    """A run that has not begun has columns all the same."""
    run = ledgers.run_json(tmp_path / "bare", members=2, generations=2, steps=2)
    Ledger(run).close(finished=False)
    found = load(run).frame
    assert (0, [], None) == (len(found), found.ends.tolist(), found.leader("min"))
    assert [] == found.each(lambda hparams: 1.0).tolist()
