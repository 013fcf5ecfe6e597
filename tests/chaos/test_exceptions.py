"""Exceptions in training: whose fault they are is found out, and the others go on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from pbt.errors import HostError
from pbt.member import member_seed
from pbt.runtime.simulated import World
from tests.chaos.subject import CALM, SEED, TRAINABLE, Subject
from trainables import Place
from trainables.base import Metrics


@dataclass(frozen=True)
class Breaking:
    """The subject's trainable, of which a stack breaks off where `breaks` says so.

    Attributes:
        breaks: Called before a stack trains, with its place, the `(member, consumed)` that are to be trained, and how
            often a stack has broken off so far; returns the exception, or None.
    """

    breaks: Callable[[Place, Sequence[tuple[int, int]], int], Exception | None]
    broken: list[Sequence[tuple[int, int]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(TRAINABLE, name)

    def build(self, bucket: str, capacity: int, place: Place) -> Any:
        return _Stack(self, TRAINABLE.build(bucket, capacity, place), place)


class _Stack:
    def __init__(self, owner: Breaking, stack: Any, place: Place) -> None:
        self._owner, self._stack, self._place = owner, stack, place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def run(self, until: Sequence[int]) -> Metrics:
        states = {slot: self._stack.state(slot) for slot, goal in enumerate(until) if goal > 0}
        seeds = {member_seed(SEED, member): member for member in range(6)}
        trained = [(seeds.get(state.seed, -1), state.consumed) for state in states.values()]  # -1 has begun anew
        error = self._owner.breaks(self._place, trained, len(self._owner.broken))
        if error is not None:
            self._owner.broken.append(trained)
            for slot in states:  # what is half done must not be seen by anybody
                self._stack.set_hparams([slot], lr=[3.0])
                self._stack.run([goal if other == slot else 0 for other, goal in enumerate(until)])
            raise error
        return self._stack.run(until)


def always(member: int, consumed: int) -> Callable[..., Exception | None]:
    """A member that breaks off whenever it is to be trained from there."""

    def breaks(place: Place, trained: Sequence[tuple[int, int]], times: int) -> Exception | None:
        return RuntimeError(f"member {member} is not to be trained") if (member, consumed) in trained else None

    return breaks


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What comes of the sweep if nothing breaks off."""
    subject = Subject(tmp_path_factory.mktemp("undisturbed") / "run")
    subject.simulate()
    return come_of(subject)


def come_of(subject):
    """What came of it, wherever its members sat and however they were trained together."""
    facts = subject.facts()
    del facts["digest"]  # it knows stacks and slots
    return facts | {"decisions": [row for row in facts["decisions"] if row[0] != "plan"]}


def begin(path, breaks, **options):
    """The sweep with such stacks."""
    path.mkdir(exist_ok=True)
    return Subject(path / "run", trainable=Breaking(breaks), **options)


def played(path, breaks, **options):
    """The sweep with such stacks, come to its end."""
    subject = begin(path, breaks, **options)
    assert subject.simulate().finished
    return subject


def failures(subject):
    """Members and segments that failed, with the reasons."""
    rows = subject.reader.rows(("outcomes",))["outcomes"]
    return {(row["member"], row["segment"]): row["reason"] for row in rows if row["status"] == "failed"}


@pytest.mark.parametrize("stacks", [1, 2, 3, 6])
@pytest.mark.parametrize("consumed", [0, 10])
def test_the_member_at_fault_fails_and_the_others_go_on(tmp_path, stacks, consumed):
    """With whomever it is trained: it is found in halves of halves, and its traceback is kept."""
    subject = played(tmp_path, always(2, consumed), stacks=stacks)
    segment = consumed // 10
    reason = "RuntimeError: member 2 is not to be trained"
    assert failures(subject)[2, segment].startswith(f"{reason} (test_exceptions.py, line ")
    assert [] == subject.problems()
    rows = subject.reader.rows(("incidents", "outcomes"))
    kept = [row for row in rows["incidents"] if row["kind"] == "exception" and row["member"] == 2]
    assert kept
    assert all("Traceback" in row["message"] and "in run" in row["message"] for row in kept)
    assert all(row["message"].startswith("member 2, trained alone, broke off: " + reason) for row in kept)
    others = {row["member"] for row in rows["outcomes"] if row["segment"] == segment and row["status"] == "ended"}
    assert {0, 1, 3, 5} <= others


def test_the_same_member_fails_wherever_the_others_sit(tmp_path):
    """What is decided after it does not depend on with whom it was trained."""
    found = [come_of(played(tmp_path / str(n), always(2, 10), stacks=n)) for n in (1, 2, 3, 6)]
    assert [found[0]] * 4 == found


def test_simulated_and_real_threads_agree(tmp_path):
    """The host of this process finds the same member, and comes to the same end."""
    simulated = played(tmp_path / "simulated", always(2, 10))
    real = begin(tmp_path / "real", always(2, 10))
    real.train()
    assert simulated.facts() == real.facts()


def test_an_exception_that_does_not_come_again_changes_nothing(tmp_path, expected):
    """The stack is brought back; its halves train as the whole would have."""

    def breaks(place, trained, times):
        return RuntimeError("once") if times == 0 and (2, 10) in trained else None

    subject = played(tmp_path, breaks, stacks=2)
    assert expected == come_of(subject)
    assert 1 == subject.incidents().count("exception")
    assert 1 == len(subject.trainable.broken)


def test_two_at_fault_in_one_stack_are_both_found(tmp_path):
    """The search goes on after the first."""

    def breaks(place, trained, times):
        return RuntimeError("no") if {(0, 10), (2, 10)} & set(trained) else None

    subject = played(tmp_path, breaks, stacks=1)
    assert {(0, 1), (2, 1)} <= failures(subject).keys()
    assert [] == subject.problems()


def test_where_nobody_can_be_trained_the_sweep_ends_with_the_cause(tmp_path):
    """It is not the members' fault; what was recorded before stays."""

    def breaks(place, trained, times):
        return RuntimeError("the third layer is missing") if any(consumed == 10 for _, consumed in trained) else None

    subject = begin(tmp_path, breaks)
    with pytest.raises(HostError, match=r"3 members in a row .* the third layer is missing"):
        subject.simulate()
    ended = [row for row in subject.reader.rows(("outcomes",))["outcomes"] if row["status"] == "ended"]
    assert {0} == {row["segment"] for row in ended}
    assert 6 == len(ended)


def test_without_room_fewer_members_are_trained_together(tmp_path, expected):
    """Half as many, until they fit; nothing fails, and it is on record, so that nobody tries again."""

    def breaks(place, trained, times):
        chunk = 6 if place.plan is None else place.plan.chunk
        return torch.OutOfMemoryError("CUDA out of memory") if chunk > 1 and len(trained) > 1 else None

    subject = played(tmp_path, breaks, stacks=1)
    assert expected == come_of(subject)
    plans = [json.loads(row["data"]) for row in subject.reader.rows(("decisions",))["decisions"] if row["data"]]
    assert [3, 1] == [plan["plan"]["chunk"] for plan in plans]
    assert 2 == subject.incidents().count("out_of_memory")
    again = begin(tmp_path, breaks, stacks=1)
    again.simulate()
    assert [] == again.trainable.broken


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_in_any_world(tmp_path, synchronous, seed):
    """With hosts and brains that are lost while it is being found out, and checkpoints that cannot be written."""
    world = World(
        hosts=3,
        evaluation_s=1.0,
        latency_s=0.25,
        save_s=3.0,
        save_failure_rate=0.2,
        losses_per_day=800.0,
        detection_s=2.0,
        repair_s=6.0,
        brain_losses=[30.0 + 3 * seed],
        seed=seed,
    )
    member = (1, 2, 3, 5)[seed % 4]  # of the others one diverges, and one fails of itself
    subject = begin(tmp_path, always(member, 10), stacks=2, synchronous=synchronous)
    assert subject.simulate(world).finished
    assert [] == subject.problems()
    assert any("is not to be trained" in why for (who, _), why in failures(subject).items() if who == member)
    if synchronous:
        calm = begin(tmp_path / "calm", always(member, 10), stacks=2)
        calm.simulate(CALM)
        assert calm.facts() == subject.facts()
