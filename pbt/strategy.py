"""The contract between strategies and the brain: events in, actions out.

A strategy is a single-owner state machine. It does no I/O, reads no clock and keeps no generator: time, metrics and
randomness arrive in events or follow from the seed, so the same events give the same actions under Ray, in process and
in the simulator. Every action carries the id of the event that caused it (after dask's worker state machine).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from pbt.member import Hparams, Slot
from pbt.spec import Budget, Mode
from searchspaces import Space

# --------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStarted:
    """The sweep begins with these slots on offer, one per member, in member order."""

    id: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReported:
    """A member reached the end of its segment and was evaluated on the objective's split.

    Attributes:
        id: `report:MEMBER:SEGMENT`, the same whatever order reports arrive in.
        member: Who.
        segment: Index of the segment that ended.
        age: Steps in the ancestry of the weights.
        consumed: Steps the member ran itself.
        metrics: Evaluation metrics by name; NaN where training diverged.
        wall_s: Seconds the stack spent on the segment.
    """

    id: str
    member: int
    segment: int
    age: int
    consumed: int
    metrics: Mapping[str, float]
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFailed:
    """A member was stopped by an error and will not report again."""

    id: str
    member: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationEnded:
    """An evaluation asked for with `Evaluate` came back."""

    id: str
    member: int
    split: str
    metrics: Mapping[str, float]


Event: TypeAlias = SweepStarted | SegmentReported | MemberFailed | EvaluationEnded

# -------------------------------------------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Put a fresh member into a slot; on an occupied slot, begin again from new weights."""

    cause: str
    member: int
    slot: Slot
    hparams: Hparams
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Exploit: the donor's weights, optimizer state and age replace the receiver's.

    What is copied is the state at the donor's last report: a `Copy` comes before the donor's next `ContinueUntil`.
    `reason` is for people.
    """

    cause: str
    donor: int
    receiver: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """Explore: from its next step the member trains with these values, all of them named."""

    cause: str
    member: int
    hparams: Hparams


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinueUntil:
    """Train on, until the member's `consumed` reaches `consumed`. Begins a new segment."""

    cause: str
    member: int
    consumed: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """An exploit that was considered and not done, and why. Recorded, never carried out."""

    cause: str
    member: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Evaluate a member on a split; answered by `EvaluationEnded`."""

    cause: str
    member: int
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The sweep is over; `best` won, or None where no member survived."""

    cause: str
    best: int | None
    reason: str


Action: TypeAlias = Start | Copy | Set | ContinueUntil | Decline | Evaluate | Finish

# ------------------------------------------------------------------------------------------------------ the machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All a strategy is told of its sweep.

    Attributes:
        space: What may vary.
        metric: The metric that decides.
        mode: Whether small or large is better.
        budget: Members, generations, steps.
        seed: Source of every random choice.
        final_split: The split the announced winner is evaluated on.
    """

    space: Space
    metric: str
    mode: Mode
    budget: Budget
    seed: int
    final_split: str = "test"


class Strategy(Protocol):
    """A running strategy."""

    def handle(self, events: Sequence[Event]) -> list[Action]:
        """Take events in, give actions out. A repeated event changes nothing."""

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON-able data."""

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the strategy that gave the snapshot."""


class StrategyOptions(Protocol):
    """A strategy's options: a frozen dataclass that validates itself and starts the machine."""

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""
