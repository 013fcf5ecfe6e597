"""The brain: one per sweep, the only owner of strategy state, event order and ledger.

Reports come in, are recorded and shown to the strategy; its actions are recorded, and only then become work orders.
The brain is a plain object: in process it is called directly, under Ray an actor holds it. It never waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pbt.member import Hparams, SegmentKey, Slot
from pbt.record.ledger import Ledger
from pbt.record.schema import canonical
from pbt.runtime.checkpoints import Checkpoint
from pbt.runtime.orders import (
    Admit,
    Examination,
    Examine,
    Fetch,
    Publish,
    SegmentResult,
    StackReport,
    Train,
    WorkOrder,
)
from pbt.strategy import (
    Action,
    ContinueUntil,
    Copy,
    Decline,
    Evaluate,
    EvaluationEnded,
    Event,
    Finish,
    MemberFailed,
    SegmentReported,
    Set,
    Start,
    Strategy,
    SweepStarted,
)

#: Takes the state published under a token to the checkpoint store, with what to remember about it.
Keep = Callable[[str, Mapping[str, object]], Checkpoint]


@dataclass(slots=True)
class _Member:
    """What the brain knows of a member between two segments."""

    slot: Slot
    seed: int = 0
    hparams: Hparams = field(default_factory=dict)
    segment: int = -1
    start: str = "fresh"
    parent: SegmentKey | None = None
    age: int = 0
    consumed: int = 0


@dataclass(slots=True)
class _Draft:
    """A work order being put together."""

    publish: dict[int, tuple[str, int]] = field(default_factory=dict)
    copy: list[tuple[int, int]] = field(default_factory=list)
    fetch: list[Fetch] = field(default_factory=list)
    admit: list[Admit] = field(default_factory=list)
    set: dict[int, Hparams] = field(default_factory=dict)
    train: list[Train] = field(default_factory=list)
    examine: list[Examine] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the brain must know of a sweep besides its strategy.

    Attributes:
        slots: One for each member, in member order.
        bucket: Name of the bucket all stacks belong to.
        defaults: Value of every live hyperparameter, where the strategy names none.
        metric: The objective.
        split: The split that decides.
        tokens_per_step: Tokens a member consumes in a step.
    """

    slots: tuple[Slot, ...]
    bucket: str
    defaults: Hparams
    metric: str
    split: str
    tokens_per_step: int


class Brain:
    """Turns reports into work orders.

    Args:
        plan: The sweep's fixed facts.
        strategy: Decides.
        ledger: Records; the brain is its one writer.
        keep: Saves a published state as a checkpoint.
    """

    def __init__(self, plan: Plan, strategy: Strategy, ledger: Ledger, keep: Keep) -> None:
        self._plan = plan
        self._strategy = strategy
        self._ledger = ledger
        self._keep = keep
        self._members = {member: _Member(slot) for member, slot in enumerate(plan.slots)}
        self._drafts: dict[int, _Draft] = {}
        self._outstanding: dict[int, str] = {}
        self._num_orders = 0
        self.finished = False
        self.best: int | None = None

    @property
    def num_stacks(self) -> int:
        """Number of stacks the sweep is laid out on."""
        return 1 + max(slot.stack for slot in self._plan.slots)

    def capacity(self, stack: int) -> int:
        """Number of slots of a stack."""
        return sum(slot.stack == stack for slot in self._plan.slots)

    def start(self) -> None:
        """Begin the sweep."""
        self._handle([SweepStarted(id="start", slots=self._plan.slots)])

    def orders(self, stacks: Iterable[int]) -> list[WorkOrder]:
        """Work for these stacks, at most one order each; none for a stack that has not reported its last.

        Raises:
            StorageError: The decisions behind the orders could not be recorded.
        """
        self._ledger.commit()  # nothing to do, unless an earlier commit failed
        ready = [stack for stack in sorted(stacks) if stack in self._drafts and stack not in self._outstanding]
        return [self._release(stack) for stack in ready]

    def report(self, reports: Sequence[StackReport]) -> None:
        """Take in the answers to orders. One that was answered before changes nothing."""
        events: list[Event] = []
        for report in reports:
            if self._outstanding.get(report.stack) != report.order:
                continue
            del self._outstanding[report.stack]
            events += [self._ended(result, report.wall_s) for result in report.segments]
            events += [self._examined(examination) for examination in report.examinations]
        self._ledger.commit()
        self._handle(events)

    def close(self) -> None:
        """Seal the ledger."""
        self._ledger.close(finished=self.finished)

    # ------------------------------------------------------------------------------------------ what happened

    def _ended(self, result: SegmentResult, wall_s: float) -> Event:
        member = self._members[result.member]
        trained = result.consumed - member.consumed
        member.age, member.consumed = result.age, result.consumed
        member.start, member.parent = "own", SegmentKey(result.member, result.segment)
        for split, metrics in (("train", result.training), (self._plan.split, result.evaluation)):
            self._record_metrics(result.member, result.segment, split, metrics)
        failure, score = result.failure or self._unreported(result), self._score(result)
        self._ledger.append(
            "outcomes",
            member=result.member,
            segment=result.segment,
            status="failed" if failure else "ended",
            hparams_in_effect=canonical(dict(result.held)),
            age_end=result.age,
            consumed_end=result.consumed,
            score=None if failure else score,
            wall_s=wall_s,
            tokens=trained * self._plan.tokens_per_step,
            reason=failure,
        )
        where = f"{result.member}:{result.segment}"
        if failure:
            return MemberFailed(id=f"failed:{where}", member=result.member, reason=failure)
        return SegmentReported(
            id=f"report:{where}",
            member=result.member,
            segment=result.segment,
            age=result.age,
            consumed=result.consumed,
            metrics={**result.evaluation, self._plan.metric: score},
            wall_s=wall_s,
        )

    def _unreported(self, result: SegmentResult) -> str | None:
        if self._plan.metric in result.evaluation:
            return None
        found = ", ".join(sorted(result.evaluation)) or "nothing"
        return (
            f"member {result.member}: evaluate did not report {self._plan.metric!r}, which its trainable describes; "
            f"it reported {found}. The member was stopped; mend the trainable's evaluate."
        )

    def _score(self, result: SegmentResult) -> float:
        """The objective; NaN wherever it is not a finite number: an infinite score is a diverged one, not a record."""
        score = result.evaluation.get(self._plan.metric, math.nan)
        return score if math.isfinite(score) else math.nan

    def _examined(self, examination: Examination) -> Event:
        member = self._members[examination.member]
        self._record_metrics(examination.member, member.segment, examination.split, examination.metrics)
        self._save(examination.member)
        return EvaluationEnded(
            id=f"evaluation:{examination.member}:{member.segment}:{examination.split}",
            member=examination.member,
            split=examination.split,
            metrics=examination.metrics,
        )

    def _record_metrics(self, member: int, segment: int, split: str, metrics: Mapping[str, float]) -> None:
        at = self._members[member]
        for name, value in metrics.items():
            self._ledger.append(
                "metrics",
                member=member,
                segment=segment,
                split=split,
                name=name,
                value=value,
                age=at.age,
                consumed=at.consumed,
            )

    def _save(self, member: int) -> None:
        known = self._members[member]
        about = {"member": member, "segment": known.segment, "bucket": self._plan.bucket, "hparams": known.hparams}
        saved = self._keep(_token(member, known.segment), about)
        self._ledger.append(
            "checkpoints", member=member, segment=known.segment, digest=saved.digest, size_bytes=saved.size_bytes
        )

    # ---------------------------------------------------------------------------------------- what is to be done

    def _handle(self, events: Sequence[Event]) -> None:
        for action in self._strategy.handle(events):
            self._take(action)
        self._ledger.commit()  # before anyone can ask for the orders

    def _take(self, action: Action) -> None:
        match action:
            case Start():
                self._start(action)
            case Copy():
                self._copy(action)
            case Set():
                self._set(action)
            case ContinueUntil():
                self._continue(action)
            case Decline():
                self._decide("decline", action.cause, action.member, reason=action.reason)
            case Evaluate():
                self._decide("evaluate", action.cause, action.member, reason=f"on the {action.split} split")
                self._evaluate(action.member, action.split)
            case Finish():
                self._decide("finish", action.cause, action.best, reason=action.reason)
                self.finished, self.best = True, action.best

    def _start(self, action: Start) -> None:
        member = self._members[action.member]
        hparams = self._full(action.hparams)
        self._decide("start", action.cause, action.member, hparams=hparams)
        member.slot, member.seed, member.hparams = action.slot, action.seed, hparams
        member.age, member.start, member.parent = 0, "fresh", None
        self._draft(member).admit.append(Admit(member.slot.index, hparams, member.seed, member.consumed))

    def _copy(self, action: Copy) -> None:
        donor, receiver = self._members[action.donor], self._members[action.receiver]
        self._decide("copy", action.cause, action.receiver, donor=action.donor, reason=action.reason)
        receiver.start, receiver.age = "copied", donor.age
        receiver.parent = SegmentKey(action.donor, donor.segment)
        if donor.slot.stack == receiver.slot.stack:
            self._draft(receiver).copy.append((donor.slot.index, receiver.slot.index))
            return
        token = self._publish(action.donor)
        self._draft(receiver).fetch.append(
            Fetch(receiver.slot.index, token, receiver.hparams, receiver.seed, receiver.consumed)
        )

    def _set(self, action: Set) -> None:
        member = self._members[action.member]
        hparams = self._full(action.hparams)
        self._decide("set", action.cause, action.member, hparams=hparams)
        member.hparams = hparams
        self._draft(member).set[member.slot.index] = hparams

    def _continue(self, action: ContinueUntil) -> None:
        member = self._members[action.member]
        member.segment += 1
        self._ledger.append(
            "segments",
            member=action.member,
            segment=member.segment,
            generation=action.generation,
            start=member.start,
            parent_member=member.parent.member if member.parent else None,
            parent_segment=member.parent.index if member.parent else None,
            hparams=canonical(dict(member.hparams)),
            seed=member.seed,
            bucket=self._plan.bucket,
            stack=member.slot.stack,
            slot=member.slot.index,
            age_start=member.age,
            consumed_start=member.consumed,
            until=action.consumed,
            cause=action.cause,
        )
        self._draft(member).train.append(
            Train(member.slot.index, action.member, member.segment, action.consumed, member.hparams)
        )

    def _evaluate(self, member: int, split: str) -> None:
        known = self._members[member]
        self._draft(known).examine.append(Examine(known.slot.index, member, split))
        self._publish(member)

    def _publish(self, member: int) -> str:
        known = self._members[member]
        token = _token(member, known.segment)
        _, readers = self._draft(known).publish.get(known.slot.index, (token, 0))
        self._draft(known).publish[known.slot.index] = (token, readers + 1)
        return token

    def _decide(
        self,
        kind: str,
        cause: str,
        member: int | None,
        *,
        donor: int | None = None,
        hparams: Hparams | None = None,
        reason: str | None = None,
    ) -> None:
        known = self._members.get(member) if member is not None else None
        self._ledger.append(
            "decisions",
            kind=kind,
            member=member,
            donor=donor,
            segment=known.segment if known else None,
            hparams_before=canonical(dict(known.hparams)) if known and hparams else None,
            hparams=canonical(dict(hparams)) if hparams else None,
            reason=reason,
            cause=cause,
        )

    def _full(self, hparams: Hparams) -> Hparams:
        return {**self._plan.defaults, **hparams}

    def _draft(self, member: _Member) -> _Draft:
        return self._drafts.setdefault(member.slot.stack, _Draft())

    def _release(self, stack: int) -> WorkOrder:
        draft = self._drafts.pop(stack)
        self._num_orders += 1
        order = WorkOrder(
            id=f"order:{self._num_orders}",
            stack=stack,
            split=self._plan.split,
            publish=tuple(Publish(slot, token, readers) for slot, (token, readers) in draft.publish.items()),
            copy=tuple(draft.copy),
            fetch=tuple(draft.fetch),
            admit=tuple(draft.admit),
            set=tuple(draft.set.items()),
            train=tuple(draft.train),
            examine=tuple(draft.examine),
        )
        self._outstanding[stack] = order.id
        return order


def _token(member: int, segment: int) -> str:
    return f"{member}:{segment}"
