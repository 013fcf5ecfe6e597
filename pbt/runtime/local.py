"""The host that lives in this process: no Ray, one thread for each stack."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from pbt.runtime.brain import Brain
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.exchange import LocalExchange, Withdrawn
from pbt.runtime.orders import WorkOrder, attempt, publish, trouble_of
from pbt.runtime.planning import settled, unbuilt
from pbt.runtime.states import States, StoredStates
from pbt.runtime.telemetry import Telemetry
from trainables import Place, Stack, State, Trainable
from trainables.core.plan import Ahead

#: Seconds between two looks for somebody who wants the sweep to stop.
_LOOK_S = 0.2


def run_local(
    make_brain: Callable[[States], Brain],
    *,
    run: Path,
    trainable: Trainable,
    bucket: str,
    place: Place,
    ahead: Ahead | None = None,
    is_to_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run a sweep to its end in this process, or until it is stopped.

    Args:
        make_brain: Builds the brain, given what it does with published states.
        run: The run's folder.
        trainable: What is trained.
        bucket: The bucket of all stacks.
        place: Device and precision.
        ahead: What there is to train, for the planner; None plans nothing.
        is_to_stop: Asked now and then; once true, what is under way is finished and saved, and that is all.
    """
    store = CheckpointStore(run / "checkpoints")
    store.sweep_leftovers()
    changed = threading.Condition()

    def wake() -> None:
        with changed:
            changed.notify_all()

    exchange = LocalExchange()
    with closing(StoredStates(exchange, store, wake)) as states:
        brain = make_brain(states)
        with closing(_Host(brain, states, exchange, changed, place)) as host, _one_thread_each(place):
            brain.start()

            def build(number: int) -> Stack:
                with changed:
                    item = brain.to_build(number)
                own, new = settled(item, trainable, bucket, place, ahead)
                if new is not None:
                    with changed:
                        brain.planned(number, new)
                try:
                    return trainable.build(bucket, item.capacity, own)
                except Exception as error:
                    raise unbuilt(number, trouble_of(error).told, run) from error

            host.run({number: build(number) for number in range(brain.num_stacks)}, build, is_to_stop)


class _Host:
    """Threads, one a stack, that take turns at the brain.

    Args:
        brain: Used under the lock of `changed` only.
        states: Tells the brain how saving went.
        exchange: Where stacks leave states for each other.
        changed: Notified whenever there may be something new to do.
        place: Device and precision.
    """

    def __init__(
        self, brain: Brain, states: StoredStates, exchange: LocalExchange, changed: threading.Condition, place: Place
    ) -> None:
        self._brain, self._states, self._exchange, self._changed = brain, states, exchange, changed
        self._telemetry = Telemetry(place)
        self._error: BaseException | None = None
        self._is_over = False

    def run(self, stacks: Mapping[int, Stack], build: Callable[[int], Stack], is_to_stop: Callable[[], bool]) -> None:
        """Work until nothing is left to do. The first error of any thread is raised here.

        Args:
            stacks: By number.
            build: Builds one anew.
            is_to_stop: Asked now and then whether somebody wants the sweep to stop.
        """
        for number, stack in stacks.items():
            # Daemons: whoever presses Ctrl-C twice does not wait for the end of a segment.
            own = (number, stack, build)
            threading.Thread(target=self._work, args=own, name=f"stack-{number}", daemon=True).start()
        is_stopping = False
        with self._changed:
            while not (self._brain.done or self._error):
                self._states.tell(self._brain)
                if not is_stopping and is_to_stop():
                    is_stopping = True
                    self._brain.stop()
                    self._changed.notify_all()
                if not (self._brain.done or self._error):
                    self._changed.wait(timeout=_LOOK_S)
        if self._error:
            raise self._error

    def close(self) -> None:
        """Hear nothing more, and seal the ledger."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            self._states.tell(self._brain)
            self._brain.close()

    def _work(self, number: int, stack: Stack | None, build: Callable[[int], Stack]) -> None:
        try:
            while (order := self._next(number)) is not None:
                if stack is None:
                    stack = build(number)
                exchange = _Asking(self, order)
                publish(stack, order, exchange)
                report = attempt(stack, order, exchange, self._telemetry)
                if report is None:  # the order was taken back before it was begun with
                    continue
                if report.trouble is not None:
                    stack = None  # what it holds is not known, and its memory is free before another is built
                with self._changed:
                    if self._is_over:
                        return
                    self._brain.report([report])
                    self._changed.notify_all()
        except BaseException as error:  # raised again by `run`
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def publish(self, token: str, state: State) -> None:
        """Make a state available, and let those look who may wait for it."""
        with self._changed:
            self._exchange.publish(token, state)
            self._changed.notify_all()

    def fetch(self, token: str, order: WorkOrder) -> State:
        """Wait for a state that an order needs, for as long as the brain says so.

        Raises:
            Withdrawn: It will not come.
        """
        with self._changed:
            while token not in self._exchange:
                if self._is_over or self._error or not self._brain.is_to_wait(order.stack, order.id, token):
                    self._changed.notify_all()
                    raise Withdrawn
                self._changed.wait()
            state: State = self._exchange.fetch(token)
            return state

    def _next(self, number: int) -> WorkOrder | None:
        with self._changed:
            while not (self._is_over or self._brain.done or self._error):
                if orders := self._brain.orders([number]):
                    self._changed.notify_all()  # others may have waited for what it publishes
                    return orders[0]
                self._changed.wait()
        return None


@dataclass(frozen=True, slots=True)
class _Asking:
    """The exchange for one order."""

    host: _Host
    order: WorkOrder
    copies: ClassVar[bool] = False

    def publish(self, token: str, state: State) -> None:
        """Make a state available."""
        self.host.publish(token, state)

    def fetch(self, token: str) -> State:
        """Wait for a state."""
        return self.host.fetch(token, self.order)


def num_cores() -> int:
    """Cores this process may use, which in a container or a batch job are fewer than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


@contextmanager
def _one_thread_each(place: Place) -> Iterator[None]:
    """One intra-op thread per stack on a CPU, as on every other kind of host; the caller's setting comes back."""
    if torch.device(place.device).type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
