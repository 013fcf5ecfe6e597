"""Synchronous generations: the frame shared by every strategy that decides for the whole population at once.

The population trains for `budget.steps` steps, everybody reports, one function decides who is replaced, and the next
generation begins. All members therefore have the same age when they are compared. The order in which reports arrive
has no influence on anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pbt.member import Hparams, Slot, generator, member_seed
from pbt.spec import Mode, require
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
    SweepStarted,
    Task,
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A member at the end of a generation."""

    member: int
    score: float
    hparams: Hparams


@dataclass(frozen=True, slots=True)
class Replace:
    """The receiver goes on from the donor's weights, with these hyperparameters."""

    receiver: int
    donor: int
    hparams: Hparams
    reason: str


@dataclass(frozen=True, slots=True)
class Restart:
    """The member begins again from new weights, with these hyperparameters."""

    member: int
    hparams: Hparams
    seed: int


@dataclass(frozen=True, slots=True)
class Keep:
    """The member was considered for replacement and goes on as it is."""

    member: int
    reason: str


Verdict: TypeAlias = Replace | Restart | Keep
#: Given the task, the generation that just ended and its ranking (best first, NaN last): who is replaced.
Evolve: TypeAlias = Callable[[Task, int, Sequence[Standing]], list[Verdict]]


def nobody(task: Task, generation: int, ranking: Sequence[Standing]) -> list[Verdict]:
    """An `Evolve` that lets every member go on as it is."""
    return []


def check_initial(initial: object) -> None:
    """Refuse initial configurations that are not a list of mappings."""
    ok = isinstance(initial, list | tuple) and all(isinstance(hparams, Mapping) for hparams in initial)
    mend = "Write [{lr: 0.1}], or leave it out"
    require(ok, "strategy.options.initial", f"{initial!r} is not a list of mappings", mend)


def rank(scores: Mapping[int, float], mode: Mode) -> list[int]:
    """Members from best to worst; NaN last, ties in member order."""
    return sorted(scores, key=lambda member: (*_badness(scores[member], mode), member))


def _badness(score: float, mode: Mode) -> tuple[bool, float]:
    diverged = score != score
    return diverged, 0.0 if diverged else score if mode == "min" else -score


class Rounds:
    """A strategy of synchronous generations.

    Args:
        task: What is optimised, and with what budget.
        evolve: Decides at the end of every generation but the last.
        initial: Hyperparameters of the first members; the others are sampled from the space.
    """

    def __init__(self, task: Task, evolve: Evolve, initial: Sequence[Hparams] = ()) -> None:
        self._task = task
        self._evolve = evolve
        self._generation = 0
        self._slots: dict[int, Slot] = {}
        self._hparams: dict[int, Hparams] = {
            member: initial[member] if member < len(initial) else _sample(task, member)
            for member in range(task.budget.members)
        }
        self._alive: set[int] = set(range(task.budget.members))
        self._scores: dict[int, float] = {}
        self._consumed: dict[int, int] = {}
        self._announced: int | None = None
        self._finished = False

    def handle(self, events: Sequence[Event]) -> list[Action]:
        """Take events in, give actions out."""
        return [action for event in events for action in self._handle(event)]

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON-able data."""
        return {
            "generation": self._generation,
            "slots": [[member, slot.stack, slot.index] for member, slot in self._slots.items()],
            "hparams": [[member, dict(values)] for member, values in self._hparams.items()],
            "alive": sorted(self._alive),
            "scores": [[member, score] for member, score in self._scores.items()],
            "consumed": [[member, consumed] for member, consumed in self._consumed.items()],
            "announced": self._announced,
            "finished": self._finished,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the strategy that gave the snapshot."""
        self._generation = snapshot["generation"]
        self._slots = {member: Slot(stack, index) for member, stack, index in snapshot["slots"]}
        self._hparams = {member: dict(values) for member, values in snapshot["hparams"]}
        self._alive = set(snapshot["alive"])
        self._scores = {member: score for member, score in snapshot["scores"]}  # noqa: C416 - pairs, not a dict
        self._consumed = {member: consumed for member, consumed in snapshot["consumed"]}  # noqa: C416
        self._announced = snapshot["announced"]
        self._finished = snapshot["finished"]

    def _handle(self, event: Event) -> list[Action]:
        if self._finished:
            return []
        match event:
            case SweepStarted():
                return self._start(event)
            case SegmentReported():
                return self._report(event)
            case MemberFailed():
                return self._fail(event)
            case EvaluationEnded(member=member) if member == self._announced:
                return [self._finish(event.id, member, "best score at the end of the last generation")]
        return []

    def _start(self, event: SweepStarted) -> list[Action]:
        if self._slots:
            return []
        self._slots = dict(enumerate(event.slots[: self._task.budget.members]))
        actions: list[Action] = []
        for member, slot in self._slots.items():
            seed = member_seed(self._task.seed, member)
            actions.append(Start(cause=event.id, member=member, slot=slot, hparams=self._hparams[member], seed=seed))
            actions.append(self._continue(event.id, member))
        return actions

    def _report(self, event: SegmentReported) -> list[Action]:
        if event.segment != self._generation or event.member in self._scores or event.member not in self._alive:
            return []
        self._scores[event.member] = event.metrics[self._task.metric]
        self._consumed[event.member] = event.consumed
        return self._next_generation_if_complete()

    def _fail(self, event: MemberFailed) -> list[Action]:
        if event.member not in self._alive:
            return []
        self._alive.discard(event.member)
        self._scores.pop(event.member, None)
        if not self._alive:
            return [self._finish(event.id, None, "every member failed")]
        if self._announced not in (None, event.member):
            return []  # the winner is being evaluated already
        return self._next_generation_if_complete()

    def _next_generation_if_complete(self) -> list[Action]:
        if self._scores.keys() != self._alive:
            return []
        ranking = [
            Standing(member, self._scores[member], self._hparams[member])
            for member in rank(self._scores, self._task.mode)
        ]
        if self._generation == self._task.budget.generations - 1:
            return self._announce(ranking)
        verdicts = self._evolve(self._task, self._generation, ranking)
        causes = {member: _report_id(member, self._generation) for member in self._alive}
        self._generation += 1
        self._scores = {}
        changes = [action for verdict in verdicts for action in self._carry_out(verdict, causes)]
        return changes + [self._continue(causes[member], member) for member in sorted(self._alive)]

    def _carry_out(self, verdict: Verdict, causes: Mapping[int, str]) -> list[Action]:
        match verdict:
            case Replace(receiver, donor, hparams, reason):
                cause = causes[receiver]
                self._hparams[receiver] = hparams
                return [
                    Copy(cause=cause, donor=donor, receiver=receiver, reason=reason),
                    Set(cause=cause, member=receiver, hparams=hparams),
                ]
            case Restart(member, hparams, seed):
                self._hparams[member] = hparams
                slot = self._slots[member]
                return [Start(cause=causes[member], member=member, slot=slot, hparams=hparams, seed=seed)]
            case Keep(member, reason):
                return [Decline(cause=causes[member], member=member, reason=reason)]

    def _announce(self, ranking: Sequence[Standing]) -> list[Action]:
        best = ranking[0]
        cause = _report_id(best.member, self._generation)
        if best.score != best.score:
            return [self._finish(cause, None, "every member diverged")]
        self._announced = best.member
        return [Evaluate(cause=cause, member=best.member, split=self._task.final_split)]

    def _finish(self, cause: str, best: int | None, reason: str) -> Finish:
        self._finished = True
        return Finish(cause=cause, best=best, reason=reason)

    def _continue(self, cause: str, member: int) -> ContinueUntil:
        until = self._consumed.get(member, 0) + self._task.budget.steps
        return ContinueUntil(cause=cause, member=member, consumed=until, generation=self._generation)


def _sample(task: Task, member: int) -> Hparams:
    return task.space.sample(generator(task.seed, "initial", member))


def _report_id(member: int, segment: int) -> str:
    return f"report:{member}:{segment}"
