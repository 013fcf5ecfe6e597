"""A sweep that dies at any moment ends as if nothing had happened: simulated hosts, where every moment has a name."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter

import pytest

from tests.chaos.faults import Kill, Killed, Life
from tests.chaos.subject import MORE, Subject

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the dead close nothing

#: Moments of an undisturbed life, one or more of every kind. It writes some 48 times before it closes its ledger.
KILLS = (
    *itertools.starmap(Kill, itertools.product(["write wal"], [1, 2, 7, 12, 20, 30, 42], ["before", "torn"])),
    *itertools.starmap(Kill, itertools.product(["write wal"], [1, 15, 33, 43, 45], ["after", "power"])),
    *itertools.starmap(Kill, itertools.product(["sync tensors", "sync json"], [2], ["before", "torn"])),
    *itertools.starmap(Kill, itertools.product(["replace tensors", "replace json"], [1, 8, 21], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["delete json", "delete tensors"], [1, 9, 16], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["sync wal", "delete wal"], [1], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["sync part"], [1, 10], ["before", "torn"])),
    *itertools.starmap(Kill, itertools.product(["replace part"], [1, 6, 10], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["replace manifest"], [1, 2, 3], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["replace manifest-copy"], [1, 2, 3], ["before"])),
)

#: A sweep of a few dozen moments.
SMALL = {"members": 4, "generations": 3, "stacks": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The sweep that lives."""
    subject = Subject(tmp_path_factory.mktemp("undisturbed") / "run")
    subject.simulate()
    return subject


@pytest.fixture(scope="module")
def expected(undisturbed):
    """What must come of any other."""
    return undisturbed.facts()


@pytest.fixture
def subject(tmp_path):
    """The sweep that dies."""
    return Subject(tmp_path / "run")


def die(subject, kill, **extension):
    """A life that ends with a death."""
    with Life(subject.run, kill), pytest.raises(Killed):
        subject.simulate(**extension)


def live(subject, **extension):
    """A life that ends with the sweep."""
    with Life(subject.run) as life:
        assert subject.simulate(**extension).finished
    return life


def assert_unharmed(subject, expected, **extension):
    """The sweep is what the undisturbed one is, and its ledger is true."""
    assert expected == subject.facts()
    assert [] == subject.problems(**extension)
    assert "differs" not in subject.incidents()


# ----------------------------------------------------------------------------------------------------- the sweep


def test_the_sweep_has_in_it_what_can_go_wrong_by_itself(undisturbed):
    """Copies across stacks and within one, a member that diverges, one that fails, checkpoints written and removed."""
    rows = undisturbed.reader.rows()
    stack = {(row["member"], row["segment"]): row["stack"] for row in rows["segments"]}
    copies = [
        stack[row["member"], row["segment"]] == stack[row["parent_member"], row["parent_segment"]]
        for row in rows["segments"]
        if row["start"] == "copied"
    ]
    assert {True, False} == set(copies)
    assert any(row["score"] is not None and math.isnan(row["score"]) for row in rows["outcomes"])
    assert [4] == [row["member"] for row in rows["outcomes"] if row["status"] == "failed"]
    assert {"saved", "removed"} == {row["status"] for row in rows["checkpoints"]}
    assert [] == undisturbed.problems()


def test_every_kind_of_moment_is_among_those_tried(tmp_path, undisturbed):
    """No operation on a run's files is left out, but the syncing of folders and of what is copied."""
    life = live(Subject(tmp_path / "run"))
    left_out = {"sync folder", "sync manifest", "sync manifest-copy"}
    assert set(life.log) - left_out == {kill.what for kill in KILLS}


# --------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_dies_once(subject, expected, kill):
    """Before, in the midst of, and after writes, syncs, seals, manifests, checkpoints and their removal."""
    die(subject, kill)
    live(subject)
    assert_unharmed(subject, expected)


@pytest.mark.parametrize(
    "kill",
    [
        *itertools.starmap(Kill, itertools.product(["write wal"], [1, 2, 3, 5, 8], ["before", "torn", "after"])),
        *itertools.starmap(Kill, itertools.product(["replace manifest"], [1], ["before", "after"])),
    ],
    ids=str,
)
def test_dies_again_while_it_is_taken_up(subject, expected, kill):
    """While the ledger is opened, decisions are taken again, and lost states are trained again."""
    die(subject, Kill("write wal", 33, "after"))
    die(subject, kill)
    live(subject)
    assert_unharmed(subject, expected)


@pytest.mark.parametrize("how", ["torn", "after"])
def test_dies_over_and_over(subject, expected, how):
    """Each life gets a little further than the last."""
    deaths = 0
    while not (subject.has_begun and subject.reader.finished):
        with contextlib.suppress(Killed), Life(subject.run, Kill("write wal", 22, how)):
            subject.simulate()
            continue
        deaths += 1
        assert deaths < 20
    assert deaths > 2
    assert_unharmed(subject, expected)


@pytest.mark.parametrize(
    "kill",
    [
        *itertools.starmap(Kill, itertools.product(["write wal"], [9, 22, 45], ["before", "after"])),
        *itertools.starmap(Kill, itertools.product(["replace part"], [1, 23], ["before", "after"])),
        *itertools.starmap(Kill, itertools.product(["replace manifest"], [2, 3, 5], ["before", "after"])),
        *itertools.starmap(Kill, itertools.product(["delete wal", "sync wal"], [1, 3], ["before", "after"])),
    ],
    ids=str,
)
def test_dies_while_parts_are_sealed_on_the_way(subject, expected, kill, monkeypatch):
    """A ledger of several parts, sealed while the sweep goes on."""
    monkeypatch.setattr("pbt.record.ledger.SEAL_ROWS", 60)
    die(subject, kill)
    live(subject)
    assert_unharmed(subject, expected)


@pytest.fixture(scope="module")
def more_expected(tmp_path_factory):
    """What must come of a sweep that is extended."""
    subject = Subject(tmp_path_factory.mktemp("extended") / "run")
    subject.simulate()
    subject.simulate(**MORE)
    assert [] == subject.problems(**MORE)
    return subject.facts()


@pytest.mark.parametrize(
    "kill",
    [
        *itertools.starmap(Kill, itertools.product(["write wal"], [1, 2, 3, 5, 9, 15, 25], ["before", "after"])),
        *itertools.starmap(Kill, itertools.product(["replace manifest"], [1, 2, 4], ["before", "after"])),
        *itertools.starmap(Kill, itertools.product(["replace part", "delete part"], [1, 15], ["before", "after"])),
        *itertools.starmap(Kill, itertools.product(["replace json", "delete json"], [2], ["before", "after"])),
    ],
    ids=str,
)
def test_dies_while_it_is_extended(subject, more_expected, kill):
    """With more members and more generations."""
    live(subject)
    die(subject, kill, **MORE)
    live(subject, **MORE)
    assert_unharmed(subject, more_expected, **MORE)


def test_finished_and_taken_up_again_it_stays_what_it_is(subject, expected):
    """There is nothing to do, and nothing is done to it."""
    live(subject)
    life = live(subject)
    assert_unharmed(subject, expected)
    assert "replace json" not in life.log


@pytest.mark.full
def test_dies_at_every_single_moment(tmp_path):
    """At every operation on a small run's files: before and after it, or in the midst of it and with the machine."""
    undisturbed = Subject(tmp_path / "first", **SMALL)
    log = live(undisturbed).log
    expected = undisturbed.facts()
    counts = Counter(log)
    for number, (what, count) in enumerate(itertools.product(counts, range(1, max(counts.values()) + 1))):
        ways = ("torn", "power") if number % 2 else ("before", "after")
        for how in ways if count <= counts[what] else ():
            subject = Subject(tmp_path / f"{number}-{how}", **SMALL)
            die(subject, Kill(what, count, how))
            live(subject)
            assert_unharmed(subject, expected)
