"""Hosts that are simulated: the real brain, ledger and exchange, with a clock that does not wait.

What would this sweep cost on 64 GPUs of which 5 % are lost in a day? Say how long things take and what goes wrong:

    world = World(hosts=64, step_s=0.12, evaluation_s=4.0, save_s=9.0, losses_per_day=0.05, repair_s=1800.0)
    report = simulate(make_brain, run=run, world=world, trainable=SimulatedTrainable())
    report.makespan_s / 3600, report.host_hours, report.utilisation

`make_brain` builds the brain as for any other host, but with the clock it is given. Members are those of any trainable;
one of closed-form curves (`SimulatedTrainable`) makes a million steps as cheap as one. Everything is drawn from the
world's seed: the same world, sweep and seed give the same report.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np

from pbt.errors import HostError, StorageError
from pbt.member import generator
from pbt.record.ledger import LedgerReader
from pbt.runtime.brain import Brain
from pbt.runtime.checkpoints import Checkpoint
from pbt.runtime.curves import SimulatedTrainable as SimulatedTrainable
from pbt.runtime.exchange import LocalExchange
from pbt.runtime.orders import SegmentResult, StackReport, WorkOrder, attempt, publish
from pbt.runtime.planning import settled
from pbt.runtime.states import States
from trainables import Place, Stack, State, Trainable

#: Seconds, from the beginning of the simulation or wherever `begins_s` says.
Clock: TypeAlias = Callable[[], float]
#: Builds the brain, given what it does with states, its clock, and whether there was one before.
MakeBrain: TypeAlias = Callable[[States, Clock, bool], Brain]
#: Seconds of a training step, given the stack, the order, and a generator of the order's own.
StepSeconds: TypeAlias = Callable[[int, WorkOrder, np.random.Generator], float]

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How long things take, and what goes wrong. All durations are in seconds.

    Attributes:
        hosts: Number of hosts. They take stacks as those of a cluster do; one with several works on them in turn.
        step_s: A training step of a stack, all its members together; or a function that says.
        evaluation_s: Evaluating a stack once.
        build_s: Building a stack, compilation included.
        fetch_s: Bringing one state from another stack.
        latency_s: From the brain to a host, and back.
        save_s: Writing a checkpoint, one after another.
        watts: Power of a host at work; None is not known.
        slow_hosts: By number, how many times as long a host takes.
        straggler_rate: Chance of an order to take `straggler_factor` times as long.
        straggler_factor: See there.
        failures: Reason by `(member, segment)` of those that fail.
        failure_rate: Chance of any other segment to fail.
        save_failure_rate: Chance of a checkpoint not to be written.
        losses: Hosts that are lost, as `(when, host)`.
        losses_per_day: How often each host is lost besides, on average.
        detection_s: From the loss of a host until the brain hears of it.
        repair_s: From the loss of a host until it is back, empty, at least `detection_s`; None is never.
        brain_losses: When the brain is lost, and with it what all hosts hold.
        restart_s: From the loss of the brain until it is built again.
        stop_at: When the sweep is asked to stop.
        seed: Of all that is left to chance.
    """

    hosts: int = 1
    step_s: float | StepSeconds = 1.0
    evaluation_s: float = 0.0
    build_s: float = 0.0
    fetch_s: float = 0.0
    latency_s: float = 0.0
    save_s: float = 0.0
    watts: float | None = None
    slow_hosts: Mapping[int, float] = field(default_factory=dict)
    straggler_rate: float = 0.0
    straggler_factor: float = 1.0
    failures: Mapping[tuple[int, int], str] = field(default_factory=dict)
    failure_rate: float = 0.0
    save_failure_rate: float = 0.0
    losses: Sequence[tuple[float, int]] = ()
    losses_per_day: float = 0.0
    detection_s: float = 10.0
    repair_s: float | None = 60.0
    brain_losses: Sequence[float] = ()
    restart_s: float = 10.0
    stop_at: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """What a simulated sweep came to.

    Attributes:
        makespan_s: Seconds from its beginning to its end.
        hosts: Number of hosts.
        busy_s: Seconds that hosts trained, evaluated and fetched for it, summed over hosts.
        repeated_s: Seconds of these that went into training again what was lost.
        lost_s: Seconds besides that were spent on orders which were lost with their hosts.
        joules: Energy of all of these; None where power is not known.
        events: Number of things that happened.
        orders: Number of orders that were answered.
        recoveries: Number of those that trained again, or brought back, what was lost.
        host_losses: Number of hosts lost.
        brain_losses: Number of times the brain was lost.
        finished: Whether the sweep came to its end; it did not if it was stopped.
        best: The member that won, if any.
    """

    makespan_s: float
    hosts: int
    busy_s: float
    repeated_s: float
    lost_s: float
    joules: float | None
    events: int
    orders: int
    recoveries: int
    host_losses: int
    brain_losses: int
    finished: bool
    best: int | None

    @property
    def host_hours(self) -> float:
        """Hours that hosts were kept, idle or not."""
        return self.hosts * self.makespan_s / 3600.0

    @property
    def utilisation(self) -> float:
        """Share of the hosts' time that went into the sweep, without what was repeated or lost."""
        kept = self.hosts * self.makespan_s
        return (self.busy_s - self.repeated_s) / kept if kept else 0.0


class Store(Protocol):
    """Where checkpoints are kept: a `CheckpointStore`, or a `MemoryStore`."""

    def save(self, state: State, about: Mapping[str, Any]) -> Checkpoint:
        """Keep a state."""

    def load(self, digest: str) -> State:
        """A state that was kept."""

    def remove(self, digest: str) -> None:
        """Keep it no longer."""

    def keep(self, digests: Set[str]) -> None:
        """Keep no others."""


class MemoryStore:
    """Checkpoints in memory, for sweeps of which nothing is to be left."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}

    def __len__(self) -> int:
        """Number of checkpoints."""
        return len(self._states)

    def save(self, state: State, about: Mapping[str, Any]) -> Checkpoint:
        """Keep a state, under a digest of all there is to it."""
        known = hashlib.sha256(repr((state.age, state.consumed, state.seed)).encode())
        size = 0
        for shard in state.shards:
            data = shard.tensor.detach().cpu().contiguous().numpy().tobytes()
            known.update(shard.name.encode())
            known.update(data)
            size += len(data)
        self._states[known.hexdigest()] = state
        return Checkpoint(known.hexdigest(), size, Path())

    def load(self, digest: str) -> State:
        """A state that was kept.

        Raises:
            StorageError: There is none.
        """
        if digest not in self._states:
            raise StorageError(f"cannot read checkpoint {digest}: it is not in memory.")
        return self._states[digest]

    def remove(self, digest: str) -> None:
        """Keep it no longer."""
        self._states.pop(digest, None)

    def keep(self, digests: Set[str]) -> None:
        """Keep no others."""
        for digest in self._states.keys() - digests:
            del self._states[digest]


def simulate(
    make_brain: MakeBrain,
    *,
    run: Path,
    world: World,
    trainable: Trainable,
    place: Place | None = None,
    store: Store | None = None,
    begins_s: float = 0.0,
) -> SimulationReport:
    """Run a sweep to its end, or until it is stopped, on simulated hosts.

    A sweep is taken up again, or extended, by another call whose `make_brain` says so (`Plan.session`), with the same
    `store` and `begins_s` at the end of what was before.

    Args:
        make_brain: Builds the brain, and its ledger, with the clock it is given.
        run: The run's folder, which holds the ledger.
        world: How long things take, and what goes wrong.
        trainable: What is trained.
        place: Device and precision of its stacks; None is float64 on the CPU.
        store: Where checkpoints are kept; None keeps them in memory.
        begins_s: The clock's first reading.

    Raises:
        HostError: The sweep stands still: nobody is left to do what others wait for.
    """
    place = place or Place(dtype="float64", compile="never")
    store = MemoryStore() if store is None else store
    simulation = _Simulation(make_brain, world, trainable, place, store, begins_s)
    try:
        simulation.run()
        return simulation.close(run)
    except BaseException:
        simulation.abandon()
        raise


@dataclass(slots=True)
class _Task:
    """An order in the hands of a host; `began` is None while it waits for states it is to fetch."""

    order: WorkOrder
    began: float | None = None
    takes: float = 0.0

    @property
    def needs(self) -> set[str]:
        """Tokens of these states."""
        return {item.token for item in self.order.fetch}


@dataclass(slots=True)
class _Host:
    """A host; `life` counts how often it has lost everything, so that what an earlier life left is recognised."""

    number: int
    stacks: dict[int, Stack] = field(default_factory=dict)
    turn: deque[_Task] = field(default_factory=deque)
    asked: float = 0.0
    done: list[tuple[_Task, StackReport]] = field(default_factory=list)
    life: int = 0
    is_up: bool = True
    is_free: bool = True

    def lose_everything(self) -> float:
        """Returns the seconds spent on what was not reported, but for the order at work."""
        spent = sum(task.takes for task, _ in self.done)
        self.stacks, self.turn, self.done = {}, deque(), []
        self.life += 1
        self.is_free = True
        return spent


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What an order fetched when it began: by its end, the exchange may have dropped that."""

    states: Mapping[str, State]
    copies: ClassVar[bool] = False

    def publish(self, token: str, state: State) -> None:
        """Nothing: orders publish before they begin."""

    def fetch(self, token: str) -> State:
        """A state that was fetched."""
        return self.states[token]


class _Events:
    """What is still to happen, in order; and the clock."""

    def __init__(self, begins_s: float) -> None:
        self.now = begins_s
        self.num = 0
        self._heap: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._num_added = 0
        self._num_own = 0

    @property
    def are_over(self) -> bool:
        """Whether nothing more will happen of its own; accidents may."""
        return self._num_own == 0

    def after(self, seconds: float, what: Callable[[], None], is_accident: bool = False) -> None:
        """Let something happen so many seconds from now."""
        self._num_added += 1
        self._num_own += not is_accident
        heapq.heappush(self._heap, (self.now + seconds, self._num_added, is_accident, what))

    def next(self) -> None:
        """Let the next thing happen."""
        self.now, _, is_accident, what = heapq.heappop(self._heap)
        self.num += 1
        self._num_own -= not is_accident
        what()

    def clock(self) -> float:
        """Seconds."""
        return self.now


class _Exchange:
    """States in the exchange, and checkpoints written one after another, as `StoredStates` does it with a thread.

    Args:
        events: The clock.
        world: How long things take.
        store: Holds checkpoints.
        on_publish: Called when there is another state.
    """

    copies: ClassVar[bool] = False

    def __init__(
        self,
        events: _Events,
        world: World,
        store: Store,
        on_publish: Callable[[str], None],
    ) -> None:
        self.brain: Brain | None = None
        self._states = LocalExchange()
        self._events, self._world, self._store = events, world, store
        self._on_publish = on_publish
        self._jobs: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._is_writing = False

    def __contains__(self, token: str) -> bool:
        """Whether a state is there."""
        return token in self._states

    def publish(self, token: str, state: State) -> None:
        """Make a state available."""
        self._states.publish(token, state)
        self._look()
        self._on_publish(token)

    def fetch(self, token: str) -> State:
        """Read a state that is there."""
        state: State = self._states.fetch(token)
        return state

    def offer(self, token: str, digest: str) -> None:
        """Publish a checkpoint."""
        self.publish(token, self._store.load(digest))

    def save(self, token: str, about: Mapping[str, Any]) -> None:
        """Begin to save a state."""
        self._jobs.append((token, about))
        self._look()

    def withdraw(self, token: str) -> None:
        """A state that is to be saved will not come."""
        if token not in self._states:
            self._jobs = deque(job for job in self._jobs if job[0] != token)
            self._events.after(0.0, lambda: self._not_saved(token))

    def drop(self, token: str) -> None:
        """Forget a state."""
        self._states.drop(token)

    def remove(self, digest: str) -> None:
        """Delete a checkpoint."""
        self._store.remove(digest)

    def keep(self, digests: Set[str]) -> None:
        """Delete every checkpoint but these."""
        self._store.keep(digests)

    def _look(self) -> None:
        if not self._is_writing and self._jobs and self._jobs[0][0] in self._states:
            self._is_writing = True
            self._events.after(self._world.save_s, self._written)

    def _not_saved(self, token: str) -> None:
        if self.brain is not None:
            self.brain.not_saved(token, f"the state of segment {token} was lost with its host before it was saved.")

    def _written(self) -> None:
        if self.brain is None:  # it was lost, and with it all this
            return
        token, about = self._jobs.popleft()
        self._is_writing = False
        try:
            if _is_drawn(self._world.save_failure_rate, self._world.seed, "save", *map(int, token.split(":"))):
                raise StorageError("cannot write the checkpoint: the disk is full.")
            checkpoint = self._store.save(self.fetch(token), about)
        except StorageError as error:
            self.brain.not_saved(token, str(error))
        else:
            self.brain.saved(token, checkpoint)
        self._look()


class _Simulation:
    """One run of the clock."""

    def __init__(
        self,
        make_brain: MakeBrain,
        world: World,
        trainable: Trainable,
        place: Place,
        store: Store,
        begins_s: float,
    ) -> None:
        self._make_brain, self._world, self._store, self._begins_s = make_brain, world, store, begins_s
        self._trainable, self._bucket, self._place = trainable, trainable.bucket({}), place
        self._events = _Events(begins_s)
        self._hosts = [_Host(number) for number in range(world.hosts)]
        self._free_stacks: list[int] = []
        self._waiting: dict[str, list[_Host]] = {}
        self._brain: Brain | None = None
        self._exchange = _Exchange(self._events, world, store, self._published)
        self._is_stopping = False
        self._has_changed = True
        self._num_begun = self._num_host_losses = self._num_brain_losses = 0
        self._spent: dict[str, float] = {}  # seconds by order
        self._lost_s = 0.0

    def run(self) -> None:
        """Let things happen until the sweep is over."""
        self._plan_accidents()
        self._build_brain(is_restarted=False)
        while True:
            self._dispatch()
            if self._brain is not None and self._brain.done:
                return
            if self._events.are_over:
                raise HostError(self._why_still())
            self._events.next()

    def abandon(self) -> None:
        """Let go of everything as the death of the process would."""
        if self._brain is not None:
            self._brain.abandon()

    def close(self, run: Path) -> SimulationReport:
        """Seal the ledger, and sum up."""
        assert self._brain is not None
        self._brain.close()
        orders = LedgerReader(run).rows(("orders",))["orders"]
        repeated = [
            self._spent[row["order"]] for row in orders if row["kind"] == "recovery" and row["order"] in self._spent
        ]
        busy_s, watts = sum(self._spent.values()), self._world.watts
        return SimulationReport(
            makespan_s=self._events.now - self._begins_s,
            hosts=self._world.hosts,
            busy_s=busy_s,
            repeated_s=sum(repeated),
            lost_s=self._lost_s,
            joules=None if watts is None else watts * (busy_s + self._lost_s),
            events=self._events.num,
            orders=len(self._spent),
            recoveries=len(repeated),
            host_losses=self._num_host_losses,
            brain_losses=self._num_brain_losses,
            finished=self._brain.finished,
            best=self._brain.best,
        )

    def _why_still(self) -> str:
        tokens = sorted(token for token, hosts in self._waiting.items() if hosts)
        up = sum(host.is_up for host in self._hosts)
        wait = f"a host waits for the state {tokens[0]}, which nobody brings" if tokens else "nobody has anything to do"
        return (
            f"the simulated sweep stands still after {self._events.now - self._begins_s:g} s: {wait}; "
            f"{up} of {len(self._hosts)} hosts are left. Give the world more hosts, or a repair_s."
        )

    def _changed(self) -> None:
        self._has_changed = True

    # --------------------------------------------------------------------------------------------------- the brain

    def _build_brain(self, *, is_restarted: bool) -> None:
        self._exchange = _Exchange(self._events, self._world, self._store, self._published)
        self._waiting = {}
        self._brain = self._make_brain(self._exchange, self._events.clock, is_restarted)
        self._exchange.brain = self._brain
        self._brain.start()
        if self._is_stopping:
            self._brain.stop()
        self._free_stacks = list(range(self._brain.num_stacks))
        self._changed()

    def _lose_brain(self) -> None:
        if self._brain is None:
            return
        self._num_brain_losses += 1
        self._brain.abandon()
        self._brain = self._exchange.brain = None
        for host in self._hosts:
            self._lose(host)
        self._events.after(self._world.restart_s, lambda: self._build_brain(is_restarted=True))

    def _stop(self) -> None:
        self._is_stopping = True
        if self._brain is not None:
            self._brain.stop()
            self._changed()

    # --------------------------------------------------------------------------------------------------- accidents

    def _plan_accidents(self) -> None:
        world = self._world
        for when, number in world.losses:
            self._accident(when, lambda host=self._hosts[number]: self._lose_host(host))  # type: ignore[misc]
        for when in world.brain_losses:
            self._accident(when, self._lose_brain)
        if world.stop_at is not None:
            self._accident(world.stop_at, self._stop)
        if world.losses_per_day:
            for host in self._hosts:
                self._plan_loss(host, 0)

    def _accident(self, when: float, what: Callable[[], None]) -> None:
        self._events.after(when - self._events.now, what, is_accident=True)

    def _plan_loss(self, host: _Host, number: int) -> None:
        wait = generator(self._world.seed, "loss", host.number, number).exponential(_DAY_S / self._world.losses_per_day)

        def happen() -> None:
            self._lose_host(host)
            self._plan_loss(host, number + 1)

        self._events.after(wait, happen, is_accident=True)

    def _lose_host(self, host: _Host) -> None:
        if not host.is_up:
            return
        self._num_host_losses += 1
        host.is_up = False
        stacks, brain, world = tuple(host.stacks), self._brain, self._world
        self._lose(host)
        self._events.after(world.detection_s, lambda: self._hear_of_loss(brain, host, stacks))
        if world.repair_s is not None:
            self._events.after(max(world.repair_s, world.detection_s), lambda: self._repair(host))

    def _lose(self, host: _Host) -> None:
        """What a host holds is gone."""
        if host.turn and host.turn[0].began is not None:
            self._lost_s += self._events.now - host.turn[0].began
        self._lost_s += host.lose_everything()
        self._waiting = {
            token: [other for other in hosts if other is not host] for token, hosts in self._waiting.items()
        }

    def _hear_of_loss(self, brain: Brain | None, host: _Host, stacks: Sequence[int]) -> None:
        if brain is None or brain is not self._brain or not stacks:
            return
        for stack in stacks:
            heapq.heappush(self._free_stacks, stack)
        brain.lost(stacks, f"host {host.number} was lost")
        blocked = [host for hosts in self._waiting.values() for host in hosts]
        self._waiting = {}
        for other in blocked:
            self._go_on(other)  # it may wait for what nobody brings any more
        self._changed()

    def _repair(self, host: _Host) -> None:
        host.is_up = True
        self._changed()

    # ------------------------------------------------------------------------------------------------------- hosts

    def _dispatch(self) -> None:
        """Let hosts that have nothing to do ask, if there may be something new."""
        while self._has_changed and self._brain is not None:
            self._has_changed = False
            for host in self._hosts:
                if host.is_up and host.is_free:
                    self._ask(host, self._brain)

    def _ask(self, host: _Host, brain: Brain) -> None:
        orders = brain.orders(host.stacks)
        seconds = self._world.latency_s
        while not orders and self._free_stacks and not brain.done:
            stack = heapq.heappop(self._free_stacks)
            self._build(host, stack)
            seconds += self._world.build_s
            orders = brain.orders([stack])
        if orders:
            self._changed()  # others may have waited for what they publish
            host.is_free, host.asked = False, self._events.now
            self._for(host, seconds, lambda: self._take_turn(host, orders))

    def _build(self, host: _Host, stack: int) -> None:
        assert self._brain is not None
        item = self._brain.to_build(stack)
        place, _ = settled(item, self._trainable, self._bucket, self._place, None)
        host.stacks[stack] = self._trainable.build(self._bucket, item.capacity, place)

    def _for(self, host: _Host, seconds: float, what: Callable[[], None]) -> None:
        """Let something happen, unless the host has lost everything by then."""
        life = host.life
        self._events.after(seconds, lambda: what() if host.life == life else None)

    def _take_turn(self, host: _Host, orders: Sequence[WorkOrder]) -> None:
        host.turn.extend(_Task(order) for order in orders)
        for order in orders:
            publish(host.stacks[order.stack], order, self._exchange)
        self._go_on(host)

    def _published(self, token: str) -> None:
        for host in self._waiting.pop(token, ()):
            self._go_on(host)

    def _go_on(self, host: _Host) -> None:
        """Begin the next order of the turn, wait for what it needs, or report."""
        while host.turn and host.turn[0].began is None:
            task = host.turn[0]
            missing = sorted(token for token in task.needs if token not in self._exchange)
            if not missing:
                self._begin(host, task)
                return
            assert self._brain is not None
            if self._brain.is_to_wait(task.order.stack, task.order.id, missing[0]):
                self._waiting.setdefault(missing[0], []).append(host)
                return
            host.turn.popleft()
        if not host.turn and not host.is_free:
            self._for(host, self._world.latency_s, lambda: self._report(host))

    def _begin(self, host: _Host, task: _Task) -> None:
        world, order, stack = self._world, task.order, host.stacks[task.order.stack]
        fetched = _Fetched({token: self._exchange.fetch(token) for token in task.needs})
        self._num_begun += 1
        rng = generator(world.seed, "order", self._num_begun)
        factor = world.slow_hosts.get(host.number, 1.0)
        if rng.random() < world.straggler_rate:
            factor *= world.straggler_factor
        step_s = factor * (
            world.step_s if isinstance(world.step_s, int | float) else world.step_s(order.stack, order, rng)
        )
        fetch_s = world.fetch_s * len(order.fetch)
        order, steps = _in_time(stack, order, step_s, self._events.now + fetch_s - host.asked)
        evaluation_s = factor * world.evaluation_s * (bool(order.train) + len(order.examine))
        task.began, task.takes = self._events.now, fetch_s + step_s * steps + evaluation_s
        self._for(host, task.takes, lambda: self._end(host, order, fetched, evaluation_s))

    def _end(self, host: _Host, order: WorkOrder, fetched: _Fetched, evaluation_s: float) -> None:
        task, watts = host.turn.popleft(), self._world.watts
        report = attempt(host.stacks[order.stack], order, fetched)
        assert report is not None  # what it was to fetch is there
        if report.trouble is not None:
            self._build(host, order.stack)
        report = dataclasses.replace(
            report,
            wall_s=task.takes,
            evaluation_s=evaluation_s,
            training_s=None,  # what this machine took says nothing of the world
            joules=None if watts is None else watts * task.takes,
            segments=tuple(self._or_failed(result) for result in report.segments),
        )
        host.done.append((task, report))
        self._go_on(host)

    def _or_failed(self, result: SegmentResult) -> SegmentResult:
        world, where = self._world, (result.member, result.segment)
        reason = world.failures.get(where)
        if reason is None and _is_drawn(world.failure_rate, world.seed, "failure", *where):
            reason = "it was its fate"
        if reason is None or result.failure is not None:
            return result
        return dataclasses.replace(result, training={}, evaluation={}, failure=reason)

    def _report(self, host: _Host) -> None:
        assert self._brain is not None
        done, host.done, host.is_free = host.done, [], True
        for task, report in done:
            self._spent[report.order] = task.takes
        self._brain.report([report for _, report in done])
        self._changed()


def _in_time(stack: Stack, order: WorkOrder, step_s: float, gone_s: float) -> tuple[WorkOrder, int]:
    """The order without its deadline, cut to what is done by then; and how many steps that takes."""
    begins = {item.slot: item.consumed for item in order.fetch}
    begins |= {item.slot: item.consumed for item in order.admit}
    begins |= {item.slot: stack.progress(item.slot)[1] for item in order.train if item.slot not in begins}
    left_s = math.inf if order.stop_after_s is None or step_s <= 0.0 else order.stop_after_s - gone_s
    most = max(0.0, left_s // step_s) if left_s < math.inf else math.inf
    train = tuple(
        item
        if item.until - begins[item.slot] <= most
        else dataclasses.replace(item, until=begins[item.slot] + int(most))
        for item in order.train
    )
    steps = max((item.until - begins[item.slot] for item in train), default=0)
    return dataclasses.replace(order, train=train, stop_after_s=None), max(0, steps)


def _is_drawn(probability: float, seed: int, purpose: str, *ids: int) -> bool:
    return probability > 0.0 and bool(generator(seed, purpose, *ids).random() < probability)
