"""Hosts and brains that are lost, sweeps that are stopped, checkpoints that are damaged: the end is the same."""

from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter

import pytest

from pbt.errors import HostError
from pbt.record.story import is_routine
from pbt.runtime.simulated import World
from tests.chaos.faults import Kill, Killed, Life
from tests.chaos.subject import CALM, Subject

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # the dead close nothing
]

#: One host a stack, and time passes between question and answer. A generation takes 12 s.
WIDE = dataclasses.replace(CALM, hosts=3, latency_s=0.25, detection_s=2.0, repair_s=6.0)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What must come of every sweep that waits for all its members."""
    subject = Subject(tmp_path_factory.mktemp("undisturbed") / "run")
    subject.simulate()
    return subject.facts()


@pytest.fixture
def subject(tmp_path):
    """The sweep that meets with accidents."""
    return Subject(tmp_path / "run")


def assert_unharmed(subject, expected):
    """The sweep is what the undisturbed one is, and its ledger is true."""
    assert expected == subject.facts()
    assert [] == subject.problems()
    assert "differs" not in subject.incidents()


# ---------------------------------------------------------------------------------------------- hosts and brains


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([(5.0, 1)], id="while it trains for the first time"),
        pytest.param([(20.0, 1)], id="while it trains"),
        pytest.param([(11.6, 0)], id="before it begins what it was ordered"),
        pytest.param([(20.0, 0), (20.0, 2)], id="two at once"),
        pytest.param([(20.0, 0), (20.0, 1), (20.0, 2)], id="all at once"),
        pytest.param([(20.0, 0), (24.0, 1)], id="another, before the first is back"),
        pytest.param([(20.0, 0), (27.0, 1)], id="another, while the first is brought back"),
        pytest.param([(30.0, 1), (37.0, 1), (44.0, 1), (51.0, 1)], id="the same, whenever it is back"),
        pytest.param([(48.2, 1)], id="while the winner is evaluated"),
        pytest.param([(49.3, 0)], id="while its members are saved"),
    ],
)
def test_hosts_are_lost(subject, expected, losses):
    """What they held is trained again, what they were doing is done again."""
    report = subject.simulate(dataclasses.replace(WIDE, losses=losses))
    assert len(losses) == report.host_losses
    assert_unharmed(subject, expected)


def test_a_host_lost_for_good_is_replaced_by_the_others(subject, expected):
    """They take its stacks once they are idle."""
    world = dataclasses.replace(WIDE, losses=[(20.0, 0), (45.0, 2)], repair_s=None)
    assert subject.simulate(world).finished
    assert_unharmed(subject, expected)


def test_without_hosts_it_stands_still_and_can_be_taken_up(subject, expected):
    """The error says so; nothing is lost."""
    world = dataclasses.replace(WIDE, losses=[(20.0, 0), (21.0, 1), (22.0, 2)], repair_s=None)
    with pytest.raises(HostError, match="0 of 3 hosts are left"):
        subject.simulate(world)
    assert subject.simulate().finished
    assert_unharmed(subject, expected)


@pytest.mark.parametrize(
    "when",
    [
        pytest.param([0.0], id="before anything"),
        pytest.param([6.0], id="in the first generation"),
        pytest.param([21.0], id="in the second"),
        pytest.param([21.0, 34.0], id="while it brings back what was lost with the first"),
        pytest.param([48.2], id="while the winner is evaluated"),
        pytest.param([51.0], id="while its members are saved"),
        pytest.param([10.0, 30.0, 50.0, 70.0, 90.0], id="again and again"),
    ],
)
def test_the_brain_is_lost(subject, expected, when):
    """Another is built from the ledger; of the hosts nothing is left."""
    report = subject.simulate(dataclasses.replace(WIDE, brain_losses=when))
    assert len(when) == report.brain_losses
    assert_unharmed(subject, expected)


def test_checkpoints_that_cannot_be_written_stop_nobody(subject, expected):
    """That is an incident; what is not saved is trained again if it must be."""
    world = dataclasses.replace(WIDE, save_failure_rate=0.5, losses=[(44.0, 1)], brain_losses=[60.0])
    subject.simulate(world)
    assert {"checkpoint_failed", "host_lost", "recovered"} <= set(subject.incidents())
    assert_unharmed(subject, expected)


# --------------------------------------------------------------------------------------------------------- stops


@pytest.mark.parametrize("when", [0.0, 4.0, 11.6, 14.0, 26.5, 33.0, 47.0, 48.2, 52.0])
def test_it_is_stopped_and_taken_up(subject, expected, when):
    """What is under way comes to its end and is saved, and nothing has to be trained again."""
    report = subject.simulate(dataclasses.replace(WIDE, stop_at=when))
    assert not report.finished or when > 48.0
    assert report.makespan_s < when + 50.0
    assert [] == subject.problems()
    if not report.finished:
        assert subject.simulate(WIDE).finished
    assert not [row for row in subject.reader.rows()["incidents"] if not is_routine(row)]
    assert_unharmed(subject, expected)


def test_it_is_stopped_when_a_host_is_lost(subject, expected):
    """Members that were lost are brought back to be saved."""
    subject.simulate(dataclasses.replace(WIDE, stop_at=21.0, losses=[(20.0, 0)]))
    assert subject.simulate(WIDE).finished
    assert_unharmed(subject, expected)


# ------------------------------------------------------------------------------------------------------- anything


def _any_world(seed: int) -> World:
    rng = random.Random(seed)
    hosts = rng.choice([1, 2, 3, 5])
    return World(
        hosts=hosts,
        evaluation_s=rng.choice([0.0, 2.0]),
        fetch_s=rng.choice([0.0, 0.5, 3.0]),
        latency_s=rng.choice([0.0, 0.1, 2.0]),
        build_s=rng.choice([0.0, 5.0]),
        save_s=rng.choice([0.0, 1.0, 20.0]),
        slow_hosts={0: rng.choice([1.0, 3.0])},
        straggler_rate=rng.choice([0.0, 0.3]),
        straggler_factor=4.0,
        save_failure_rate=rng.choice([0.0, 0.2]),
        losses=[(rng.uniform(0, 100), rng.randrange(hosts)) for _ in range(rng.choice([0, 1, 2, 5]))],
        losses_per_day=rng.choice([0.0, 500.0]),
        detection_s=rng.choice([0.0, 1.0, 15.0]),
        repair_s=rng.choice([0.0, 5.0, 60.0]),
        brain_losses=sorted(rng.uniform(0, 150) for _ in range(rng.choice([0, 1, 2]))),
        restart_s=rng.choice([0.0, 10.0]),
        stop_at=rng.choice([None, rng.uniform(0, 100)]),
        seed=seed,
    )


def _come_to_an_end(subject: Subject, seed: int) -> None:
    """In world after world, each with its own accidents; between them, checkpoints disappear."""
    rng = random.Random(seed)
    worlds = 0
    while not subject.simulate(_any_world(1000 * seed + worlds)).finished:
        worlds += 1
        assert worlds < 30
        for digest in sorted(subject.store.digests()):
            if rng.random() < 0.1:
                subject.store.remove(digest)


@pytest.mark.parametrize("seed", range(20))
def test_in_any_world(subject, expected, seed):
    """Slow hosts, stragglers, delays, losses of hosts and brains, disks that are full, stops: all in one."""
    _come_to_an_end(subject, seed)
    assert_unharmed(subject, expected)


@pytest.mark.full
@pytest.mark.parametrize("first", range(20, 80, 20))
def test_in_many_worlds(tmp_path, expected, first):
    """As above, sixty times."""
    for seed in range(first, first + 20):
        subject = Subject(tmp_path / str(seed))
        _come_to_an_end(subject, seed)
        assert_unharmed(subject, expected)


# ------------------------------------------------------------------------------------------------------- damage


def _die_late(subject: Subject) -> None:
    with Life(subject.run, Kill("write wal", 52, "after")), pytest.raises(Killed):
        subject.simulate()


def _saved(subject: Subject) -> dict[int, list[str]]:
    """Digests of each member's checkpoints that are there, oldest first."""
    found: dict[int, list[str]] = {}
    for row in subject.reader.rows()["checkpoints"]:
        if row["digest"] in subject.store.digests():
            found.setdefault(row["member"], []).append(row["digest"])
    return found


def _flip_a_bit(subject: Subject, digest: str) -> None:
    path = subject.run / "checkpoints" / f"{digest}.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [_flip_a_bit, lambda subject, digest: subject.store.remove(digest)])
def test_a_damaged_checkpoint_is_named_and_an_older_one_used(subject, expected, harm):
    """Each member's newest is damaged, or gone."""
    _die_late(subject)
    newest = {member: digests[-1] for member, digests in _saved(subject).items()}
    for digest in set(newest.values()):
        harm(subject, digest)
    subject.simulate()
    named = [row["message"] for row in subject.reader.rows()["incidents"] if row["kind"] == "checkpoint_damaged"]
    assert named
    assert all(any(digest in message for digest in newest.values()) for message in named)
    assert_unharmed(subject, expected)


def test_without_any_checkpoint_it_is_trained_from_the_start(subject, expected):
    """All are gone."""
    _die_late(subject)
    for digest in subject.store.digests():
        subject.store.remove(digest)
    subject.simulate()
    (message,) = [row["message"] for row in subject.reader.rows()["incidents"] if row["kind"] == "recovered"]
    assert re.fullmatch(r"\d+ segments? trained again", message)
    assert_unharmed(subject, expected)


def test_a_checkpoint_damaged_while_nobody_needs_it_harms_nobody(subject, expected):
    """The sweep goes on from its newest."""
    _die_late(subject)
    older = [digest for digests in _saved(subject).values() for digest in digests[:-1]]
    assert older
    for digest in older:
        _flip_a_bit(subject, digest)
    subject.simulate()
    assert Counter(subject.incidents())["checkpoint_damaged"] == 0
    assert_unharmed(subject, expected)
