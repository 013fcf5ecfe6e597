"""Where members do not wait for each other, an accident changes who comes first, and so what is decided; but what is on
record is true: every segment's parent exists, none is doubled, the budget is kept, and every checkpoint can be read.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tests.chaos.faults import Kill, Killed, Life
from tests.chaos.subject import CALM, MORE, Subject
from tests.chaos.test_hosts import WIDE, _any_world, _come_to_an_end

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # the dead close nothing
]

KILLS = (
    *itertools.starmap(Kill, itertools.product(["write wal"], [1, 4, 10, 19, 28, 37], ["before", "torn", "after"])),
    *itertools.starmap(Kill, itertools.product(["write wal"], [8, 24, 40], ["power"])),
    *itertools.starmap(Kill, itertools.product(["replace tensors", "replace json"], [5], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["delete json", "delete tensors"], [3], ["before", "after"])),
    *itertools.starmap(Kill, itertools.product(["replace part", "replace manifest"], [2], ["before", "after"])),
)


@pytest.fixture
def subject(tmp_path):
    """A sweep whose members do not wait for each other."""
    return Subject(tmp_path / "run", synchronous=False)


def assert_true(subject, **extension):
    """The ledger is true, and every member has trained to its end, but the one that fails (unless it begins anew)."""
    assert subject.reader.finished
    assert [] == subject.problems(**extension)
    assert "differs" not in subject.incidents()
    ended = [row for row in subject.reader.rows()["outcomes"] if row["status"] == "ended"]
    last = {row["member"]: row["consumed_end"] for row in sorted(ended, key=lambda row: row["segment"])}
    budget = subject.task(extension).budget
    assert dict.fromkeys(range(budget.members), 10 * budget.generations) == last | {4: 10 * budget.generations}


def test_undisturbed_it_is_true(subject):
    """Members copy from others that are under way, across stacks."""
    subject.simulate(dataclasses.replace(CALM, hosts=3, slow_hosts={0: 1.7}))
    assert_true(subject)
    rows = subject.reader.rows()["segments"]
    begun = {(row["member"], row["segment"]): row["at"] for row in rows}
    donors = [(row["parent_member"], row["parent_segment"] + 1, row["at"]) for row in rows if row["start"] == "copied"]
    under_way = [donor for *donor, at in donors if begun.get(tuple(donor), at) < at]
    assert under_way


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_dies_on_simulated_hosts(subject, kill):
    """Before, in the midst of, and after writes."""
    world = dataclasses.replace(CALM, hosts=3, slow_hosts={0: 1.7})
    with Life(subject.run, kill), pytest.raises(Killed):
        subject.simulate(world)
    with Life(subject.run):
        subject.simulate(world)
    assert_true(subject)


@pytest.mark.parametrize("kill", KILLS[1::3], ids=str)
def test_dies_in_threads(subject, kill):
    """Whatever they were doing."""
    with Life(subject.run, kill), pytest.raises(Killed):
        subject.train()
    with Life(subject.run):
        subject.train()
    assert_true(subject)


@pytest.mark.parametrize("number", [1, 3, 6, 10])
def test_dies_again_while_it_is_taken_up(subject, number):
    """While lost states are trained again."""
    for kill in (Kill("write wal", 30, "after"), Kill("write wal", number, "torn")):
        with Life(subject.run, kill), pytest.raises(Killed):
            subject.simulate(WIDE)
    with Life(subject.run):
        subject.simulate(WIDE)
    assert_true(subject)


@pytest.mark.parametrize("number", [1, 2, 5, 11, 18])
def test_dies_while_it_is_extended(subject, number):
    """With more members and more generations."""
    subject.simulate(WIDE)
    with Life(subject.run, Kill("write wal", number, "after")), pytest.raises(Killed):
        subject.simulate(WIDE, **MORE)
    with Life(subject.run):
        subject.simulate(WIDE, **MORE)
    assert_true(subject, **MORE)


@pytest.mark.parametrize("when", [5.0, 14.0, 26.0, 38.0])
def test_hosts_and_brain_are_lost(subject, when):
    """One host, then two at once, then the brain."""
    losses = [(when, 0), (when + 20.0, 1), (when + 20.0, 2)]
    subject.simulate(dataclasses.replace(WIDE, losses=losses, brain_losses=[when + 35.0]))
    assert_true(subject)


@pytest.mark.parametrize("seed", range(20))
def test_in_any_world(subject, seed):
    """Slow hosts, stragglers, delays, losses of hosts and brains, disks that are full, stops: all in one."""
    _come_to_an_end(subject, seed)
    assert_true(subject)


@pytest.mark.full
@pytest.mark.parametrize("first", range(20, 80, 20))
def test_in_many_worlds(tmp_path, first):
    """As above, sixty times."""
    for seed in range(first, first + 20):
        subject = Subject(tmp_path / str(seed), synchronous=False)
        _come_to_an_end(subject, seed)
        assert_true(subject)


def test_the_same_world_gives_the_same_sweep(tmp_path):
    """Simulated hosts repeat themselves: what comes first is what came first."""
    subjects = [Subject(tmp_path / name, synchronous=False) for name in ("once", "again")]
    for subject in subjects:
        subject.simulate(dataclasses.replace(_any_world(7), stop_at=None))
    assert subjects[0].facts() == subjects[1].facts()
