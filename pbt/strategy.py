"""The contract between strategies and the brain: events in, actions out.

A strategy is a single-owner state machine. It does no I/O, reads no clock and keeps no generator: time, metrics and
randomness arrive in events or follow from the seed, so the same events give the same actions under Ray, in process and
in the simulator. Every action carries the id of the event that caused it (after dask's worker state machine).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from pbt.member import Hparams, Shrinkage, Slot
from pbt.spec import Budget, Mode
from searchspaces import Space


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
        structural: Hyperparameters that weights are made for: who takes over weights takes over these with them, and
            only who begins anew has others.
    """

    space: Space
    metric: str
    mode: Mode
    budget: Budget
    seed: int
    final_split: str = "test"
    structural: tuple[str, ...] = ()


def task_to_dict(task: Task) -> dict[str, Any]:
    """The task as JSON-able data; `task_from_dict` gives it back, equal."""
    names = ("metric", "mode", "seed", "final_split")
    known = {name: getattr(task, name) for name in names}
    parts = {"space": task.space.to_json(), "budget": asdict(task.budget), "structural": list(task.structural)}
    return {**parts, **known}


def task_from_dict(data: Mapping[str, Any]) -> Task:
    """Build a task from what `task_to_dict` gave."""
    parts = {"space": Space.from_json(data["space"]), "budget": Budget(**data["budget"])}
    return Task(**{**data, **parts, "structural": tuple(data["structural"])})


def badness(score: float, mode: Mode) -> float:
    """The score as a number that is smaller where it is better; infinity for NaN."""
    if math.isnan(score):
        return math.inf
    return score if mode == "min" else -score


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
        consumed: Steps the member ran itself: fewer than ordered where the budget cut the segment short. `BudgetEnded`
            is told before this report or, in synchronous mode, before the last one of the generation.
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


#: How a segment ended.
Report: TypeAlias = SegmentReported | MemberFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Members that one stack trained came to their ends at the same moment: none of them was there first.

    All of them are at rest. A strategy that does not wait for the whole population can compare each with all others,
    and copy any as it is at that moment, also one that it replaces. In which order they stand makes no difference. A
    synchronous strategy hears of them one by one, which makes none to it. The causes of actions are the reports' ids.
    """

    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationEnded:
    """An evaluation asked for with `Evaluate` came back.

    `id` is `evaluation:MEMBER:SEGMENT:SPLIT`, SEGMENT being the member's last when it was asked for.
    """

    id: str
    member: int
    split: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEnded:
    """There is not enough left of the budget for another segment of every member; where nobody waits, of who reports.

    The strategy orders no further training: once every segment under way has been reported, it announces the best so
    far. Once it has announced somebody this is no news.

    Attributes:
        id: `budget:N`, counted from 1.
        reason: For people; becomes the reason of `Finish`.
    """

    id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """The sweep goes on, also after its end, with more members, more generations, or a wider space.

    Strategies in synchronous mode go on as if the new task had always been known. What the budget cut short is
    trained to its end first. A winner that was announced is announced no more; where nothing is left to train, the
    sweep ends again.

    Attributes:
        id: `extended:N`, counted from 1.
        task: Replaces the task. Its space holds every point of the old one; members and generations are no fewer;
            steps, metric, mode and seed are the same.
        slots: One per member, in member order; those of members that were there before have not changed.
        target_steps: Of a search: steps of a run to the end from now on, no fewer than before; None changes nothing.
    """

    id: str
    task: Task
    slots: tuple[Slot, ...]
    target_steps: int | None = None


Event: TypeAlias = SweepStarted | Report | Together | EvaluationEnded | BudgetEnded | Extended

# -------------------------------------------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Put a fresh member into a slot; on its own slot, it begins again from new weights. `reason` is for people.

    Whoever else sits there has a slot no more: unless it was frozen before, it is given up, and its state with it.
    """

    cause: str
    member: int
    slot: Slot
    hparams: Hparams
    seed: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Exploit: the donor's weights, optimizer state and age replace the receiver's.

    What is copied is the state at the donor's last report, even if the donor has been told to train on since, or is
    itself replaced: of copies in one answer, in whatever order, each takes what its donor was before.
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
class Shrink:
    """Shrink and perturb the member's weights, after any `Copy` in the same answer, before it trains on.

    Its `age` and `consumed` stay: the weights' ancestry goes on. `reason` is for people.
    """

    cause: str
    member: int
    how: Shrinkage
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinueUntil:
    """Train on, until the member's `consumed` reaches `consumed`. Begins a new segment.

    Attributes:
        cause: Id of the event that caused it.
        member: Who.
        consumed: Until when.
        generation: Which of its generations this is.
        lends: Whether its last state may be copied meanwhile: until it reports, or fails, that is kept for others. Of
            effect only where members do not wait for each other.
    """

    cause: str
    member: int
    consumed: int
    generation: int
    lends: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """A member at rest leaves its slot. Its state is kept, so that it can go on later. `reason` is for people."""

    cause: str
    member: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thaw:
    """A frozen member takes a slot, as it was when it left its own; on an occupied one as with `Start`."""

    cause: str
    member: int
    slot: Slot
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """An exploit that was considered and not done, and why. Recorded, never carried out."""

    cause: str
    member: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Evaluate a member on a split, as it stands now; answered by `EvaluationEnded`."""

    cause: str
    member: int
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The sweep is over, unless it is extended; `best` won, or None where no member survived."""

    cause: str
    best: int | None
    reason: str


Action: TypeAlias = Start | Copy | Set | Shrink | ContinueUntil | Freeze | Thaw | Decline | Evaluate | Finish

# ------------------------------------------------------------------------------------------------------ the machine


class Strategy(Protocol):
    """A running strategy.

    Before `SweepStarted` it hears nothing.
    """

    def handle(self, events: Sequence[Event]) -> list[Action]:
        """Take events in, give actions out. A repeated event changes nothing."""

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON-able data."""

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the strategy that gave the snapshot."""


class StrategyOptions(Protocol):
    """A strategy's options: a frozen dataclass that validates itself and starts the machine."""

    @property
    def synchronous(self) -> bool:
        """Whether nobody is under way when members are copied, and the order of reports makes no difference."""

    def begin(self, task: Task) -> Strategy:
        """Start on a task."""


@runtime_checkable
class SearchStrategy(Protocol):
    """What a search has besides: its members are configurations, of which it begins many."""

    @property
    def target_steps(self) -> int:
        """Of a configuration that is trained to the end."""

    @property
    def most_initial(self) -> int:
        """How many configurations can be named."""

    @property
    def fidelity(self) -> Mapping[str, Any] | None:
        """Which hyperparameter is smaller on the way, its values, and what a step with each counts; None if none is."""
