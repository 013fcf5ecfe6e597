"""The brain's actor, without Ray: a plain class; which host gets which stack is settled on asking."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pbt.errors import HostError
from pbt.runtime import brain_actor
from pbt.runtime.brain_actor import BrainActor, Turn
from pbt.runtime.checkpoints import Checkpoint
from pbt.runtime.orders import Publish, StackReport, Trouble, WorkOrder
from pbt.runtime.planning import ToBuild
from tests.runtime.miniature import make_state


class Quiet:
    """A brain whose stacks each have one order, and which is done once all are answered."""

    def __init__(self, num_stacks: int) -> None:
        self.num_stacks = num_stacks
        self.open = set(range(num_stacks))
        self.answered: list[Any] = []
        self.calls: list[Any] = []
        self.saved_tokens: list[str] = []
        self.not_built: list[tuple[int, Trouble]] = []
        self.losses: list[tuple[list[int], str, list[str]]] = []
        self.withdrawn: set[str] = set()
        self.releasing: set[int] = set()
        self.ready_to_go: set[int] = set()
        self.moves: list[tuple[int, str]] = []
        self.num_trained = 0

    @property
    def done(self) -> bool:
        return len(self.answered) == self.num_stacks

    def to_build(self, stack: int) -> ToBuild:
        return ToBuild(stack, stack + 1)

    def planned(self, stack: int, plan: str) -> None:
        self.calls.append((stack, plan))

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")

    def lost(self, stacks: Any, reason: str, gone: Any = ()) -> None:
        self.losses.append((sorted(stacks), reason, sorted(gone)))
        self.open |= set(stacks)

    def unbuilt(self, stack: int, trouble: Trouble) -> None:
        self.not_built.append((stack, trouble))

    def release(self, stack: int) -> None:
        self.releasing.add(stack)

    def is_released(self, stack: int) -> bool:
        return stack in self.releasing & self.ready_to_go

    def moved(self, stack: int, reason: str) -> None:
        self.moves.append((stack, reason))
        self.releasing.discard(stack)
        self.open.add(stack)

    def is_to_wait(self, stack: int, order: str, token: str) -> bool:
        return order not in self.withdrawn

    def forgo(self, orders: Any) -> None:
        self.open |= {stack for stack, _ in orders}

    def orders(self, stacks: Any) -> list[WorkOrder]:
        ready = sorted(self.open & set(stacks))
        self.open -= set(ready)
        return [order(stack) for stack in ready]

    def may_order(self, stacks: Any) -> bool:
        return bool(self.open & set(stacks))

    def report(self, reports: Any) -> None:
        self.answered += reports

    def saved(self, token: str, checkpoint: Checkpoint) -> None:
        self.saved_tokens.append(token)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the actor asks Ray; and a question that cannot be answered waits a moment only."""
    known = SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: known)
    monkeypatch.setattr(brain_actor, "_LONG_POLL_S", 0.05)
    return known


@pytest.fixture
def make_actor(tmp_path: Path) -> Iterator[Any]:
    """The actor around such a brain."""
    actors = []

    def make(num_stacks: int = 1, num_hosts: int = 1, is_to_stop: Any = lambda: False) -> BrainActor:
        built = BrainActor(lambda *_: Quiet(num_stacks), str(tmp_path), num_hosts, 60.0, is_to_stop)  # type: ignore[arg-type]
        actors.append(built)
        return built

    yield make
    for built in actors:
        built._states.close()


class Caller:
    """A host that asks an actor.

    Attributes:
        number: Of the host.
        actor: Whom it asks.
    """

    def __init__(self, actor: BrainActor, number: int = 0) -> None:
        self.actor, self.number, self.life = actor, number, ""

    async def join(self, process: Any = None) -> Caller:
        self.life = await self.actor.join(self.number, process)
        return self

    async def ask(self, *reports: Any, is_leaving: bool = False, is_busy: bool = False) -> Turn:
        return await self.actor.exchange(self.number, self.life, reports, is_leaving, is_busy)

    async def publish(self, token: str, reference: Any) -> None:
        await self.actor.publish(self.number, self.life, token, reference)

    async def fetch(self, token: str, order: str = "o", **options: Any) -> Any:
        return await self.actor.fetch(self.number, self.life, 0, order, token, **options)


def order(stack: int) -> WorkOrder:
    """Work that publishes something."""
    return WorkOrder(id=f"o{stack}", stack=stack, split="validation", publish=(Publish(0, f"{stack}:0"),))


def report(stack: int, trouble: Trouble | None = None) -> StackReport:
    """A report."""
    return StackReport(order=f"o{stack}", stack=stack, wall_s=1.0, trouble=trouble)


def ask(actor: BrainActor, *hosts: int) -> list[Turn]:
    """Questions of hosts, one after another, each bringing no reports."""

    async def all_of_them() -> list[Turn]:
        callers = {host: await Caller(actor, host).join() for host in dict.fromkeys(hosts)}
        return [await callers[host].ask() for host in hosts]

    return asyncio.run(all_of_them())


def turn(build: tuple[Any, ...], orders: tuple[int, ...], done: bool = False) -> Turn:
    """An answer, with orders for these stacks."""
    return Turn(tuple(ToBuild(*item) for item in build), tuple(map(order, orders)), done)


# --- who gets which stack


def test_every_host_gets_a_stack_of_its_own_first(make_actor: Any) -> None:
    """In the order they ask; with the stack comes its first order."""
    actor = make_actor(num_stacks=3, num_hosts=2)
    first, second = ask(actor, 7, 4)
    assert turn(build=((0, 1),), orders=(0,)) == first
    assert turn(build=((1, 2),), orders=(1,)) == second


def test_an_idle_host_takes_what_nobody_has(make_actor: Any) -> None:
    """With all hosts up, five stacks are shared by two hosts, so a barrier over all of them is passed."""
    turns = ask(make_actor(num_stacks=5, num_hosts=2), 0, 1, 0, 1, 0)
    assert [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)] == [
        (item.stack, item.capacity) for turn in turns for item in turn.build
    ]


def test_stacks_are_kept_a_while_for_hosts_that_are_late(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the grace period is over; then the host that is there takes them, and nothing waits for ever."""
    actor = make_actor(num_stacks=2, num_hosts=2)

    async def play() -> tuple[Turn, Turn]:
        host = await Caller(actor).join()
        await host.ask()
        waiting = await host.ask()
        monkeypatch.setattr(brain_actor, "_GRACE_S", 0.0)
        return waiting, await host.ask()

    waiting, served = asyncio.run(play())
    assert turn(build=(), orders=()) == waiting
    assert (ToBuild(1, 2),) == served.build


def test_a_free_stack_is_kept_for_a_host_that_has_none(make_actor: Any) -> None:
    """Who has one does not take a second while another that is up has not asked yet."""
    actor = make_actor(num_stacks=2, num_hosts=2)

    async def play() -> list[Turn]:
        quick, slow = await Caller(actor, 0).join(), await Caller(actor, 1).join()
        return [await quick.ask(), await quick.ask(), await slow.ask()]

    first, waiting, second = asyncio.run(play())
    assert [(ToBuild(0, 1),), (), (ToBuild(1, 2),)] == [turn.build for turn in (first, waiting, second)]


def test_a_waiting_host_hears_of_the_end(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host's report ends the sweep, and wakes who waits."""
    monkeypatch.setattr(brain_actor, "_LONG_POLL_S", 30.0)
    actor = make_actor(num_stacks=2, num_hosts=2)

    async def play() -> list[Turn]:
        first, second = await Caller(actor, 0).join(), await Caller(actor, 1).join()
        await first.ask()
        await second.ask()
        waiting = asyncio.create_task(first.ask(report(0)))
        await asyncio.sleep(0)
        last = await second.ask(report(1))
        return [await waiting, last]

    assert [True, True] == [turn.done for turn in asyncio.run(play())]


def test_a_waiting_host_hears_of_what_others_were_given(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What their orders publish, its own may have waited for."""
    monkeypatch.setattr(brain_actor, "_LONG_POLL_S", 30.0)
    actor = make_actor(num_stacks=2, num_hosts=2)
    give = actor._brain.orders

    def give_the_second_first(stacks: Any) -> list[WorkOrder]:
        return give([stack for stack in stacks if stack == 1 or 1 not in actor._brain.open])

    actor._brain.orders = give_the_second_first

    async def play() -> tuple[Turn, Turn]:
        hosts = [await Caller(actor, 0).join(), await Caller(actor, 1).join()]
        actor._free.clear()
        for number, host in enumerate(hosts):
            actor._guests[host.number].stacks = {number}
        waiting = asyncio.create_task(hosts[0].ask())
        await asyncio.sleep(0)
        second = await hosts[1].ask()
        return await asyncio.wait_for(waiting, 10.0), second

    first, second = asyncio.run(play())
    assert ((order(0),), (order(1),)) == (first.orders, second.orders)


def test_a_waiting_host_hears_of_what_has_been_saved(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving goes on in a thread, which wakes who waits; the brain is told on its own loop."""
    monkeypatch.setattr(brain_actor, "_LONG_POLL_S", 30.0)
    actor = make_actor(num_stacks=1)
    actor._states._unwrap = lambda reference: reference[0]
    actor._brain.saved = lambda token, checkpoint: actor._brain.answered.append(token)

    async def play() -> Turn:
        host = await Caller(actor).join()
        await host.ask()
        waiting = asyncio.create_task(host.ask())
        await asyncio.sleep(0)
        actor._states.save("0:0", {})
        await host.publish("0:0", [make_state(1.0)])
        return await waiting

    assert asyncio.run(play()).done
    assert ["0:0"] == actor._brain.answered


# --- stacks that are moved


async def with_all_stacks(actor: BrainActor, number: int = 0) -> Caller:
    """A host that has taken every stack, as it was alone."""
    host = await Caller(actor, number).join()
    while actor._guests[number].stacks != set(range(actor._brain.num_stacks)):
        await host.ask()
    return host


def test_a_host_that_has_more_to_do_is_answered_at_once(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what there is for the stacks it has; it takes no others, and is still at work."""
    monkeypatch.setattr(brain_actor, "_LONG_POLL_S", 60.0)
    actor = make_actor(num_stacks=3)

    async def play() -> tuple[Turn, Turn, float | None]:
        host = await Caller(actor).join()
        await host.ask()
        await host.ask()  # has stacks 0 and 1
        nothing = await asyncio.wait_for(host.ask(report(0), is_busy=True), timeout=5.0)
        actor._brain.open.add(0)
        more = await host.ask(is_busy=True)
        return nothing, more, actor._guests[0].since

    nothing, more, since = asyncio.run(play())
    assert Turn() == nothing
    assert turn((), (0,)) == more
    assert since is not None


def test_a_host_that_comes_later_is_given_a_stack_of_the_one_that_has_most(make_actor: Any) -> None:
    """As soon as that has saved it; nobody else gets it meanwhile, nor he that gave it back."""
    actor = make_actor(num_stacks=3, num_hosts=1)
    brain = actor._brain

    async def play() -> list[Turn]:
        rich = await with_all_stacks(actor)
        poor, other = await Caller(actor, 1).join(), await Caller(actor, 2).join()
        nothing_yet = await poor.ask()
        assert brain.releasing == {2}
        brain.ready_to_go = {0, 1, 2}
        return [nothing_yet, await rich.ask(), await rich.ask(), await other.ask(), await poor.ask()]

    nothing_yet, given_back, nothing, other, taken = played(play)
    assert turn(build=(), orders=()) == nothing_yet == nothing
    assert (2,) == given_back.drop
    assert () == other.build
    assert turn(build=((2, 3),), orders=(2,)) == taken
    assert [(2, "stack 2 was moved from host 0 to host 1, which had less to do")] == brain.moves


def test_stacks_are_not_moved_where_that_would_make_no_difference(make_actor: Any) -> None:
    """Two and one are as good as one and two; a stack on its way to a host is counted as its own."""
    actor = make_actor(num_stacks=2, num_hosts=1)

    async def play() -> None:
        await with_all_stacks(actor)
        poor = await Caller(actor, 1).join()
        for _ in range(3):
            await poor.ask()

    played(play)
    assert actor._brain.releasing == {1}


def test_a_promise_ends_with_the_host_it_was_made_to(make_actor: Any) -> None:
    """Whoever asks then gets the stack."""
    actor = make_actor(num_stacks=2, num_hosts=1)
    actor._brain.ready_to_go = {1}

    async def play() -> Turn:
        rich = await with_all_stacks(actor)
        poor = await Caller(actor, 1).join()
        await poor.ask()
        await rich.ask()
        await actor.leave(1, poor.life, [], "it leaves")
        return await rich.ask()

    assert (ToBuild(1, 2),) == played(play).build


def test_a_host_that_is_leaving_gives_all_its_stacks_back(make_actor: Any) -> None:
    """As each is saved; it gets no others, unless it was a false alarm."""
    actor = make_actor(num_stacks=2, num_hosts=1)
    brain = actor._brain

    async def play() -> list[Turn]:
        host = await with_all_stacks(actor)
        brain.ready_to_go = {1}
        first = await host.ask(is_leaving=True)
        brain.ready_to_go = {0}
        second = await host.ask(is_leaving=True)
        return [first, second, await host.ask(is_leaving=True), await host.ask()]

    first, second, third, stays = played(play)
    assert ((1,), (0,)) == (first.drop, second.drop)
    assert Turn() == third
    assert (ToBuild(0, 1),) == stays.build
    assert ["stack 1 was moved from host 0, which is going to be taken away"] == [
        reason for stack, reason in brain.moves if stack == 1
    ]


# --- a brain that is no more


def test_orders_are_given_back_by_those_who_have_them_only(make_actor: Any) -> None:
    """Another life of the host has had others."""
    actor = make_actor()

    async def play() -> list[Turn]:
        host = await Caller(actor).join()
        await host.ask()
        await actor.forgo(0, "another", [(0, "o0")])
        first = await host.ask()
        await actor.forgo(0, host.life, [(0, "o0")])
        return [first, await host.ask()]

    assert [Turn(), turn((), (0,))] == asyncio.run(play())


def test_a_host_the_brain_does_not_know_is_told_so(make_actor: Any) -> None:
    """It answers orders this brain did not give: its reports are not heard, and it joins anew."""
    actor = make_actor()

    async def play() -> list[Turn]:
        host = Caller(actor)
        host.life = "of another brain"
        strange = await host.ask(report(0))
        await host.join()
        return [strange, await host.ask(), await host.ask(report(0))]

    strange, first, last = asyncio.run(play())
    assert Turn(is_known=False) == strange
    assert [1] == [len(first.orders)]
    assert last.done
    assert 1 == len(actor._brain.answered)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_brain_is_told_whether_it_was_restarted(no_ray: SimpleNamespace, tmp_path: Path, is_restarted: bool) -> None:
    """By Ray, after its process died."""
    no_ray.was_current_actor_reconstructed = is_restarted
    told = []

    def make(states: Any, restarted: bool) -> Quiet:
        told.append(restarted)
        return Quiet(1)

    actor = BrainActor(make, str(tmp_path), 1, 60.0, lambda: False)  # type: ignore[arg-type]
    actor._states.close()
    assert [is_restarted] == told


def test_leftovers_of_an_earlier_life_are_swept_away(make_actor: Any, tmp_path: Path) -> None:
    """Nobody else writes checkpoints."""
    (tmp_path / "checkpoints").mkdir()
    leftover = tmp_path / "checkpoints" / f"{'ab' * 32}.safetensors"
    leftover.write_bytes(b"half")
    make_actor()
    assert not leftover.exists()


# --- states


def test_who_fetches_waits_for_who_publishes(make_actor: Any) -> None:
    """And the reference stays until the brain drops it."""
    actor = make_actor()

    async def play() -> tuple[Any, bool]:
        host, other = await Caller(actor, 0).join(), await Caller(actor, 1).join()
        fetched = asyncio.create_task(host.fetch("3:1"))
        await asyncio.sleep(0)
        await other.publish("3:1", ["a reference"])
        return await fetched, "3:1" in actor._published

    assert (["a reference"], True) == asyncio.run(play())
    actor._states.drop("3:1")
    assert "3:1" not in actor._published


def test_who_asks_for_a_state_of_another_life_gets_none(make_actor: Any) -> None:
    """At once: that state will never be published here; nor is one that was to be published there."""
    actor = make_actor()

    async def play() -> Any:
        host = Caller(actor)
        await host.publish("3:1", ["a reference"])
        return await host.fetch("3:1")

    assert asyncio.run(play()) is None
    assert "3:1" not in actor._published


def test_who_waits_for_a_state_that_will_not_come_gets_none(make_actor: Any) -> None:
    """As soon as the brain has taken the order back: it is given again, once there is something to fetch."""
    actor = make_actor()

    async def play() -> Any:
        host = await Caller(actor, 0).join()
        waiting = asyncio.create_task(host.fetch("3:1", order="given up"))
        await asyncio.sleep(0)
        actor._brain.withdrawn.add("given up")
        other = await Caller(actor, 1).join()
        await other.actor.leave(1, other.life, [], "it leaves")  # whoever was to publish it, perhaps
        return await asyncio.wait_for(waiting, 10.0)

    assert asyncio.run(play()) is None


def test_who_waits_for_a_state_hears_of_a_failure(make_actor: Any) -> None:
    """Of the brain's: nothing will be published any more."""
    actor = make_actor()

    def fail(reports: Any) -> None:
        raise HostError("the disk is full")

    async def play() -> Any:
        host, other = await Caller(actor, 0).join(), await Caller(actor, 1).join()
        waiting = asyncio.create_task(host.fetch("3:1"))
        await asyncio.sleep(0)
        actor._brain.report = fail
        await other.ask(report(0))
        return await asyncio.wait_for(waiting, 10.0)

    assert asyncio.run(play()) is None


def test_only_those_who_may_be_served_look_again(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of one of a thousand hosts does not wake them all, nor does a state wake those who wait for another."""
    monkeypatch.setattr(brain_actor, "_LONG_POLL_S", 30.0)
    actor = make_actor(num_stacks=3, num_hosts=3)
    give, looked = actor._brain.orders, list[set[int]]()

    def look(stacks: Any) -> list[WorkOrder]:
        looked.append(set(stacks))
        return give(stacks)

    async def play() -> None:
        hosts = [await Caller(actor, number).join() for number in range(3)]
        for host in hosts:
            await host.ask()
        actor._brain.orders = look
        calls = [asyncio.create_task(host.ask()) for host in hosts[:2]]
        calls.append(asyncio.create_task(hosts[0].fetch("3:1")))
        await asyncio.sleep(0)
        actor._brain.is_to_wait = lambda *_: pytest.fail("woken by another's state")
        await hosts[2].publish("4:1", ["a reference"])
        actor._brain.open.add(1)
        calls.append(asyncio.create_task(hosts[2].ask(report(2))))
        await calls[1]
        assert not calls[0].done()
        for call in calls:
            call.cancel()

    played(play)
    assert [{0}, {1}, {2}, {1}] == looked


def test_a_state_that_cannot_be_read_is_brought_back(make_actor: Any) -> None:
    """The stack that was to read it is given up with it, and its host forgets the order."""
    actor = make_actor()

    async def play() -> Any:
        host = await Caller(actor).join()
        await host.publish("3:1", ["a reference"])
        actor._brain.withdrawn.add("o")
        return await host.fetch("3:1", is_unreadable=True)

    assert asyncio.run(play()) is None
    assert [([0], ["3:1"])] == [(stacks, gone) for stacks, _, gone in actor._brain.losses]
    assert "3:1" not in actor._published


# --- losses


class Process:
    """A host's process, alive until the test ends it."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.ping = SimpleNamespace(remote=self._ping)

    async def _ping(self) -> None:
        await self.over.wait()
        raise ray.exceptions.RayActorError(None, "the node was lost")


async def until(condition: Callable[[], bool]) -> None:
    """Wait, not for ever."""
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.01)


def played(play: Callable[[], Awaitable[Any]]) -> Any:
    """What a coroutine comes to."""

    async def run() -> Any:
        return await play()

    return asyncio.run(run())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts are looked at often."""
    monkeypatch.setattr(brain_actor, "_LOOK_S", 0.01)


def test_a_host_that_dies_gives_back_what_it_had(make_actor: Any, quick: None) -> None:
    """The brain hears of its stacks, and of the states that went with it; another host gets the stacks."""
    actor = make_actor(num_stacks=2, num_hosts=1)

    async def play() -> Turn:
        process = Process()
        host, other = await Caller(actor, 0).join(process), await Caller(actor, 1).join()
        await host.ask()
        await host.publish("3:1", ["a reference"])
        await other.publish("4:1", ["another"])
        process.over.set()
        await until(lambda: bool(actor._brain.losses))
        return await other.ask()

    taken = played(play)
    ((stacks, reason, gone),) = actor._brain.losses
    assert ([0], ["3:1"]) == (stacks, gone)
    assert "host 0: " in reason
    assert "the node was lost" in reason
    assert "4:1" in actor._published
    assert (ToBuild(0, 1),) == taken.build


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR", "killed, or crashed"),
        (
            "The actor is dead because its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY",
            "memory of its node was used up",
        ),
        ("The actor died because its node has died. Node Id: 12", "its node was lost"),
        ("Something else.\nMore of it.", "RayActorError: Something else"),
    ],
)
def test_why_a_host_is_gone_is_told_in_plain_words(told: str, words: str) -> None:
    """As far as Ray's are known."""
    assert words in brain_actor._in_plain_words(ray.exceptions.RayActorError(None, told))


def test_a_state_to_be_saved_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other states are to be saved, too; and a stack to be moved waits until that has been tried."""

    def never(reference: str, *, timeout: float) -> None:
        waited.append((reference, timeout))
        raise ray.exceptions.GetTimeoutError

    waited: list[tuple[str, float]] = []
    monkeypatch.setattr(brain_actor.ray, "get", never)
    with pytest.raises(HostError, match=r"the state did not get here from its node in 10 minutes\."):
        brain_actor.pull(["far"])  # type: ignore[list-item]
    assert [("far", 600.0)] == waited


def test_a_host_that_joins_again_is_another(make_actor: Any) -> None:
    """What the one before it had is lost; what that one still says is not heard."""
    actor = make_actor()

    async def play() -> tuple[Turn, Turn]:
        before = await Caller(actor).join()
        await before.ask()
        after = await Caller(actor).join()
        return await before.ask(report(0)), await after.ask()

    before, after = played(play)
    assert Turn(is_known=False) == before
    assert (ToBuild(0, 1),) == after.build
    assert [[0]] == [stacks for stacks, _, _ in actor._brain.losses]


def test_a_stack_that_broke_off_is_built_anew(make_actor: Any) -> None:
    """Nobody knows what it holds."""
    actor = make_actor(num_stacks=2)

    async def play() -> Turn:
        host = await Caller(actor).join()
        await host.ask()
        actor._brain.open.add(0)
        return await host.ask(report(0, Trouble(message="no", traceback="no")))

    assert (ToBuild(0, 1),) == played(play).build


def test_a_host_whose_device_is_gone_is_lost_with_its_last_reports(make_actor: Any) -> None:
    """These say what happened; then its stacks go to others."""
    actor = make_actor(num_stacks=2)

    async def play() -> None:
        host = await Caller(actor).join()
        await host.ask()
        await host.ask()
        lost = Trouble(message="no", traceback="no", is_lasting=True)
        await actor.leave(0, host.life, [report(1, lost)], "its device is gone")

    played(play)
    assert 1 == len(actor._brain.answered)
    assert [([0], "host 0: its device is gone")] == [(stacks, why) for stacks, why, _ in actor._brain.losses]


def test_a_host_that_could_not_build_a_stack_is_lost_with_it(make_actor: Any) -> None:
    """The brain hears why, and whether that is the end."""
    actor = make_actor(num_stacks=1)
    trouble = Trouble(message="ValueError: no such layer", traceback="in make")

    async def play() -> None:
        host = await Caller(actor).join()
        await host.ask()
        await actor.unbuilt(0, host.life, 0, trouble)
        await actor.unbuilt(0, host.life, 0, trouble)

    played(play)
    assert [(0, trouble)] == actor._brain.not_built
    why = "host 0: it could not build stack 0 (ValueError: no such layer)"
    assert [([0], why)] == [(stacks, reason) for stacks, reason, _ in actor._brain.losses]


def test_a_host_that_hangs_is_ended(make_actor: Any, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the limit, or ten times as long as the longest order, whichever is longer; and only if it is at work."""
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    actor = make_actor(num_stacks=1, num_hosts=2)
    actor._hang_s = 0.1

    async def play() -> tuple[Any, Any]:
        idle, busy = Process(), Process()
        host = await Caller(actor, 0).join(busy)
        await host.ask()
        await Caller(actor, 1).join(idle)
        actor._longest_s = 1e6
        await asyncio.sleep(0.3)
        spared = list(killed)
        actor._longest_s = 0.0
        await until(lambda: bool(actor._brain.losses))
        await asyncio.sleep(0.3)
        return spared, busy

    spared, busy = played(play)
    assert ([], [busy]) == (spared, killed)
    assert [[0]] == [stacks for stacks, _, _ in actor._brain.losses]
    assert "one order took it more than" in actor._brain.losses[0][1]


def test_what_goes_wrong_in_the_brain_ends_the_sweep(make_actor: Any) -> None:
    """Hosts hear of the end, and the driver hears why."""
    actor = make_actor()

    def fail(reports: Any) -> None:
        raise HostError("the disk is full")

    async def play() -> tuple[Turn, HostError | None]:
        host = await Caller(actor).join()
        await host.ask()
        actor._brain.report = fail
        return await host.ask(report(0)), await actor.close()

    last, problem = played(play)
    assert last.done
    assert problem is not None
    assert "the disk is full" == str(problem)
    assert "in fail" in "".join(problem.__notes__)  # --debug shows where


# --- stopping and closing


def test_somebody_who_wants_it_to_stop_is_heard_once(make_actor: Any) -> None:
    """When a host asks next."""
    actor = make_actor(num_stacks=2, num_hosts=1, is_to_stop=lambda: True)
    ask(actor, 0, 0)
    assert ["start", "stop"] == actor._brain.calls


def test_a_host_that_has_more_to_do_hears_that_the_sweep_is_to_stop(make_actor: Any) -> None:
    """It gives back what it has not begun."""
    wishes = iter([False, False, True])
    actor = make_actor(num_stacks=2, num_hosts=1, is_to_stop=lambda: next(wishes))

    async def play() -> list[bool]:
        host = await Caller(actor).join()
        return [(await host.ask(is_busy=is_busy)).is_stopping for is_busy in (False, True, True)]

    assert [False, False, True] == asyncio.run(play())


def test_closing_tells_the_brain_what_was_saved_last(make_actor: Any) -> None:
    """Before the ledger is sealed."""
    actor = make_actor()
    actor._states._unwrap = lambda reference: reference[0]
    actor._states.save("0:0", {})
    actor._published.publish("0:0", [make_state(1.0)])
    actor._states._saver.flush(20.0)
    asyncio.run(actor.close())
    assert (["0:0"], ["start", "close"]) == (actor._brain.saved_tokens, actor._brain.calls)
