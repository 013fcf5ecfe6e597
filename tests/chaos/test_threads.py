"""A sweep that dies at any moment ends as if nothing had happened: in this process, with a thread for each stack."""

from __future__ import annotations

import itertools

import pytest

from tests.chaos.faults import Kill, Killed, Life
from tests.chaos.subject import MORE, Subject

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # the dead close nothing
]

KILLS = (
    *itertools.starmap(Kill, itertools.product(["write wal"], [2, 9, 17, 30], ["before", "torn", "after", "power"])),
    *itertools.starmap(Kill, itertools.product(["replace tensors", "replace json"], [3, 14], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["delete json", "delete tensors"], [4], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["replace part"], [3], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["replace manifest"], [2, 3], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["sync wal", "delete wal"], [1], ["before", "after"])),
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the sweep comes to on simulated hosts: hosts make no difference."""
    subject = Subject(tmp_path_factory.mktemp("undisturbed") / "run")
    subject.simulate()
    return subject.facts()


@pytest.fixture
def subject(tmp_path):
    """The sweep that dies."""
    return Subject(tmp_path / "run")


def die(subject, kill, **extension):
    """A life that ends with a death."""
    with Life(subject.run, kill), pytest.raises(Killed):
        subject.train(**extension)


def live(subject, **extension):
    """A life that ends with the sweep."""
    with Life(subject.run):
        subject.train(**extension)


def assert_unharmed(subject, expected, **extension):
    """The sweep is what the undisturbed one is, and its ledger is true."""
    assert expected == subject.facts()
    assert [] == subject.problems(**extension)
    assert "differs" not in subject.incidents()


def test_undisturbed_it_is_what_it_is_on_simulated_hosts(subject, expected):
    """Digest, decisions, scores and metrics do not depend on the kind of host."""
    live(subject)
    assert_unharmed(subject, expected)


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_dies_once(subject, expected, kill):
    """Whatever the threads were doing."""
    die(subject, kill)
    live(subject)
    assert_unharmed(subject, expected)


@pytest.mark.parametrize("number", [1, 3, 6])
def test_dies_again_while_it_is_taken_up(subject, expected, number):
    """While lost states are trained again."""
    die(subject, Kill("write wal", 28, "after"))
    die(subject, Kill("write wal", number, "torn"))
    live(subject)
    assert_unharmed(subject, expected)


def test_begun_on_one_kind_of_host_it_ends_on_another(subject, expected):
    """What a simulated host trained, threads train again."""
    with Life(subject.run, Kill("write wal", 25, "after")), pytest.raises(Killed):
        subject.simulate()
    die(subject, Kill("write wal", 15, "after"))
    with Life(subject.run):
        subject.simulate()
    assert_unharmed(subject, expected)


@pytest.mark.parametrize("number", [3, 12])
def test_dies_while_it_is_extended(subject, tmp_path, number):
    """With more members and more generations."""
    other = Subject(tmp_path / "other")
    other.simulate()
    other.simulate(**MORE)
    live(subject)
    die(subject, Kill("write wal", number, "after"), **MORE)
    live(subject, **MORE)
    assert_unharmed(subject, other.facts(), **MORE)
