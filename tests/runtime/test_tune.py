"""The brain's actor, without Ray: it is a plain class, and which host gets which stack is settled when a host asks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pbt.runtime import tune
from pbt.runtime.tune import BrainActor, Turn


class Quiet:
    """A brain whose stacks each have one order, and which is finished once all are answered."""

    def __init__(self, num_stacks: int) -> None:
        self.num_stacks = num_stacks
        self.open = set(range(num_stacks))
        self.answered = 0

    @property
    def finished(self) -> bool:
        return self.answered == self.num_stacks

    def capacity(self, stack: int) -> int:
        return stack + 1

    def start(self) -> None:
        """Nothing to do."""

    def orders(self, stacks: Any) -> list[int]:
        ready = sorted(self.open & set(stacks))
        self.open -= set(ready)
        return ready

    def report(self, reports: Any) -> None:
        self.answered += len(reports)


def actor(tmp_path: Path, num_stacks: int, num_hosts: int) -> BrainActor:
    """The actor around such a brain."""
    return BrainActor(lambda keep: Quiet(num_stacks), str(tmp_path), num_hosts)  # type: ignore[arg-type,return-value]


@pytest.fixture(autouse=True)
def short_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that cannot be answered waits a moment only."""
    monkeypatch.setattr(tune, "_LONG_POLL_S", 0.05)


def ask(brain: BrainActor, *hosts: int) -> list[Turn]:
    """Questions of hosts, one after another, each bringing no reports."""

    async def all_of_them() -> list[Turn]:
        return [await brain.exchange(host, []) for host in hosts]

    return asyncio.run(all_of_them())


def test_every_host_gets_a_stack_of_its_own_first(tmp_path: Path) -> None:
    """In the order they ask; with the stack comes its first order."""
    first, second = ask(actor(tmp_path, num_stacks=3, num_hosts=2), 7, 4)
    assert first == Turn(build=((0, 1),), orders=(0,), finished=False)  # type: ignore[arg-type]
    assert second == Turn(build=((1, 2),), orders=(1,), finished=False)  # type: ignore[arg-type]


def test_an_idle_host_takes_what_nobody_has(tmp_path: Path) -> None:
    """With all hosts up, five stacks are shared by two hosts, so a barrier over all of them is passed."""
    turns = ask(actor(tmp_path, num_stacks=5, num_hosts=2), 0, 1, 0, 1, 0)
    assert [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)] == [stack for turn in turns for stack in turn.build]


def test_stacks_are_kept_a_while_for_hosts_that_are_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the grace period is over; then the host that is there takes them, and nothing waits for ever."""
    brain = actor(tmp_path, num_stacks=2, num_hosts=2)
    _, waiting = ask(brain, 0, 0)
    assert waiting == Turn(build=(), orders=(), finished=False)
    monkeypatch.setattr(tune, "_GRACE_S", 0.0)
    (served,) = ask(brain, 0)
    assert served.build == ((1, 2),)


def test_a_waiting_host_hears_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host's report ends the sweep, and wakes who waits."""
    monkeypatch.setattr(tune, "_LONG_POLL_S", 30.0)
    brain = actor(tmp_path, num_stacks=2, num_hosts=2)

    async def play() -> list[Turn]:
        await brain.exchange(0, [])
        await brain.exchange(1, [])
        waiting = asyncio.create_task(brain.exchange(0, ["report"]))  # type: ignore[list-item]
        await asyncio.sleep(0)
        last = await brain.exchange(1, ["report"])  # type: ignore[list-item]
        return [await waiting, last]

    assert [True, True] == [turn.finished for turn in asyncio.run(play())]


def test_who_fetches_waits_for_who_publishes(tmp_path: Path) -> None:
    """And the last reader drops the reference."""
    brain = actor(tmp_path, num_stacks=1, num_hosts=1)

    async def play() -> tuple[Any, bool]:
        fetched = asyncio.create_task(brain.fetch("3:1"))
        await asyncio.sleep(0)
        await brain.publish("3:1", ["a reference"], readers=1)  # type: ignore[list-item]
        return await fetched, "3:1" in brain._published

    assert asyncio.run(play()) == (["a reference"], False)
