"""The lineage: ancestry of weights, schedules and exploits, read from rows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.lineage import Lineage, ScheduleStep, Segment, better
from pbt.member import SegmentKey
from pbt.record.ledger import LedgerReader
from tests import ledgers

NAN, INF = math.nan, math.inf


def key(text):
    """`2:1` is the second segment of member 2."""
    return SegmentKey(*map(int, text.split(":")))


def segment(name, parent=None, lr=0.1, age=0, status="ended", start=None, score=0.5):
    """A segment of 10 steps."""
    where = key(name)
    start = start or ("fresh" if parent is None else "own" if key(parent).member == where.member else "copied")
    ended = status == "ended"
    return Segment(
        key=where,
        generation=where.index,
        start=start,
        parent=key(parent) if parent else None,
        hparams={"lr": lr},
        hparams_in_effect={"lr": lr} if ended else None,
        seed=0,
        age=(age, age + 10 if ended else None),
        consumed=(10 * where.index, 10 * where.index + 10 if ended else None),
        score=score if ended else None,
        status=status,
    )


#: Member 1 takes over member 0 after the first generation, member 2 begins again after it, member 3 fails in it.
POPULATION = [
    segment("0:0", lr=0.1),
    segment("0:1", "0:0", lr=0.1, age=10),
    segment("0:2", "0:1", lr=0.1, age=20),
    segment("1:0", lr=0.2),
    segment("1:1", "0:0", lr=0.3, age=10),
    segment("1:2", "1:1", lr=0.3, age=20, status="running"),
    segment("2:0", lr=0.4),
    segment("2:1", lr=0.5),
    segment("2:2", "1:1", lr=0.5, age=20),
    segment("3:0", lr=0.6),
    segment("3:1", "3:0", lr=0.6, age=10, status="failed"),
    segment("4:0", lr=0.7, status="running"),
]


@pytest.fixture(params=[False, True], ids=["in order", "reversed"])
def lineage(request):
    return Lineage(reversed(POPULATION) if request.param else POPULATION)


def names(segments):
    return [f"{one.key.member}:{one.key.index}" for one in segments]


def test_members_and_their_segments(lineage):
    """In order of their ids, whatever order the rows were in."""
    assert lineage.members == [0, 1, 2, 3, 4]
    assert names(lineage.of(1)) == ["1:0", "1:1", "1:2"]
    assert lineage.of(9) == []


@pytest.mark.parametrize(("member", "expected"), [(0, "0:2"), (1, "1:1"), (2, "2:2"), (3, "3:0"), (4, "4:0")])
def test_the_last_segment_that_ended(lineage, member, expected):
    """Neither one under way nor a failed one; the first where none has ended."""
    assert names([lineage.last(member)]) == [expected]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("0:0", ["0:0"]),
        ("0:2", ["0:0", "0:1", "0:2"]),
        ("1:2", ["0:0", "1:1", "1:2"]),
        ("2:1", ["2:1"]),
        ("2:2", ["0:0", "1:1", "2:2"]),
    ],
)
def test_the_ancestry_of_weights(lineage, end, expected):
    """Root first; a copy goes on in its donor's past, a fresh start has none."""
    assert names(lineage.path(key(end))) == expected


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (0, [(0, 30, 0.1, 0)]),
        (1, [(0, 10, 0.1, 0), (10, 20, 0.3, 1)]),
        (2, [(0, 10, 0.1, 0), (10, 20, 0.3, 1), (20, 30, 0.5, 2)]),
        (3, [(0, 10, 0.6, 3)]),
        (4, [(0, 0, 0.7, 4)]),
    ],
)
def test_schedules(lineage, member, expected):
    """What the present weights were trained with, from age 0 on, equal stretches of one member joined."""
    assert lineage.schedule(member) == [ScheduleStep(a, b, {"lr": lr}, who) for a, b, lr, who in expected]


def test_equal_values_of_two_members_are_two_steps():
    """A schedule says who trained, also where nothing else changed."""
    lineage = Lineage([segment("0:0"), segment("1:0"), segment("1:1", "0:0", age=10)])
    assert [step.member for step in lineage.schedule(1)] == [0, 1]


def test_exploits_by_generation_and_member(lineage):
    """Segments that began with a copy, and no others."""
    assert names(lineage.exploits()) == ["1:1", "2:2"]
    crowd = [segment("0:0"), segment("1:1", "0:0"), segment("0:2", "1:1"), segment("2:1", "0:0")]
    assert names(Lineage(crowd).exploits()) == ["1:1", "2:1", "0:2"]


def test_no_segments():
    """An empty ledger has an empty lineage."""
    assert (Lineage([]).members, Lineage([]).exploits()) == ([], [])


@pytest.mark.parametrize(
    ("mode", "score", "other", "expected"),
    [
        ("max", 2.0, 1.0, True),
        ("max", 1.0, 2.0, False),
        ("min", 1.0, 2.0, True),
        ("min", 2.0, 1.0, False),
        ("max", 1.0, 1.0, False),
        ("min", 1.0, 1.0, False),
        ("max", -INF, NAN, True),
        ("min", INF, NAN, True),
        ("max", NAN, -INF, False),
        ("min", NAN, INF, False),
        ("max", NAN, NAN, False),
        ("max", INF, 1.0, True),
        ("min", -INF, 1.0, True),
    ],
)
def test_better(mode, score, other, expected):
    """Strictly, in the mode's direction; NaN beats nothing, and everything else beats NaN."""
    assert better(mode, score, other) is expected


@given(st.sampled_from(["min", "max"]), st.floats(), st.floats())
def test_better_is_an_order(mode, score, other):
    """Never both, and neither only where the two are equal or both NaN."""
    forwards, backwards = better(mode, score, other), better(mode, other, score)
    assert not (forwards and backwards)
    assert (forwards or backwards) is not (score == other or (math.isnan(score) and math.isnan(other)))


# --- from a ledger


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The lineage of the scripted sweep."""
    return Lineage.from_rows(LedgerReader(ledgers.tell(tmp_path_factory.mktemp("story"))).rows())


def test_the_scripted_sweep(told):
    """All that the rows say of a copied segment."""
    copied = told.segments[key("1:3")]
    assert copied == Segment(
        key=key("1:3"),
        generation=3,
        start="copied",
        parent=key("5:2"),
        hparams=ledgers.hparams(5, 1),
        hparams_in_effect=ledgers.hparams(5, 1),
        seed=1001,
        age=(300, 400),
        consumed=(300, 400),
        score=1.3,
        status="ended",
        reason="",
    )
    assert names(told.path(copied.key)) == ["0:0", "5:1", "5:2", "1:3"]


def test_the_scripted_failure(told):
    """A failed segment says why, and is not the member's last."""
    failed = told.segments[key("3:1")]
    assert (failed.status, failed.reason, failed.age) == ("failed", ledgers.FAILURE, (100, 140))
    assert told.last(3).key == key("3:0")


def test_a_sweep_under_way_has_running_segments(tmp_path):
    """Without outcomes there is no end, no score and nothing in effect."""
    lineage = Lineage.from_rows(LedgerReader(ledgers.tell(tmp_path, commits=1)).rows())
    assert len(lineage.segments) == ledgers.MEMBERS
    for one in lineage.segments.values():
        assert (one.status, one.score, one.hparams_in_effect) == ("running", None, None)
        assert (one.age, one.consumed) == ((0, None), (0, None))


@pytest.mark.parametrize("commits", range(1, 10))
def test_the_lineage_is_whole_at_any_time(tmp_path, commits):
    """Every parent exists and ended, no ancestry has a circle, and ages go on where the parent's stopped."""
    lineage = Lineage.from_rows(LedgerReader(ledgers.tell(tmp_path, commits)).rows())
    for one in lineage.segments.values():
        path = lineage.path(one.key)
        assert path[0].parent is None
        assert len({ancestor.key for ancestor in path}) == len(path)
        assert [ancestor.age[1] for ancestor in path[:-1]] == [ancestor.age[0] for ancestor in path[1:]]
        assert {ancestor.status for ancestor in path[:-1]} <= {"ended"}
