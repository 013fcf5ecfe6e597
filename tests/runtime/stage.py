"""A stage on which a sweep is played by hand: one thread, every order, report and loss where the test wants it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.runs import make_run
from pbt.runtime.brain import Brain
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.exchange import LocalExchange
from pbt.runtime.orders import SegmentResult, StackReport, WorkOrder, carry_out, publish
from pbt.runtime.plan import Session
from pbt.spec import Budget, Checkpoints
from pbt.strategy import Action, Event, StrategyOptions, Task, Together
from searchspaces import Space
from tests.runtime.miniature import SPACE, Clear, ClearStack, make_plan


class Clock:
    """Seconds, in the hands of the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Script:
    """A strategy that answers each event by its id, from a script, and remembers what it heard.

    Attributes:
        heard: Every event.
        moments: Their ids, those that were told together in one tuple.
    """

    def __init__(self, answers: Mapping[str, Sequence[Action]]) -> None:
        self._answers = answers
        self.heard: list[Event] = []
        self.moments: list[tuple[str, ...]] = []

    def handle(self, events: Sequence[Event]) -> list[Action]:
        told = [event.reports if isinstance(event, Together) else (event,) for event in events]
        self.heard += [event for moment in told for event in moment]
        self.moments += [tuple(event.id for event in moment) for moment in told]
        return [action for moment in told for event in moment for action in self._answers.get(event.id, ())]


class Shelf:
    """Published states and checkpoints of a run. What is to be saved waits until it is told.

    Attributes:
        calls: Everything the brain asked for, as `(what, token or digest)`.
        told: What was to be remembered with each state that was to be saved, by token.
        is_full: Whether nothing can be saved.
        is_slow: Whether nothing is saved for the time being.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.exchange = LocalExchange()
        self.store = CheckpointStore(run / "checkpoints")
        self.calls: list[tuple[str, str]] = []
        self.told: dict[str, Mapping[str, Any]] = {}
        self.waiting: list[str] = []
        self.withdrawn: set[str] = set()
        self.is_full = self.is_slow = False

    def offer(self, token: str, digest: str) -> None:
        self.calls.append(("offer", token))
        self.exchange.publish(token, self.store.load(digest))

    def save(self, token: str, about: Mapping[str, Any]) -> None:
        self.calls.append(("save", token))
        self.told[token] = about
        self.waiting.append(token)

    def withdraw(self, token: str) -> None:
        self.calls.append(("withdraw", token))
        self.withdrawn.add(token)

    def drop(self, token: str) -> None:
        self.calls.append(("drop", token))
        self.exchange.drop(token)

    def remove(self, digest: str) -> None:
        self.calls.append(("remove", digest))
        self.store.remove(digest)

    def keep(self, digests: Set[str]) -> None:
        self.store.keep(digests)

    def tell(self, brain: Brain) -> None:
        """Save what is there, and say so."""
        there = () if self.is_slow else self.exchange
        for token in [token for token in self.waiting if token in there or token in self.withdrawn]:
            self.waiting.remove(token)
            if token not in self.exchange:
                self.withdrawn.discard(token)
                brain.not_saved(token, "it was lost.")
            elif self.is_full:
                brain.not_saved(token, "cannot write: the disk is full.")
            else:
                brain.saved(token, self.store.save(self.exchange.fetch(token), self.told[token]))

    def asked(self, what: str) -> list[str]:
        """What was asked for of one kind, in order."""
        return [name for call, name in self.calls if call == what]


class Stage:
    """A sweep of a `Clear` trainable, its brain and its stacks.

    Args:
        run: The run's folder; an existing one is taken up.
        options: Of the strategy.
        clock: The brain's.
        ledger: Makes the ledger.
        extend: Spec and slots of an extension, as in `Session`.
        limits: Of the budget.
        (others): As in a sweep.
    """

    def __init__(
        self,
        run: Path,
        options: StrategyOptions,
        *,
        members: int = 4,
        generations: int = 3,
        steps: int = 10,
        stacks: int = 2,
        seed: int = 0,
        space: Space = SPACE,
        checkpoints: Checkpoints | None = None,
        trainable: Clear | None = None,
        clock: Clock | None = None,
        ledger: Callable[..., Ledger] = Ledger,
        extension: tuple[int, str] | None = None,
        extend: Callable[[Mapping[str, Any]], Task] | None = None,
        split: str = "validation",
        **limits: Any,
    ) -> None:
        self.run, self.trainable, self.clock = run, trainable or Clear(), clock or Clock()
        budget = Budget(members=members, generations=generations, steps=steps, **limits)
        again = (run / "ledger").exists()
        plan = make_plan(
            self.trainable,
            budget,
            stacks,
            checkpoints=checkpoints or Checkpoints(),
            synchronous=getattr(options, "synchronous", True),
            session=Session(reason="resume" if again else "start", extension=extension),
            extend=extend,
            split=split,
        )
        self.strategy = options.begin(Task(space=space, metric="Q", mode="max", budget=budget, seed=seed))
        self.shelf = Shelf(run)
        self.ledger = ledger(run, existing=again)
        self.brain = Brain(plan, self.strategy, self.ledger, self.shelf, self.clock)
        self.taken: dict[int, WorkOrder] = {}
        self.released: list[WorkOrder] = []
        self.publisher: dict[str, int] = {}
        self.leaving: set[int] = set()
        self.brain.start()
        self.stacks: dict[int, ClearStack] = {stack: self._build(stack) for stack in range(self.brain.num_stacks)}

    def _build(self, stack: int) -> ClearStack:
        return self.trainable.build("clear", self.brain.capacity(stack), None)  # type: ignore[arg-type]

    def take(self, stacks: Iterable[int] | None = None) -> list[WorkOrder]:
        """Have these stacks (all, if none are named) ask for work; what they publish is published at once."""
        asking = [stack for stack in (self.stacks if stacks is None else stacks) if stack not in self.taken]
        orders = self.brain.orders(asking)
        for order in orders:
            publish(self.stacks[order.stack], order, self.shelf.exchange)
            self.publisher |= {item.token: order.stack for item in order.publish}
            self.taken[order.stack] = order
        self.released += orders
        return orders

    @property
    def ready(self) -> list[int]:
        """Stacks whose order can be carried out: what it fetches is there."""
        return [
            stack
            for stack, order in sorted(self.taken.items())
            if all(item.token in self.shelf.exchange for item in order.fetch)
        ]

    def carry_out(self, stack: int) -> StackReport:
        """Carry out the order of a stack, without a report."""
        return carry_out(self.stacks[stack], self.taken[stack], self.shelf.exchange)

    def do(self, stack: int) -> None:
        """Carry out the order of a stack, and report."""
        report = self.carry_out(stack)
        del self.taken[stack]
        self.brain.report([report])

    def lose(self, *stacks: int, with_states: bool = False) -> None:
        """Lose the hosts of these stacks, and have others come up, with nothing in them.

        Args:
            stacks: Which.
            with_states: Whether what they had published is lost as well.
        """
        for stack in stacks:
            self.taken.pop(stack, None)
            self.leaving.discard(stack)
            self.stacks[stack] = self._build(stack)
        self._lose(stacks, {token for token, stack in self.publisher.items() if with_states and stack in stacks})

    def lose_states(self) -> None:
        """What was published by orders that are done is gone, with hosts that have no stacks any more."""
        at_work = {item.token for order in self.taken.values() for item in order.publish}
        self._lose((), self.publisher.keys() - at_work)

    def _lose(self, stacks: Sequence[int], tokens: Set[str]) -> None:
        gone = sorted(token for token in tokens if token in self.shelf.exchange)
        for token in gone:
            self.shelf.exchange.drop(token)
        self.brain.lost(stacks, "the node is gone", gone)
        for stack, order in list(self.taken.items()):
            missing = [item.token for item in order.fetch if item.token not in self.shelf.exchange]
            if not all(self.brain.is_to_wait(order.stack, order.id, token) for token in missing):
                del self.taken[stack]

    def forgo(self, *stacks: int) -> None:
        """Have the hosts of these stacks give the orders back that they have taken."""
        self.brain.forgo([(stack, self.taken.pop(stack).id) for stack in stacks])

    def move(self, *stacks: int) -> None:
        """Have stacks built elsewhere, as soon as they can go."""
        self.leaving |= set(stacks)
        for stack in stacks:
            self.brain.release(stack)

    def _let_go(self) -> None:
        for stack in [stack for stack in self.leaving if self.brain.is_released(stack)]:
            self.leaving.discard(stack)
            self.stacks[stack] = self._build(stack)
            self.brain.moved(stack, "there is more room elsewhere")
            self.take()

    def turn(self, choose: Callable[[Sequence[int]], int] = min) -> None:
        """Everybody asks for work, and one stack does what it was told.

        Args:
            choose: Which of those that can.
        """
        self.take()
        self.shelf.tell(self.brain)
        self._let_go()
        if not self.brain.done:
            assert self.ready, "the sweep hangs"
            self.do(choose(self.ready))
            self.shelf.tell(self.brain)

    def play(self, choose: Callable[[Sequence[int]], int] = min) -> Stage:
        """Go on to the end, and close."""
        while not self.brain.done:
            self.turn(choose)
        self.brain.close()
        return self

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table of the ledger as it is on disk, without times."""
        return rows(self.run, table)

    def digest(self) -> str:
        """Of the ledger."""
        return LedgerReader(self.run).digest()


def rows(run: Path, table: str) -> list[dict[str, Any]]:
    """A table of a ledger as it is on disk, without times."""
    found = LedgerReader(run).rows((table,))[table]
    return [{name: value for name, value in row.items() if name != "at"} for row in found]


def new_run(storage: Path) -> Path:
    """A run's folder."""
    return make_run(storage, "stage", {}).path


def photographs(run: Path, album: Path) -> Callable[..., Ledger]:
    """A ledger that, at each commit, copies the run's folder to `album/0000`, `album/0001`, ...

    What a process that died there would have left behind.
    """

    class Photographed(Ledger):
        def commit(self) -> None:
            num = self._pending
            super().commit()
            if num:
                shutil.copytree(run, album / f"{len(list(album.glob('*'))):04d}")

    album.mkdir(exist_ok=True)
    return Photographed


def ended(order: WorkOrder, scores: Mapping[int, float], wall_s: float = 2.0, **changes: Any) -> StackReport:
    """The report of a stack on which everything went well."""
    results = [
        SegmentResult(
            member=item.member,
            segment=item.segment,
            age=item.until,
            consumed=item.until,
            held=item.hparams,
            training={"loss": 0.5},
            evaluation={"Q": scores[item.member], "other": 1.0},
        )
        for item in order.train
    ]
    return StackReport(order=order.id, stack=order.stack, wall_s=wall_s, segments=tuple(results), **changes)
