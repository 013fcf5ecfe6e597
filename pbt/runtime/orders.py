"""What the brain tells a stack to do, what the stack says back, and how an order is carried out.

Hosts of every kind share `publish`, what others will need, which is done as soon as the order is given, and `attempt`:
change, verify, train and evaluate. They keep no state of their own besides the stacks.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from pbt.errors import HostError, HparamMismatch, first_line
from pbt.member import Hparams, Shrinkage
from pbt.runtime.exchange import Exchange, Withdrawn
from pbt.runtime.frames import users_frame
from trainables import shrink_and_perturb
from trainables.base import Asking, Lending, Metrics, Sized, Stack


@dataclass(frozen=True, slots=True)
class Publish:
    """Make a slot's state available under `token`, before anything is changed; the brain drops it again."""

    slot: int
    token: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Take the state published under `token` into a slot; seed and `consumed` stay the receiver's.

    What weights are made for is among the hyperparameters: they cannot be taken in with others, and changed then.
    """

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
class Renew:
    """Shrink and perturb the weights in a slot, which then has these hyperparameters."""

    slot: int
    hparams: Hparams
    how: Shrinkage


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
        renew: Weights to be shrunk and perturbed.
        set: Changed hyperparameters, `(slot, values)`.
        train: Segments to run, all at once.
        split: The split trained members are evaluated on.
        examine: Further evaluations.
        stop_after_s: Seconds after it was given at which training is cut short, because a budget ends; None trains to
            the end.
    """

    id: str
    stack: int
    split: str
    publish: tuple[Publish, ...] = ()
    copy: tuple[tuple[int, int], ...] = ()
    fetch: tuple[Fetch, ...] = ()
    admit: tuple[Admit, ...] = ()
    renew: tuple[Renew, ...] = ()
    set: tuple[tuple[int, Hparams], ...] = ()
    train: tuple[Train, ...] = ()
    examine: tuple[Examine, ...] = ()
    stop_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentResult:
    """How a segment ended.

    Attributes:
        member: Who.
        segment: Which segment.
        age: Steps in the ancestry of the weights.
        consumed: Steps the member ran itself.
        held: Hyperparameters read back from the device before training, of those that were ordered; without those
            that the member could have asked for, and did not.
        unasked: Names of these.
        training: Means over the segment's steps, by name.
        evaluation: Metrics on the objective's split, by name.
        failure: Why the member was stopped, or None.
    """

    member: int
    segment: int
    age: int
    consumed: int
    held: Hparams
    unasked: tuple[str, ...] = ()
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
class Trouble:
    """An exception that broke an order off. What the stack holds since is not known.

    Attributes:
        message: The exception, in a line.
        traceback: All of it.
        is_memory: Whether the device had no room.
        is_lasting: Whether the process can use its device no more.
    """

    message: str
    traceback: str
    is_memory: bool = False
    is_lasting: bool = False

    @property
    def told(self) -> str:
        """The exception in a line, with where in the user's code it came from."""
        frame = users_frame(self.traceback)
        return self.message if frame is None else f"{self.message} ({frame})"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """What a node did since its last reading.

    Attributes:
        node: Tells it from other nodes.
        values: By name, with the unit in it.
    """

    node: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackReport:
    """The answer to a work order.

    Attributes:
        order: Which order.
        stack: Which stack.
        wall_s: Seconds the stack worked on it.
        evaluation_s: Seconds of these that went into evaluating.
        training_s: Seconds of these that went into training; None where nobody took the time.
        joules: Energy its device used since the device's last report; None where it cannot be read.
        peak_flops: Peak of its device in its precision, FLOP/s; None where it is not on file.
        peak_memory_bytes: The most memory its process held, as `take_peak_memory` says; None where it cannot be read.
        member_bytes: Bytes of one member's own state; None where the stack does not say.
        nodes: What the nodes it works on tell of themselves, if it is time for that.
        segments: How the ordered segments ended.
        examinations: The further evaluations.
        trouble: What broke the order off, which then says nothing of segments and examinations; None if nothing did.
    """

    order: str
    stack: int
    wall_s: float
    evaluation_s: float = 0.0
    training_s: float | None = None
    joules: float | None = None
    peak_flops: float | None = None
    peak_memory_bytes: int | None = None
    member_bytes: int | None = None
    nodes: tuple[NodeReading, ...] = ()
    segments: tuple[SegmentResult, ...] = ()
    examinations: tuple[Examination, ...] = ()
    trouble: Trouble | None = None


class Leaves(Exception):
    """A host's process ends, through no fault of what it trains; another is started in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a device tells of itself; the fields are those of `StackReport`."""

    joules: float | None = None
    peak_flops: float | None = None
    peak_memory_bytes: int | None = None
    nodes: tuple[NodeReading, ...] = ()


class Telemetry(Protocol):
    """Reads a device."""

    def take(self) -> Reading:
        """What it used since it was last asked, whoever asked."""


def attempt(
    stack: Stack,
    order: WorkOrder,
    exchange: Exchange,
    telemetry: Telemetry | None = None,
    since: float | None = None,
) -> StackReport | None:
    """As `carry_out`, but an exception is reported; None if a state that the order was to fetch does not come."""
    began = time.perf_counter()
    try:
        return carry_out(stack, order, exchange, telemetry, since)
    except Withdrawn:
        return None
    except (HostError, Leaves):  # not of this stack
        raise
    except Exception as error:
        wall_s = time.perf_counter() - began
        return StackReport(order=order.id, stack=order.stack, wall_s=wall_s, trouble=trouble_of(error))


def trouble_of(error: Exception) -> Trouble:
    """What an exception says of its stack, and of its process."""
    is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    # torch raises AcceleratorError where a kernel failed; from then on, every use of the device fails (CUDA Runtime
    # API, "sticky" errors).
    return Trouble(
        message=first_line(error),
        traceback="".join(traceback.format_exception(error)),
        is_memory=is_memory,
        is_lasting=not is_memory and isinstance(error, torch.AcceleratorError),
    )


def publish(stack: Stack, order: WorkOrder, exchange: Exchange) -> None:
    """The first part of an order: give others what they will read."""
    give = stack.lend if exchange.copies and isinstance(stack, Lending) else stack.state
    for item in order.publish:
        exchange.publish(item.token, give(item.slot))


def carry_out(
    stack: Stack,
    order: WorkOrder,
    exchange: Exchange,
    telemetry: Telemetry | None = None,
    since: float | None = None,
) -> StackReport:
    """All other parts of an order.

    Args:
        stack: Which stack.
        order: The order.
        exchange: Where states are fetched.
        telemetry: Reads the stack's device.
        since: When the order was given, by `time.monotonic`: its deadline counts from there; None is now.
    """
    began = time.perf_counter()
    deadline = None if order.stop_after_s is None else (since or time.monotonic()) + order.stop_after_s
    _change(stack, order, exchange)
    changed = time.perf_counter()
    held, failures, training = _train(stack, order, deadline)
    trained = time.perf_counter()
    segments = _evaluate(stack, order, held, failures, training)
    examinations = tuple(_examine(stack, item) for item in order.examine)
    ended = time.perf_counter()
    reading = telemetry.take() if telemetry else Reading()
    return StackReport(
        order=order.id,
        stack=order.stack,
        wall_s=ended - began,
        evaluation_s=ended - trained,
        training_s=trained - changed,
        joules=reading.joules,
        peak_flops=reading.peak_flops,
        peak_memory_bytes=reading.peak_memory_bytes,
        member_bytes=stack.member_bytes() if isinstance(stack, Sized) else None,
        nodes=reading.nodes,
        segments=segments,
        examinations=examinations,
    )


def _change(stack: Stack, order: WorkOrder, exchange: Exchange) -> None:
    fetched = {item.token: exchange.fetch(item.token) for item in order.fetch}  # first: who waits has changed nothing
    if order.copy:
        stack.copy([source for source, _ in order.copy], [target for _, target in order.copy])
    for item in order.fetch:
        stack.admit(item.slot, item.hparams, item.seed, fetched[item.token], item.consumed)
    for fresh in order.admit:
        stack.admit(fresh.slot, fresh.hparams, fresh.seed, None, fresh.consumed)
    for old in order.renew:
        how = old.how
        shrink_and_perturb(stack, old.slot, old.hparams, keep=how.keep, noise=how.noise, seed=how.seed)
    for slot, hparams in order.set:
        stack.set_hparams([slot], **{name: [value] for name, value in hparams.items()})


_Held: TypeAlias = Mapping[int, Hparams]
_Failures: TypeAlias = Mapping[int, HparamMismatch | None]


def _train(stack: Stack, order: WorkOrder, deadline: float | None) -> tuple[_Held, _Failures, Metrics]:
    """What the device holds, what of that is not what was ordered, and means over the steps of the others."""
    held = {item.slot: _of_order(item, stack.hparams(item.slot)) for item in order.train}
    failures = {item.slot: mismatch(item, held[item.slot]) for item in order.train}
    until = [0] * stack.capacity
    for item in order.train:
        if failures[item.slot] is None:
            until[item.slot] = item.until
    return held, failures, _run(stack, until, deadline) if any(until) else {}


def _evaluate(
    stack: Stack, order: WorkOrder, held: _Held, failures: _Failures, training: Metrics
) -> tuple[SegmentResult, ...]:
    trained = [item.slot for item in order.train if failures[item.slot] is None]
    evaluation = stack.evaluate(order.split, trained) if trained else {}  # type: ignore[arg-type]
    return tuple(
        _result(stack, item, held[item.slot], training, evaluation, failures[item.slot]) for item in order.train
    )


#: Seconds between two looks at the clock while training against a deadline.
_LOOK_S = 0.5


def _run(stack: Stack, until: Sequence[int], deadline: float | None) -> Metrics:
    """Train; with a deadline, in pieces that are short against it, the last of which may be cut."""
    if deadline is None:
        return stack.run(until)
    sums: Metrics = {}
    steps = np.zeros(stack.capacity)
    piece, is_first = 1, True
    while (began := time.monotonic()) < deadline:
        before = _consumed(stack, until)
        target = [min(goal, done + piece) for goal, done in zip(until, before, strict=True)]
        means = stack.run(target)
        trained = np.maximum(0, np.subtract(target, before))
        if not trained.any():
            break
        steps += trained
        for name, values in means.items():
            sums[name] = sums.get(name, np.zeros(stack.capacity)) + np.where(trained > 0, values, 0.0) * trained
        ended = time.monotonic()
        step_s = max(ended - began, 1e-9) / int(trained.max())
        if ended + step_s > deadline and not is_first:  # the first step may have compiled: it says nothing of the next
            break
        piece, is_first = max(1, min(2 * piece, int(min(_LOOK_S, deadline - ended) / step_s))), False
    with np.errstate(invalid="ignore"):
        return {name: total / steps for name, total in sums.items()}


def _consumed(stack: Stack, until: Sequence[int]) -> list[int]:
    """Where the slots to be trained are; the others, which may be empty, have nothing before them."""
    return [stack.progress(slot)[1] if goal > 0 else 0 for slot, goal in enumerate(until)]


def _result(
    stack: Stack, item: Train, held: Hparams, training: Metrics, evaluation: Metrics, failure: HparamMismatch | None
) -> SegmentResult:
    age, consumed = stack.progress(item.slot)
    asked = stack.asked(item.slot) if isinstance(stack, Asking) and not failure else held
    return SegmentResult(
        member=item.member,
        segment=item.segment,
        age=age,
        consumed=consumed,
        held={name: value for name, value in held.items() if name in asked},
        unasked=tuple(name for name in held if name not in asked),
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


def _of_order(item: Train, held: Hparams) -> Hparams:
    """Without what was not ordered: what all members of a bucket share is in its name."""
    return {name: value for name, value in held.items() if name in item.hparams}


def mismatch(item: Train, held: Hparams) -> HparamMismatch | None:
    """The first hyperparameter whose value on the device is not the one ordered; None if all are in effect.

    A stack may hold float32: values are compared to one part in a million, proportions part by part.
    """
    for name, wanted in item.hparams.items():
        if not _same(wanted, held.get(name)):
            return HparamMismatch(item.member, name, wanted, held.get(name))
    return None


def _same(wanted: Any, got: Any) -> bool:
    numbers = (int, float)
    if isinstance(wanted, numbers) and isinstance(got, numbers):
        return math.isclose(wanted, got, rel_tol=1e-6)
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        return wanted.keys() == got.keys() and all(_same(value, got[part]) for part, value in wanted.items())
    return bool(wanted == got)
