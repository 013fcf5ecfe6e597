"""Sweeps in miniature: stacks that are transparent, and the real brain on the host of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pbt.member import lay_out
from pbt.record.ledger import Ledger
from pbt.record.result import Result, load
from pbt.record.runs import make_run
from pbt.runtime.brain import Brain
from pbt.runtime.local import run_local
from pbt.runtime.plan import Plan, Session
from pbt.spec import Budget, Checkpoints
from pbt.strategy import StrategyOptions, Task
from searchspaces import Float, Space
from trainables import Capabilities, HparamSpec, MetricSpec, Place, Shard, State, Trainable

#: The hyperparameters of a `ClearStack`.
DEFAULTS = {"gain": 1.0, "lr": 0.5}
SPACE = Space({"gain": Float(0.0, 10.0)})


@dataclass
class _Seat:
    hparams: dict[str, Any]
    weight: float
    age: int
    consumed: int
    seed: int


class ClearStack:
    """A stack one can see through: each step adds `gain` to a member's weight, and `Q` is the weight.

    Args:
        capacity: Number of slots.
        number: Which stack, for the journal.
        journal: Takes `(number, call, arguments)` of every call.
        deaf: Hyperparameters that `set_hparams` silently ignores.
        diverged: Seeds of members whose `Q` is NaN.
    """

    def __init__(
        self,
        capacity: int,
        number: int = 0,
        journal: list[tuple[int, str, Any]] | None = None,
        deaf: Sequence[str] = (),
        diverged: Sequence[int] = (),
    ) -> None:
        self.capacity = capacity
        self.seats: list[_Seat | None] = [None] * capacity
        self._number, self._journal = number, journal if journal is not None else []
        self._deaf, self._diverged = deaf, diverged

    def admit(
        self,
        slot: int,
        hparams: Mapping[str, Any],
        seed: int,
        state: State | None = None,
        consumed: int | None = None,
    ) -> None:
        self._note("admit", (slot, dict(hparams), seed, None if state is None else weight_of(state), consumed))
        weight, age, own = (0.0, 0, 0) if state is None else (weight_of(state), state.age, state.consumed)
        self.seats[slot] = _Seat({**DEFAULTS, **hparams}, weight, age, own if consumed is None else consumed, seed)

    def evict(self, slot: int) -> State:
        state, self.seats[slot] = self.state(slot), None
        return state

    def run(self, until: Sequence[int]) -> dict[str, np.ndarray]:
        self._note("run", list(until))
        for seat, target in zip(self.seats, until, strict=True):
            if seat is not None and target > seat.consumed:
                steps = target - seat.consumed
                seat.weight += seat.hparams["gain"] * steps
                seat.age, seat.consumed = seat.age + steps, target
        return {"loss": np.array([float(slot) for slot in range(self.capacity)])}

    def evaluate(self, split: str, slots: Sequence[int]) -> dict[str, np.ndarray]:
        self._note("evaluate", (split, list(slots)))
        values = np.full(self.capacity, np.nan)
        for slot in slots:
            seat = self._seat(slot)
            values[slot] = np.nan if seat.seed in self._diverged else seat.weight
        return {"Q": values}

    def hparams(self, slot: int) -> dict[str, Any]:
        self._note("hparams", slot)
        return dict(self._seat(slot).hparams)

    def set_hparams(self, slots: Sequence[int], **values: Sequence[Any]) -> None:
        self._note("set", (list(slots), {name: list(column) for name, column in values.items()}))
        for name, column in values.items():
            for slot, value in zip(slots, column, strict=True):
                if name not in self._deaf:
                    self._seat(slot).hparams[name] = value

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        self._note("copy", (list(src), list(dst)))
        read = [(self._seat(slot).weight, self._seat(slot).age) for slot in src]
        for slot, (weight, age) in zip(dst, read, strict=True):
            seat = self._seat(slot)
            seat.weight, seat.age = weight, age

    def state(self, slot: int) -> State:
        self._note("state", slot)
        seat = self._seat(slot)
        return make_state(seat.weight, seat.age, seat.consumed, seat.seed)

    def progress(self, slot: int) -> tuple[int, int]:
        seat = self._seat(slot)
        return seat.age, seat.consumed

    def _seat(self, slot: int) -> _Seat:
        seat = self.seats[slot]
        assert seat is not None, f"slot {slot} is empty"
        return seat

    def _note(self, call: str, arguments: Any) -> None:
        self._journal.append((self._number, call, arguments))


def make_state(weight: float, age: int = 0, consumed: int = 0, seed: int = 0) -> State:
    """The state of a member of a `ClearStack`."""
    return State((Shard.whole("params.weight", torch.tensor(weight, dtype=torch.float64)),), age, consumed, seed)


def weight_of(state: State) -> float:
    """The weight in a state."""
    return float(state.shards[0].tensor)


@dataclass
class Clear:
    """A trainable of `ClearStack`s. Stacks are numbered in the order in which they are built."""

    deaf: Sequence[str] = ()
    journal: list[tuple[int, str, Any]] = field(default_factory=list)
    built: list[ClearStack] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def describe(self) -> Capabilities:
        self.threads.add(torch.get_num_threads())
        return Capabilities(
            metrics={"Q": MetricSpec(mode="max")},
            hparams={name: HparamSpec(kind="live", default=value) for name, value in DEFAULTS.items()},
            tokens_per_step=7,
        )

    def bucket(self, hparams: Mapping[str, Any]) -> str:
        return "clear"

    def build(self, bucket: str, capacity: int, place: Place) -> ClearStack:
        self.threads.add(torch.get_num_threads())
        self.built.append(ClearStack(capacity, len(self.built), self.journal, self.deaf))
        return self.built[-1]


def make_plan(trainable: Trainable, budget: Budget, stacks: int, split: str = "validation", **changes: Any) -> Plan:
    """The brain's fixed facts."""
    described = trainable.describe()
    return Plan(
        slots=lay_out(budget.members, stacks),
        bucket=trainable.bucket({}),
        defaults={name: spec.default for name, spec in described.hparams.items()},
        metric="Q",
        split=split,
        tokens_per_step=described.tokens_per_step,
        budget=budget,
        **changes,
    )


def train(
    storage: Path,
    options: StrategyOptions,
    *,
    trainable: Trainable | None = None,
    space: Space = SPACE,
    members: int = 4,
    generations: int = 3,
    steps: int = 10,
    seed: int = 0,
    stacks: int = 1,
    dtype: str = "float64",
    again: Path | None = None,
    is_to_stop: Callable[[], bool] = lambda: False,
    checkpoints: Checkpoints | None = None,
    patience_s: float = 0.0,
    **limits: Any,
) -> Result:
    """Run a sweep on the host of this process, through the real brain and ledger.

    Args:
        storage: Where the run's folder is made.
        again: A run's folder, to go on with that run instead.
        patience_s: Of the ledger.
        limits: Of the budget.
        (others): As in a sweep.
    """
    trainable = trainable or Clear()
    path = again or make_run(storage, "miniature", {}).path
    budget = Budget(members=members, generations=generations, steps=steps, **limits)
    task = Task(space=space, metric="Q", mode="max", budget=budget, seed=seed)
    session = Session(reason="resume" if again else "start")
    plan = make_plan(
        trainable,
        budget,
        stacks,
        session=session,
        checkpoints=checkpoints or Checkpoints(),
        synchronous=getattr(options, "synchronous", True),
    )
    run_local(
        lambda states: Brain(
            plan, options.begin(task), Ledger(path, existing=again is not None, patience_s=patience_s), states
        ),
        run=path,
        trainable=trainable,
        bucket=trainable.bucket({}),
        place=Place(dtype=dtype, compile="never"),
        is_to_stop=is_to_stop,
    )
    return load(path)


def in_time(seconds: float, work: Callable[[], Any]) -> Any:
    """The result of `work()`, or a failure if it hangs."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(timeout=seconds)
