"""The brain as a Ray actor: what hosts ask, which of them has which stack, and who is gone."""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import ray

from pbt.errors import HostError, first_line
from pbt.runtime.brain import Brain
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.exchange import LocalExchange, Staging, pack, unpack
from pbt.runtime.orders import StackReport, Trouble, WorkOrder
from pbt.runtime.planning import ToBuild
from pbt.runtime.states import States, StoredStates
from pbt.runtime.waiting import Waiting
from trainables import State

#: Seconds a host's question may wait in the brain before it is answered with nothing to do.
_LONG_POLL_S = 5.0
#: Seconds the brain keeps a stack for a host that is to come up, again perhaps, before an idle host may take it too.
_GRACE_S = 60.0
#: Seconds between two looks at each host.
_LOOK_S = 0.5
#: How many times as long as the longest order so far another may take.
_PATIENCE = 10.0
#: Seconds that a state may take from its node to this one, to be saved; then others have their turn.
_PULL_S = 600.0

#: What Ray writes of an actor's end, and what that is in plain words.
_ENDINGS = {
    "Worker exit type: NODE_OUT_OF_MEMORY": "its process was ended by Ray, as the memory of its node was used up",
    "its worker process has died": "its process was killed, or crashed",
    "its node has died": "its node was lost",
}

#: Builds the brain, given what it does with published states, and whether Ray has restarted its actor.
MakeBrain: TypeAlias = Callable[[States, bool], Brain]


@dataclass(frozen=True, slots=True)
class Turn:
    """The brain's answer to a host.

    Attributes:
        build: Stacks to build first, once those to `drop` are gone.
        orders: Then to be carried out.
        done: Whether that is the end.
        is_known: False if the brain does not know the host, because it is another brain, or has given the host up. The
            host then holds nothing that anybody knows of, and joins anew.
        drop: Stacks that are somebody else's now.
        is_stopping: Whether orders that the host has not begun are to be given back.
    """

    build: tuple[ToBuild, ...] = ()
    orders: tuple[WorkOrder, ...] = ()
    done: bool = False
    is_known: bool = True
    drop: tuple[int, ...] = ()
    is_stopping: bool = False


@dataclass(slots=True)
class _Guest:
    """A host that has joined.

    Attributes:
        host: Its number.
        life: Name of its life: a host that joins again is another one.
        since: When it was given the orders it is at work on; None if it is not at work.
        stacks: Stacks it has.
        published: Tokens of the states that would go with it.
        is_leaving: Whether its node is going to be taken away.
        is_busy: Whether it has orders that it has not reported.
    """

    host: int
    life: str
    since: float | None = None
    stacks: set[int] = field(default_factory=set)
    published: set[str] = field(default_factory=set)
    is_leaving: bool = False
    is_busy: bool = False


class BrainActor:
    """Holds the brain and the exchange. All its methods run on one event loop, so nothing needs a lock.

    If its process dies, Ray starts it again: it rebuilds the brain from the ledger, and the hosts begin anew with it.

    Args:
        make_brain: Builds the brain.
        run: The run's folder, on this node.
        num_hosts: Number of hosts that there is room for.
        hang_s: Seconds that a host may take for its orders; see `spec.Hosts.hang_minutes`.
        is_to_stop: Asked now and then whether somebody wants the sweep to stop.
    """

    def __init__(
        self, make_brain: MakeBrain, run: str, num_hosts: int, hang_s: float, is_to_stop: Callable[[], bool]
    ) -> None:
        store = CheckpointStore(Path(run) / "checkpoints")
        store.sweep_leftovers()
        self._published = LocalExchange()
        self._states = StoredStates(self._published, store, self._wake, wrap, pull)
        self._brain = make_brain(self._states, ray.get_runtime_context().was_current_actor_reconstructed)
        self._is_to_stop, self._is_stopping = is_to_stop, False
        self._num_hosts, self._hang_s = num_hosts, hang_s
        self._guests: dict[int, _Guest] = {}
        self._promised: dict[int, int] = {}
        self._longest_s = 0.0
        self._failure: Exception | None = None
        self._kept_since = time.monotonic()
        self._askers, self._fetchers = Waiting(), Waiting()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._brain.start()
        self._free = set(range(self._brain.num_stacks))

    async def join(self, host: int, actor: Any) -> str:
        """A host has come up: whoever had its number before is gone. Returns the name of its life."""
        self._lose(host, "it was started anew")
        life = secrets.token_hex(4)
        self._guests[host] = _Guest(host, life)
        if actor is not None:
            self._later(self._watch(host, life, actor))
        return life

    async def exchange(
        self, host: int, life: str, reports: Sequence[StackReport], is_leaving: bool = False, is_busy: bool = False
    ) -> Turn:
        """Take a host's reports and answer with its next turn; waits a while if there is nothing to do.

        Args:
            host: Who asks.
            life: Name of its life.
            reports: What it has done.
            is_leaving: Whether its node is going to be taken away: its stacks are moved, and it is given no others.
            is_busy: Whether it has more to do: it is answered at once, and given no other stacks.
        """
        self._loop = asyncio.get_running_loop()
        if (guest := self._guest(host, life)) is None:
            return Turn(is_known=False)
        self._take_in(guest, reports)
        guest.is_leaving, guest.is_busy = is_leaving, is_busy
        turn = self._turn(guest)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONG_POLL_S):
                while not (is_busy or turn.orders or turn.build or turn.drop or turn.done):
                    await self._askers.wait(host)
                    if self._guest(host, life) is None:
                        return Turn(is_known=False)
                    turn = self._turn(guest)
        if turn.drop or any(order.publish for order in turn.orders):
            self._look_again()  # others may have waited for the stacks, or for what is published
        if turn.orders or turn.build or is_busy:
            guest.since = time.monotonic()
        return turn

    async def forgo(self, host: int, life: str, orders: Sequence[tuple[int, str]]) -> None:
        """A host will not carry out these orders, `(stack, id)`, of which it has only published."""
        if self._guest(host, life) is not None:
            with self._guard():
                self._brain.forgo(orders)
            self._look_again()

    async def leave(self, host: int, life: str, reports: Sequence[StackReport], reason: str) -> None:
        """Take a host's last reports: its process ends."""
        if (guest := self._guest(host, life)) is not None:
            self._take_in(guest, reports)
            self._lose(host, reason)

    async def unbuilt(self, host: int, life: str, stack: int, trouble: Trouble) -> None:
        """A host could not build a stack: its process ends."""
        if self._guest(host, life) is not None:
            with self._guard():
                self._brain.unbuilt(stack, trouble)
            self._lose(host, f"it could not build stack {stack} ({trouble.told})")

    async def publish(self, host: int, life: str, token: str, reference: list[ray.ObjectRef]) -> None:
        """Make a packed state, already in the object store, known to those who wait for it."""
        if (guest := self._guest(host, life)) is not None:
            guest.published.add(token)
            self._published.publish(token, reference)
            self._fetchers.wake([token])

    async def fetch(
        self, host: int, life: str, stack: int, order: str, token: str, is_unreadable: bool = False
    ) -> list[ray.ObjectRef] | None:
        """Wait for a published state and answer with its reference; None if the host is to forget the order.

        Args:
            host: Who asks.
            life: Name of its life.
            stack: What the state is for.
            order: The stack's order; its host has not begun with the rest of it.
            token: Names the state.
            is_unreadable: Whether the host was told of the state before, and could not read it.
        """
        if is_unreadable and self._guest(host, life) is not None:
            self._published.drop(token)
            problem = "a state that one of its members was to copy was lost with another host"
            with self._guard():
                self._brain.lost([stack], problem, [token])
        while not self._failure and self._guest(host, life) is not None and self._is_to_wait(stack, order, token):
            if token in self._published:
                reference: list[ray.ObjectRef] = self._published.fetch(token)
                return reference
            await self._fetchers.wait(token)
        self._stir()
        return None

    async def planned(self, host: int, life: str, stack: int, plan: str) -> None:
        """Record the plan that a host has measured."""
        if self._guest(host, life) is not None:
            with self._guard():
                self._brain.planned(stack, plan)

    async def num_trained(self) -> int:
        """How many segments this brain has seen the end of."""
        return self._brain.num_trained

    async def close(self) -> HostError | None:
        """Seal the ledger; returns why the sweep could not go on, if it could not, noted with where that was."""
        self._states.tell(self._brain)
        for task in self._tasks:
            task.cancel()
        with self._guard():
            self._brain.close()
        if self._failure is None:
            return None
        problem = HostError(str(self._failure) or first_line(self._failure))
        problem.add_note("".join(traceback.format_exception(self._failure)))
        return problem

    # ------------------------------------------------------------------------------------------------------- turns

    def _guest(self, host: int, life: str) -> _Guest | None:
        guest = self._guests.get(host)
        return guest if guest is not None and guest.life == life else None

    def _take_in(self, guest: _Guest, reports: Sequence[StackReport]) -> None:
        if guest.since is not None:
            self._longest_s = max(self._longest_s, time.monotonic() - guest.since)
            guest.since = None
        if reports:
            # What an exception left of a stack nobody knows: it is built anew.
            troubled = {report.stack for report in reports if report.trouble is not None}
            self._give_back(guest, troubled)
            with self._guard():
                self._brain.report(reports)
            self._stir() if troubled else self._look_again()

    def _turn(self, guest: _Guest) -> Turn:
        self._states.tell(self._brain)
        turn = Turn(done=True)
        with self._guard():
            turn = self._next(guest)
        return Turn(done=True) if self._failure else turn

    def _next(self, guest: _Guest) -> Turn:
        if not self._is_stopping and self._is_to_stop():
            self._is_stopping = True
            self._brain.stop()
        if guest.is_leaving:
            self._break_promises(guest.host)
            for stack in guest.stacks:
                self._brain.release(stack)
        orders = self._brain.orders(guest.stacks)
        drop = self._drop(guest)
        is_to_keep = guest.is_leaving or guest.is_busy or (guest.stacks and self._is_expecting_hosts())
        if orders or drop or is_to_keep or self._brain.done:  # it is given no other stack
            return Turn(orders=tuple(orders), done=self._brain.done, drop=drop, is_stopping=self._is_stopping)
        free = [stack for stack in self._free if self._promised.get(stack, guest.host) == guest.host]
        if not free:
            self._ask_for_another(guest)
            return Turn()
        stack = min(free)
        self._promised.pop(stack, None)
        self._free.discard(stack)
        guest.stacks.add(stack)
        return Turn((self._brain.to_build(stack),), tuple(self._brain.orders([stack])))

    def _give_back(self, guest: _Guest, stacks: Set[int]) -> None:
        self._free |= guest.stacks & stacks
        guest.stacks -= stacks

    def _drop(self, guest: _Guest) -> tuple[int, ...]:
        """A guest's stacks that are ready to go elsewhere."""
        drop = tuple(stack for stack in sorted(guest.stacks) if self._brain.is_released(stack))
        self._give_back(guest, set(drop))
        for stack in drop:
            other = f"host {self._promised[stack]}" if stack in self._promised else "another"
            why = ", which is going to be taken away" if guest.is_leaving else f" to {other}, which had less to do"
            self._brain.moved(stack, f"stack {stack} was moved from host {guest.host}{why}")
        return drop

    def _break_promises(self, host: int) -> None:
        self._promised = {stack: other for stack, other in self._promised.items() if other != host}

    def _ask_for_another(self, guest: _Guest) -> None:
        """A guest that has nothing to do is promised a stack of the one that has most, if that is two more than it."""
        if guest.host in self._promised.values() or self._is_stopping:
            return
        most = max((other.stacks - self._promised.keys() for other in self._guests.values()), key=len)
        if len(most) >= len(guest.stacks) + 2:
            stack = max(most)
            self._promised[stack] = guest.host
            self._brain.release(stack)
            self._look_again()  # it may be waiting, too

    def _is_expecting_hosts(self) -> bool:
        """Whether free stacks are kept for hosts that have none: those that are up, or a while for others."""
        if any(not (guest.stacks or guest.is_leaving) for guest in self._guests.values()):
            return True
        return len(self._guests) < self._num_hosts and time.monotonic() - self._kept_since < _GRACE_S

    def _is_to_wait(self, stack: int, order: str, token: str) -> bool:
        with self._guard():
            return self._brain.is_to_wait(stack, order, token)
        return False

    # ------------------------------------------------------------------------------------------------------- losses

    async def _watch(self, host: int, life: str, actor: Any) -> None:
        """Wait for the end of a host, or put an end to one that hangs."""
        alive = asyncio.ensure_future(_ends(actor))
        try:
            while not alive.done():
                await asyncio.wait([alive], timeout=_LOOK_S)
                if (guest := self._guest(host, life)) is None:
                    return
                limit = max(self._hang_s, _PATIENCE * self._longest_s)
                if guest.since is not None and time.monotonic() - guest.since > limit:
                    ray.kill(actor)
                    await self._lost(host, life, f"one order took it more than {limit / 60.0:.3g} minutes")
                    return
            await self._lost(host, life, alive.result())
        finally:
            alive.cancel()

    async def _lost(self, host: int, life: str, reason: str) -> None:
        if self._guest(host, life) is not None:
            self._lose(host, reason)

    def _lose(self, host: int, reason: str) -> None:
        """A host is gone; its stacks are free, and what it published cannot be read any more."""
        guest = self._guests.pop(host, None)
        self._break_promises(host)
        if guest is None or self._brain.done or self._failure:
            return
        self._kept_since = time.monotonic()
        self._free |= guest.stacks
        gone = {token for token in guest.published if token in self._published}
        for token in gone:
            self._published.drop(token)
        if guest.stacks or gone:
            with self._guard():
                self._brain.lost(guest.stacks, f"host {host}: {reason}", gone)
        self._stir()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ----------------------------------------------------------------------------------------------------- failures

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """What goes wrong in the brain ends the sweep, and is told by `close`."""
        try:
            yield
        except Exception as error:
            self._failure = self._failure or error
            self._stir()

    # ------------------------------------------------------------------------------------------------------- waking

    def _wake(self) -> None:
        """Called by the thread that saves: have the hosts look again."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                asyncio.run_coroutine_threadsafe(self._hear(), self._loop)

    async def _hear(self) -> None:
        with self._guard():
            self._states.tell(self._brain)  # once, not by each of those that wait
        self._look_again()

    def _look_again(self) -> None:
        """Wake the guests that may be served now: a thousand may wait, and most have to wait on."""
        all_may = self._brain.done or bool(self._free)
        waiting = [guest for host, guest in self._guests.items() if host in self._askers]
        may = [guest for guest in waiting if all_may or guest.is_leaving or self._brain.may_order(guest.stacks)]
        self._askers.wake(guest.host for guest in may)

    def _stir(self) -> None:
        """Wake all: who waits for a state may wait for what does not come."""
        self._askers.wake_all()
        self._fetchers.wake_all()


async def _ends(actor: Any) -> str:
    """Wait until an actor is dead; returns why.

    A call waits behind whatever the actor is doing, and fails once the actor is dead.
    """
    while True:
        try:
            await actor.ping.remote()
        except ray.exceptions.ActorUnavailableError:
            pass  # for the moment, says Ray
        except ray.exceptions.RayError as error:
            return _in_plain_words(error)
        await asyncio.sleep(_LOOK_S)


def _in_plain_words(error: ray.exceptions.RayError) -> str:
    """Why an actor has ended; as Ray has it, where we know no better."""
    told = (words for mark, words in _ENDINGS.items() if mark in str(error))
    return next(told, first_line(error))


def wrap(state: State, staging: Staging | None = None) -> list[ray.ObjectRef]:
    """A state in the object store. Inside a list its reference travels as itself; bare, Ray would send the object."""
    return [ray.put(pack(state, staging))]


def unwrap(reference: list[ray.ObjectRef]) -> State:
    """The state again; its tensors are read-only views into the object store."""
    return unpack(ray.get(reference[0]))


def pull(reference: list[ray.ObjectRef], patience_s: float = _PULL_S) -> State:
    """As `unwrap`, for those behind whom others wait.

    Raises:
        HostError: It takes too long: the node it is on is out of reach, and Ray has not given it up.
    """
    try:
        return unpack(ray.get(reference[0], timeout=patience_s))
    except ray.exceptions.GetTimeoutError as error:
        raise HostError(f"the state did not get here from its node in {patience_s / 60.0:.3g} minutes.") from error
