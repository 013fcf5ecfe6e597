"""A population from its first member to its winner: what all strategies that evolve one have in common.

When to compare, and whom with whom, is left to a `Pace`. Here members are started, lost and told to finish what was
cut short; the best is announced, evaluated and named; budgets end and sweeps are extended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from pbt.member import Hparams, member_seed
from pbt.population.roster import Roster, report_id
from pbt.population.verdicts import Standing, rank
from pbt.strategy import (
    Action,
    BudgetEnded,
    Evaluate,
    EvaluationEnded,
    Event,
    Extended,
    Finish,
    MemberFailed,
    Report,
    SegmentReported,
    SweepStarted,
    Task,
    Together,
    task_from_dict,
    task_to_dict,
)

#: Given the task and where the living stand at the end: what is to be said of it, or nothing.
Remark: TypeAlias = Callable[[Task, Sequence[Standing]], str]


class Pace(Protocol):
    """Decides who trains on when, and with what."""

    @property
    def entry(self) -> int:
        """The generation that newcomers are to train to the end of first."""

    def respond(self, reports: Sequence[Report], task: Task, roster: Roster, may_train: bool) -> list[Action]:
        """Replace members and tell them to train on.

        Args:
            reports: What ended at one moment; the roster knows of it already.
            task: In force.
            roster: The members.
            may_train: Whether training may be ordered. If not, the reports are only to be noted.
        """

    def extend(self, cause: str, task: Task, roster: Roster) -> list[Action]:
        """The same for those that stand idle when the sweep is extended.

        Args:
            cause: Id of that event.
            task: In force from now on.
            roster: The members, without those that are new.
        """

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON-able data, save what follows from the roster."""

    def restore(self, snapshot: Mapping[str, Any], task: Task, roster: Roster) -> None:
        """Become the pace that gave the snapshot."""


class Evolution:
    """A strategy that trains one population.

    Args:
        task: What is optimised, and with what budget.
        pace: Decides who is replaced, and when.
        initial: Hyperparameters of the first members; the others are sampled from the space.
        remark: What else is to be said at the end, given where the living stand; None says nothing.
        seed_of: A member's seed, given that of the sweep and its number.
    """

    def __init__(
        self,
        task: Task,
        pace: Pace,
        initial: Sequence[Hparams] = (),
        remark: Remark | None = None,
        seed_of: Callable[[int, int], int] = member_seed,
    ) -> None:
        self._task = task
        self._pace = pace
        self._remark = remark
        self._roster = Roster(initial, seed_of)
        #: Ids of events that may come at any time and must not count twice.
        self._heard: list[str] = []
        #: Why nobody trains on although there are generations left.
        self._stopped: str | None = None
        #: Evaluations asked for by the id of their answer, and whether it came.
        self._evaluations: dict[str, bool] = {}
        self._announced: int | None = None
        self._finished = False

    def handle(self, events: Sequence[Event]) -> list[Action]:
        """Take events in, give actions out."""
        return [action for event in events for action in self._handle(event)]

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON-able data, the task in force included."""
        return {
            "task": task_to_dict(self._task),
            "pace": self._pace.snapshot(),
            "roster": self._roster.snapshot(),
            "heard": list(self._heard),
            "stopped": self._stopped,
            "evaluations": dict(self._evaluations),
            "announced": self._announced,
            "finished": self._finished,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the strategy that gave the snapshot."""
        self._task = task_from_dict(snapshot["task"])
        self._roster.restore(snapshot["roster"])
        self._pace.restore(snapshot["pace"], self._task, self._roster)
        self._heard = list(snapshot["heard"])
        self._stopped = snapshot["stopped"]
        self._evaluations = dict(snapshot["evaluations"])
        self._announced = snapshot["announced"]
        self._finished = snapshot["finished"]

    def _handle(self, event: Event) -> list[Action]:
        match event:
            case SegmentReported() | MemberFailed():
                return self._go_on([event])
            case Together(reports=reports):
                return self._go_on(reports)
            case EvaluationEnded():
                return self._hear(event)
            case BudgetEnded() if self._is_news(event.id):
                return self._stop(event)
            case Extended() if self._is_news(event.id):
                return self._extend(event)
            case SweepStarted() if not self._roster:
                return self._roster.enlist(event.id, self._task, event.slots, self._pace.entry)
        return []

    def _is_news(self, event_id: str) -> bool:
        if not self._roster or event_id in self._heard:
            return False
        self._heard.append(event_id)
        return True

    @property
    def _is_ending(self) -> bool:
        return self._finished or self._announced is not None

    def _go_on(self, reports: Sequence[Report]) -> list[Action]:
        """All that ended at one moment is entered before anything is decided."""
        news = [report for report in reports if self._enter(report)]
        if not news:
            return []
        if self._stopped is None and not self._roster.num_under_way and (rest := self._finish_segments()):
            return rest  # extended before what the budget cut short had been reported
        actions = self._pace.respond(news, self._task, self._roster, may_train=self._stopped is None)
        return actions + self._end_if_idle(news[-1].id)

    def _enter(self, report: Report) -> bool:
        """Enter a report in the roster; False if it is no news."""
        if isinstance(report, MemberFailed):
            return self._roster.failed(report.member)
        return self._roster.reported(report, self._task.metric)

    def _stop(self, event: BudgetEnded) -> list[Action]:
        if self._stopped is None and not self._is_ending:
            self._stopped = event.reason
        return self._end_if_idle(event.id)

    def _extend(self, event: Extended) -> list[Action]:
        self._task = event.task
        self._stopped, self._announced, self._finished = None, None, False
        actions = self._finish_segments(event.id)
        actions += self._pace.extend(event.id, self._task, self._roster)
        actions += self._roster.enlist(event.id, self._task, event.slots, self._pace.entry)
        return actions + self._end_if_idle(event.id, cause=event.id)

    def _finish_segments(self, cause: str | None = None) -> list[Action]:
        """Those that were cut short train to where they were told to: they are to be compared at equal age.

        `cause` is by default each one's own report.
        """
        cut = {member: self._roster[member] for member in self._roster.cut_short()}
        return [
            self._roster.train(cause or report_id(member, known), self._task, member, known.generation)
            for member, known in cut.items()
        ]

    # --- the end

    def _end_if_idle(self, event_id: str, cause: str | None = None) -> list[Action]:
        """Where nobody trains, announce the best; `cause` is by default the best member's report.

        The last report to come in is not the cause: in which order they come in is to make no difference.
        """
        if self._finished or self._roster.num_under_way:
            return []
        if not self._roster.num_alive:
            return [self._finish(event_id, None, "every member failed")]
        if self._announced is not None and self._roster[self._announced].is_alive:
            return []
        return self._announce(cause)

    def _announce(self, cause: str | None) -> list[Action]:
        best = rank(self._roster.standings(), self._task.mode)[0]
        cause = cause or report_id(best.member, self._roster[best.member])
        if math.isnan(best.score):
            return [self._finish(cause, None, "every member diverged")]
        self._announced = best.member
        answer = self._answer_about(best.member)
        if self._evaluations.get(answer):
            return [self._finish_with_best(cause)]
        self._evaluations[answer] = False
        return [Evaluate(cause=cause, member=best.member, split=self._task.final_split)]

    def _hear(self, event: EvaluationEnded) -> list[Action]:
        if self._evaluations.get(event.id) is not False:
            return []
        self._evaluations[event.id] = True
        if self._finished or self._announced is None or event.id != self._answer_about(self._announced):
            return []
        return [self._finish_with_best(event.id)]

    def _answer_about(self, member: int) -> str:
        """Id of the event that answers an evaluation asked for now; asked for earlier in its life, it has another."""
        return f"evaluation:{member}:{self._roster[member].segment}:{self._task.final_split}"

    def _finish_with_best(self, cause: str) -> Finish:
        reason = self._stopped or "best score at the end of the last generation"
        remark = self._remark(self._task, self._roster.standings()) if self._remark else ""
        return self._finish(cause, self._announced, "; ".join(filter(None, (reason, remark))))

    def _finish(self, cause: str, best: int | None, reason: str) -> Finish:
        self._finished = True
        return Finish(cause=cause, best=best, reason=reason)
