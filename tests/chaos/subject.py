"""The sweep that is killed: small, and with everything in it that can go wrong by itself.

Six members on three stacks copy from each other across stacks; a learning rate makes some of them diverge; one fails;
checkpoints are written and removed. Its digest, and more, must come out the same however often it dies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pbt.errors import StorageError
from pbt.member import lay_out, member_seed
from pbt.population import PBT
from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.schema import canonical
from pbt.record.validity import violations
from pbt.runtime.brain import Brain
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.local import run_local
from pbt.runtime.plan import Plan, Session
from pbt.runtime.simulated import Clock, SimulatedTrainable, SimulationReport, World, simulate
from pbt.runtime.states import States
from pbt.spec import Budget, Checkpoints
from pbt.strategy import Task
from searchspaces import Float, Space
from trainables import Capabilities, Place, Stack
from trainables.base import Metrics, Split

#: The first diverges; the second is copied.
INITIAL = ({"lr": 2.9}, {"lr": 1.0})
SEED = 21
SPACE = Space({"lr": Float(1e-3, 3.0, log=True)})
#: What the extension changes.
MORE = {"members": 8, "generations": 5}
#: Nothing goes wrong, and nothing takes long.
CALM = World(hosts=2, evaluation_s=1.0, fetch_s=0.5, save_s=3.0)


@dataclass(frozen=True)
class Subject:
    """A sweep in a folder.

    Attributes:
        run: The folder.
        synchronous: Whether its members wait for each other.
        trainable: What is trained.
    """

    run: Path
    synchronous: bool = True
    trainable: Any = field(default_factory=lambda: TRAINABLE)
    members: int = 6
    generations: int = 4
    stacks: int = 3

    @cached_property
    def store(self) -> CheckpointStore:
        """Its checkpoints."""
        return CheckpointStore(self.run / "checkpoints")

    @property
    def reader(self) -> LedgerReader:
        """Its ledger."""
        return LedgerReader(self.run)

    @property
    def has_begun(self) -> bool:
        """Whether there is a ledger to go on with."""
        return (self.run / "ledger" / "manifest.json").exists()

    def simulate(self, world: World = CALM, **extension: int) -> SimulationReport:
        """Begin or go on, on simulated hosts."""
        self.run.mkdir(exist_ok=True)
        self.store.sweep_leftovers()

        def make_brain(states: States, clock: Clock, is_restarted: bool) -> Brain:
            return self._brain(states, extension, is_restarted=is_restarted, clock=clock)

        return simulate(make_brain, run=self.run, world=world, trainable=self.trainable, store=self.store)

    def train(self, **extension: int) -> None:
        """Begin or go on, in this process, one thread for each stack."""
        self.run.mkdir(exist_ok=True)
        brains: list[Brain] = []

        def make_brain(states: States) -> Brain:
            brains.append(self._brain(states, extension))
            return brains[-1]

        try:
            run_local(
                make_brain,
                run=self.run,
                trainable=self.trainable,
                bucket=TRAINABLE.bucket({}),
                place=Place(dtype="float64", compile="never"),
            )
        finally:
            for brain in brains:
                brain.abandon()  # of one that was killed, the lock

    def _brain(self, states: States, extension: Mapping[str, int], is_restarted: bool = False, **clock: Clock) -> Brain:
        """The brain, and its ledger, as `pbt.launch` makes them."""
        exists = self.has_begun
        reason = "restart" if is_restarted else "extend" if extension else "resume" if exists else "start"
        more = (1, canonical({"spec": extension, "slots": self._slots(extension)})) if extension else None
        plan = Plan(
            slots=lay_out(self.members, self.stacks),
            bucket=TRAINABLE.bucket({}),
            defaults={name: spec.default for name, spec in TRAINABLE.describe().hparams.items()},
            metric="loss",
            split="validation",
            tokens_per_step=1,
            budget=self.task({}).budget,
            synchronous=self.synchronous,
            checkpoints=Checkpoints(every_steps=10, every_minutes=None, keep=1),
            session=Session(reason=reason, extension=more),
            extend=self.task,
        )
        ledger = Ledger(self.run, *clock.values(), existing=exists)
        try:
            options = PBT(quantile=0.34, initial=INITIAL, synchronous=self.synchronous)
            return Brain(plan, options.begin(self.task({})), ledger, states, *clock.values())
        except BaseException:
            ledger.abandon()
            raise

    def task(self, extension: Mapping[str, Any]) -> Task:
        """What the strategy is told."""
        budget = Budget(**{"members": self.members, "generations": self.generations, "steps": 10, **extension})
        return Task(space=SPACE, metric="loss", mode="min", budget=budget, seed=SEED)

    def _slots(self, extension: Mapping[str, int]) -> list[list[int]]:
        """Newcomers sit on a stack of their own."""
        old = [[slot.stack, slot.index] for slot in lay_out(self.members, self.stacks)]
        return old + [[self.stacks, index] for index in range(extension["members"] - self.members)]

    # ------------------------------------------------------------------------------------------- what came of it

    def facts(self) -> dict[str, Any]:
        """All that does not depend on when things happened, or where."""
        rows = self.reader.rows()
        metrics = [row for row in rows["metrics"] if row["split"] != "system"]
        return {
            "digest": self.reader.digest(),
            "finished": self.reader.finished,
            "decisions": _told(rows["decisions"], "kind member donor segment hparams reason cause"),
            "outcomes": sorted(_told(rows["outcomes"], "member segment status consumed_end score reason")),
            "metrics": sorted(_told(metrics, "member segment split name value age consumed")),
        }

    def problems(self, **extension: int) -> list[str]:
        """What is wrong with the ledger, if anything; checkpoints are read."""
        return violations(self.reader.rows(), self._is_readable, self.task(extension).budget)

    def incidents(self) -> list[str]:
        """Kinds of what went wrong, in order."""
        return [row["kind"] for row in self.reader.rows(("incidents",))["incidents"]]

    def _is_readable(self, digest: str) -> bool:
        try:
            self.store.verify(digest)
        except StorageError:
            return False
        return True


@dataclass(frozen=True)
class Unsound:
    """Closed-form curves, whose arithmetic ends at 1000; what is set of member 4 after 10 steps is not in effect."""

    curves: SimulatedTrainable = field(default_factory=SimulatedTrainable)

    def describe(self) -> Capabilities:
        return self.curves.describe()

    def bucket(self, hparams: Mapping[str, Any]) -> str:
        return self.curves.bucket(hparams)

    def build(self, bucket: str, capacity: int, place: Place) -> Any:
        return _UnsoundStack(self.curves.build(bucket, capacity, place))


class _UnsoundStack:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        found = self._stack.evaluate(split, slots)
        return {name: np.where(values > 1000.0, np.nan, values) for name, values in found.items()}

    def hparams(self, slot: int) -> dict[str, Any]:
        state, found = self._stack.state(slot), self._stack.hparams(slot)
        unsound = state.seed == member_seed(SEED, 4) and state.consumed == 10
        return {"lr": -1.0} if unsound else found


TRAINABLE = Unsound()


def _told(rows: Sequence[Mapping[str, Any]], names: str) -> list[tuple[str, ...]]:
    return [tuple(str(row.get(name)) for name in names.split()) for row in rows]
