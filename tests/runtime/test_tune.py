"""The brain's actor and its hosts, without Ray: plain classes, and which host gets which stack is settled on asking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbt.errors import HostError
from pbt.runtime import tune
from pbt.runtime.checkpoints import Checkpoint
from pbt.runtime.orders import Fetch, StackReport, WorkOrder
from pbt.runtime.planning import ToBuild
from pbt.runtime.tune import BrainActor, Host, RayExchange, Turn, Work
from tests.runtime.miniature import Clear, make_state, weight_of
from trainables import Place


class Quiet:
    """A brain whose stacks each have one order, and which is done once all are answered."""

    def __init__(self, num_stacks: int) -> None:
        self.num_stacks = num_stacks
        self.open = set(range(num_stacks))
        self.answered: list[Any] = []
        self.calls: list[Any] = []
        self.saved_tokens: list[str] = []

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

    def orders(self, stacks: Any) -> list[int]:
        ready = sorted(self.open & set(stacks))
        self.open -= set(ready)
        return ready

    def report(self, reports: Any) -> None:
        self.answered += reports

    def saved(self, token: str, checkpoint: Checkpoint) -> None:
        self.saved_tokens.append(token)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the actor asks Ray; and a question that cannot be answered waits a moment only."""
    known = SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr(tune.ray, "get_runtime_context", lambda: known)
    monkeypatch.setattr(tune, "_LONG_POLL_S", 0.05)
    return known


@pytest.fixture
def make_actor(tmp_path: Path) -> Iterator[Any]:
    """The actor around such a brain."""
    actors = []

    def make(num_stacks: int = 1, num_hosts: int = 1, is_to_stop: Any = lambda: False) -> BrainActor:
        built = BrainActor(lambda *_: Quiet(num_stacks), str(tmp_path), num_hosts, is_to_stop)  # type: ignore[arg-type]
        actors.append(built)
        return built

    yield make
    for built in actors:
        built._states.close()


def ask(actor: BrainActor, *hosts: int) -> list[Turn]:
    """Questions of hosts, one after another, each bringing no reports."""

    async def all_of_them() -> list[Turn]:
        return [await actor.exchange(host, "", []) for host in hosts]

    return asyncio.run(all_of_them())


def turn(actor: BrainActor, build: tuple[Any, ...], orders: tuple[Any, ...], done: bool = False) -> Turn:
    """An answer of this actor's."""
    return Turn(actor._epoch, tuple(ToBuild(*item) for item in build), orders, done)


# --- who gets which stack


def test_every_host_gets_a_stack_of_its_own_first(make_actor: Any) -> None:
    """In the order they ask; with the stack comes its first order."""
    actor = make_actor(num_stacks=3, num_hosts=2)
    first, second = ask(actor, 7, 4)
    assert turn(actor, build=((0, 1),), orders=(0,)) == first
    assert turn(actor, build=((1, 2),), orders=(1,)) == second


def test_an_idle_host_takes_what_nobody_has(make_actor: Any) -> None:
    """With all hosts up, five stacks are shared by two hosts, so a barrier over all of them is passed."""
    turns = ask(make_actor(num_stacks=5, num_hosts=2), 0, 1, 0, 1, 0)
    assert [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)] == [
        (item.stack, item.capacity) for turn in turns for item in turn.build
    ]


def test_stacks_are_kept_a_while_for_hosts_that_are_late(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the grace period is over; then the host that is there takes them, and nothing waits for ever."""
    actor = make_actor(num_stacks=2, num_hosts=2)
    _, waiting = ask(actor, 0, 0)
    assert turn(actor, build=(), orders=()) == waiting
    monkeypatch.setattr(tune, "_GRACE_S", 0.0)
    (served,) = ask(actor, 0)
    assert (ToBuild(1, 2),) == served.build


def test_a_waiting_host_hears_of_the_end(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host's report ends the sweep, and wakes who waits."""
    monkeypatch.setattr(tune, "_LONG_POLL_S", 30.0)
    actor = make_actor(num_stacks=2, num_hosts=2)

    async def play() -> list[Turn]:
        await actor.exchange(0, "", [])
        await actor.exchange(1, "", [])
        waiting = asyncio.create_task(actor.exchange(0, actor._epoch, ["report"]))
        await asyncio.sleep(0)
        last = await actor.exchange(1, actor._epoch, ["report"])
        return [await waiting, last]

    assert [True, True] == [turn.done for turn in asyncio.run(play())]


def test_a_waiting_host_hears_of_what_others_were_given(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What their orders publish, its own may have waited for."""
    monkeypatch.setattr(tune, "_LONG_POLL_S", 30.0)
    actor = make_actor(num_stacks=2, num_hosts=2)
    actor._owner = {0: 0, 1: 1}
    give = actor._brain.orders

    def give_the_second_first(stacks: Any) -> list[int]:
        return give([stack for stack in stacks if stack == 1 or 1 not in actor._brain.open])

    actor._brain.orders = give_the_second_first

    async def play() -> tuple[Turn, Turn]:
        waiting = asyncio.create_task(actor.exchange(0, "", []))
        await asyncio.sleep(0)
        second = await actor.exchange(1, "", [])
        return await asyncio.wait_for(waiting, 10.0), second

    first, second = asyncio.run(play())
    assert ((0,), (1,)) == (first.orders, second.orders)


def test_a_waiting_host_hears_of_what_has_been_saved(make_actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving goes on in a thread, which wakes who waits; the brain is told on its own loop."""
    monkeypatch.setattr(tune, "_LONG_POLL_S", 30.0)
    actor = make_actor(num_stacks=1)
    actor._states._unwrap = lambda reference: reference[0]
    actor._brain.saved = lambda token, checkpoint: actor._brain.answered.append(token)

    async def play() -> Turn:
        await actor.exchange(0, "", [])
        waiting = asyncio.create_task(actor.exchange(0, actor._epoch, []))
        await asyncio.sleep(0)
        actor._states.save("0:0", {})
        await actor.publish(actor._epoch, "0:0", [make_state(1.0)])
        return await waiting

    assert asyncio.run(play()).done
    assert ["0:0"] == actor._brain.answered


# --- a brain that is no more


def test_reports_to_another_brain_are_not_heard(make_actor: Any) -> None:
    """They answer orders this one did not give; the host learns whom it speaks to."""
    actor = make_actor()

    async def play() -> list[Turn]:
        return [await actor.exchange(0, epoch, ["report"]) for epoch in ("", "another", actor._epoch)]

    first, second, third = asyncio.run(play())
    assert {actor._epoch} == {first.epoch, second.epoch, third.epoch}
    assert ["report"] == actor._brain.answered
    assert [False, False, True] == [first.done, second.done, third.done]


def test_every_life_of_the_brain_has_a_name_of_its_own(make_actor: Any) -> None:
    """And begins by itself."""
    one, other = make_actor(), make_actor()
    assert one._epoch != other._epoch
    assert ["start"] == one._brain.calls == other._brain.calls


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_brain_is_told_whether_it_was_restarted(no_ray: SimpleNamespace, tmp_path: Path, is_restarted: bool) -> None:
    """By Ray, after its process died."""
    no_ray.was_current_actor_reconstructed = is_restarted
    told = []

    def make(states: Any, restarted: bool) -> Quiet:
        told.append(restarted)
        return Quiet(1)

    actor = BrainActor(make, str(tmp_path), 1, lambda: False)  # type: ignore[arg-type]
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
        fetched = asyncio.create_task(actor.fetch(actor._epoch, "3:1"))
        await asyncio.sleep(0)
        await actor.publish(actor._epoch, "3:1", ["a reference"])
        return await fetched, "3:1" in actor._published

    assert (["a reference"], True) == asyncio.run(play())
    actor._states.drop("3:1")
    assert "3:1" not in actor._published


def test_who_asks_for_a_state_of_another_life_gets_none(make_actor: Any) -> None:
    """At once: that state will never be published here; nor is one that was to be published there."""
    actor = make_actor()

    async def play() -> Any:
        await actor.publish("another", "3:1", ["a reference"])
        return await actor.fetch("another", "3:1")

    assert asyncio.run(play()) is None
    assert "3:1" not in actor._published


# --- stopping and closing


def test_somebody_who_wants_it_to_stop_is_heard_once(make_actor: Any) -> None:
    """When a host asks next."""
    actor = make_actor(num_stacks=2, num_hosts=1, is_to_stop=lambda: True)
    ask(actor, 0, 0)
    assert ["start", "stop"] == actor._brain.calls


def test_closing_tells_the_brain_what_was_saved_last(make_actor: Any) -> None:
    """Before the ledger is sealed."""
    actor = make_actor()
    actor._states._unwrap = lambda reference: reference[0]
    actor._states.save("0:0", {})
    actor._published.publish("0:0", [make_state(1.0)])
    actor._states._saver.flush(20.0)
    asyncio.run(actor.close())
    assert (["0:0"], ["start", "close"]) == (actor._brain.saved_tokens, actor._brain.calls)


# --- hosts


class Remote:
    """An actor whose methods are called as those of Ray's, answers being there at once."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.asked: list[tuple[int, str, int]] = []
        self.references: dict[str, Any] = {}
        self._turns = iter(turns)
        for name in ("exchange", "publish", "fetch"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))

    def _exchange(self, host: int, epoch: str, reports: Sequence[StackReport]) -> Turn:
        self.asked.append((host, epoch, len(reports)))
        return next(self._turns)

    def _publish(self, epoch: str, token: str, reference: Any) -> None:
        self.references[token] = reference

    def _fetch(self, epoch: str, token: str) -> Any:
        return self.references.get(token)


@pytest.fixture
def make_host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host, its trainable and what it asks, without Tune."""
    monkeypatch.setattr(tune.ray, "get", lambda reference: reference)
    monkeypatch.setattr(tune.ray, "put", lambda value: value)

    def make(*turns: Turn, data: Any = None) -> tuple[Host, Remote, Clear]:
        trainable, remote = Clear(), Remote(turns)
        host = object.__new__(Host)
        data = dict(trainable.describe().data) if data is None else data
        host.setup({"host": 3}, work=Work(remote, trainable, data, "clear", Place(device="cpu")))
        return host, remote, trainable

    return make


def order(stack: int, **parts: Any) -> WorkOrder:
    """A work order."""
    return WorkOrder(id=f"order:1:{stack}", stack=stack, split="validation", **parts)


def test_a_host_builds_what_it_is_given_and_brings_its_reports(make_host: Any) -> None:
    """With the next question, to the brain that gave the orders."""
    turns = (
        Turn("a", (ToBuild(0, 2), ToBuild(1, 1)), (order(0), order(1)), False),
        Turn("a", (), (), False),
        Turn("a", (), (), True),
    )
    host, remote, trainable = make_host(*turns)
    assert [{"done": False, "stacks": 2}, {"done": False, "stacks": 2}, {"done": True, "stacks": 2}] == [
        host.step() for _ in turns
    ]
    assert [(3, "", 0), (3, "a", 2), (3, "a", 0)] == remote.asked
    assert [2, 1] == [stack.capacity for stack in trainable.built]


def test_a_host_that_knows_another_brain_gives_up_its_stacks(make_host: Any) -> None:
    """The new one knows nothing of what they hold; what it is given is built anew."""
    turns = (
        Turn("a", (ToBuild(0, 2), ToBuild(1, 2)), (order(0),), False),
        Turn("b", (ToBuild(1, 2),), (order(1),), False),
        Turn("b", (), (), True),
    )
    host, remote, trainable = make_host(*turns)
    assert [2, 1, 1] == [host.step()["stacks"] for _ in turns]
    assert [(3, "", 0), (3, "a", 1), (3, "b", 1)] == remote.asked
    assert 3 == len(trainable.built)
    assert host._stacks[1] is trainable.built[2]


def test_a_host_that_waits_for_a_brain_that_is_no_more_has_nothing_to_report(make_host: Any) -> None:
    """The state it was to fetch is gone with the brain; it asks again, and gets to know the new one."""
    fetch = Fetch(0, "9:9", {}, 0, 0)
    turns = (
        Turn("a", (ToBuild(0, 1), ToBuild(1, 1)), (order(1), order(0, fetch=(fetch,))), False),
        Turn("b", (), (), False),
    )
    host, remote, _ = make_host(*turns)
    assert [2, 0] == [host.step()["stacks"] for _ in turns]
    assert [(3, "", 0), (3, "a", 0)] == remote.asked


def test_a_state_travels_packed(make_host: Any) -> None:
    """And comes back as it was."""
    _, remote, _ = make_host()
    exchange = RayExchange(remote, "a")
    exchange.publish("0:0", make_state(2.5, age=3, consumed=4, seed=5))
    state = exchange.fetch("0:0")
    assert (2.5, 3, 4, 5) == (weight_of(state), state.age, state.consumed, state.seed)


def test_a_node_with_other_data_is_refused(make_host: Any) -> None:
    """Named, with the difference: training on would compare members that learn different things."""
    with pytest.raises(HostError, match="has other data than the driver: tokens None instead of 7"):
        make_host(data={"tokens": 7})


def test_a_host_keeps_nothing(make_host: Any, tmp_path: Path) -> None:
    """Tune may save and restore it as it likes."""
    host, _, _ = make_host()
    assert {} == host.save_checkpoint(str(tmp_path))
    host.load_checkpoint({})
    assert [] == list(tmp_path.iterdir())
