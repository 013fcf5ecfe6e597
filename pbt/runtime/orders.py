"""What the brain tells a stack to do, what the stack says back, and how an order is carried out.

Hosts of every kind share `perform`: publish what others will need, then change, verify, train and evaluate. They keep
no state of their own besides the stacks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pbt.errors import HparamMismatch
from pbt.member import Hparams
from pbt.runtime.exchange import Exchange
from trainables.base import Metrics, Stack


@dataclass(frozen=True, slots=True)
class Publish:
    """Make a slot's state available to `readers` readers under `token`, before anything is changed."""

    slot: int
    token: str
    readers: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Take the state published under `token` into a slot; seed, `consumed` and hyperparameters stay the receiver's."""

    slot: int
    token: str
    hparams: Hparams
    seed: int
    consumed: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Put a fresh member into a slot."""

    slot: int
    hparams: Hparams
    seed: int
    consumed: int


@dataclass(frozen=True, slots=True)
class Train:
    """Train a slot's member until its `consumed` reaches `until`; `hparams` must be in effect."""

    slot: int
    member: int
    segment: int
    until: int
    hparams: Hparams


@dataclass(frozen=True, slots=True)
class Examine:
    """Evaluate a slot's member on a split, without training it."""

    slot: int
    member: int
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """One turn of one stack. Its parts are carried out in the order of the fields.

    Attributes:
        id: Unique in the sweep; a report names the order it answers.
        stack: Which stack.
        publish: States other stacks (or the checkpoint store) will read.
        copy: Exploits inside the stack, `(source slot, target slot)`; all reads before all writes.
        fetch: Exploits from other stacks.
        admit: Fresh members.
        set: Changed hyperparameters, `(slot, values)`.
        train: Segments to run, all at once.
        split: The split trained members are evaluated on.
        examine: Further evaluations.
    """

    id: str
    stack: int
    split: str
    publish: tuple[Publish, ...] = ()
    copy: tuple[tuple[int, int], ...] = ()
    fetch: tuple[Fetch, ...] = ()
    admit: tuple[Admit, ...] = ()
    set: tuple[tuple[int, Hparams], ...] = ()
    train: tuple[Train, ...] = ()
    examine: tuple[Examine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentResult:
    """How a segment ended.

    Attributes:
        member: Who.
        segment: Which segment.
        age: Steps in the ancestry of the weights.
        consumed: Steps the member ran itself.
        held: Hyperparameters read back from the device before training.
        training: Means over the segment's steps, by name.
        evaluation: Metrics on the objective's split, by name.
        failure: Why the member was stopped, or None.
    """

    member: int
    segment: int
    age: int
    consumed: int
    held: Hparams
    training: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """The answer to `Examine`."""

    member: int
    split: str
    age: int
    consumed: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackReport:
    """The answer to a work order."""

    order: str
    stack: int
    wall_s: float
    segments: tuple[SegmentResult, ...] = ()
    examinations: tuple[Examination, ...] = ()


Stacks: TypeAlias = Mapping[int, Stack]


def perform(
    stacks: Stacks, orders: Sequence[WorkOrder], exchange: Exchange, executor: Executor | None = None
) -> list[StackReport]:
    """Carry out the orders of all stacks of one host.

    All stacks publish first: an order may fetch what another order of the same host publishes.

    Args:
        stacks: The host's stacks by number.
        orders: At most one for each stack.
        exchange: Where states are published and fetched.
        executor: Runs the stacks side by side; None runs them one after another.
    """
    for order in orders:
        for item in order.publish:
            exchange.publish(item.token, stacks[order.stack].state(item.slot), item.readers)
    if executor is None:
        return [_turn(stacks[order.stack], order, exchange) for order in orders]
    return list(executor.map(lambda order: _turn(stacks[order.stack], order, exchange), orders))


def _turn(stack: Stack, order: WorkOrder, exchange: Exchange) -> StackReport:
    began = time.perf_counter()
    _change(stack, order, exchange)
    segments = _train(stack, order)
    examinations = tuple(_examine(stack, item) for item in order.examine)
    return StackReport(
        order=order.id,
        stack=order.stack,
        wall_s=time.perf_counter() - began,
        segments=segments,
        examinations=examinations,
    )


def _change(stack: Stack, order: WorkOrder, exchange: Exchange) -> None:
    if order.copy:
        stack.copy([source for source, _ in order.copy], [target for _, target in order.copy])
    for item in order.fetch:
        stack.admit(item.slot, item.hparams, item.seed, exchange.fetch(item.token), item.consumed)
    for fresh in order.admit:
        stack.admit(fresh.slot, fresh.hparams, fresh.seed, None, fresh.consumed)
    for slot, hparams in order.set:
        stack.set_hparams([slot], **{name: [value] for name, value in hparams.items()})


def _train(stack: Stack, order: WorkOrder) -> tuple[SegmentResult, ...]:
    held = {item.slot: stack.hparams(item.slot) for item in order.train}
    failures = {item.slot: mismatch(item, held[item.slot]) for item in order.train}
    running = [item for item in order.train if failures[item.slot] is None]
    training: Metrics = {}
    evaluation: Metrics = {}
    if running:
        until = [0] * stack.capacity
        for item in running:
            until[item.slot] = item.until
        training = stack.run(until)
        evaluation = stack.evaluate(order.split, [item.slot for item in running])  # type: ignore[arg-type]
    return tuple(
        _result(stack, item, held[item.slot], training, evaluation, failures[item.slot]) for item in order.train
    )


def _result(
    stack: Stack, item: Train, held: Hparams, training: Metrics, evaluation: Metrics, failure: HparamMismatch | None
) -> SegmentResult:
    age, consumed = stack.progress(item.slot)
    return SegmentResult(
        member=item.member,
        segment=item.segment,
        age=age,
        consumed=consumed,
        held=held,
        training={} if failure else _of_slot(training, item.slot),
        evaluation={} if failure else _of_slot(evaluation, item.slot),
        failure=str(failure) if failure else None,
    )


def _examine(stack: Stack, item: Examine) -> Examination:
    metrics = _of_slot(stack.evaluate(item.split, [item.slot]), item.slot)  # type: ignore[arg-type]
    age, consumed = stack.progress(item.slot)
    return Examination(member=item.member, split=item.split, age=age, consumed=consumed, metrics=metrics)


def _of_slot(metrics: Metrics, slot: int) -> dict[str, float]:
    return {name: float(values[slot]) for name, values in metrics.items()}


def mismatch(item: Train, held: Hparams) -> HparamMismatch | None:
    """The first hyperparameter whose value on the device is not the one ordered; None if all are in effect.

    A stack may hold float32: values are compared to one part in a million.
    """
    for name, wanted in item.hparams.items():
        if not _same(wanted, held.get(name)):
            return HparamMismatch(item.member, name, wanted, held.get(name))
    return None


def _same(wanted: Any, got: Any) -> bool:
    numbers = (int, float)
    if isinstance(wanted, numbers) and isinstance(got, numbers):
        return math.isclose(wanted, got, rel_tol=1e-6)
    return bool(wanted == got)
