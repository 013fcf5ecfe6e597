"""A search as a strategy: slots train whatever a policy says, a generation at a time.

A member is a configuration. What rests without a slot is frozen, and thawed when the policy goes on with it. Between
two rungs every slot trains a generation and reports, so that members of one stack, which end their orders together, do
not wait for whoever has the longest way to go; a policy hears of rungs only.

Where the policy's last words do not name a member that was trained to the end, that one is trained to the end first:
what is announced was seen at the target. So much of the budget is kept for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pbt.member import Hparams, Slot, generator, member_seed
from pbt.search.policy import Begin, Book, GoOn, Ladder, Order, Policy, Run, Value
from pbt.strategy import (
    Action,
    BudgetEnded,
    ContinueUntil,
    Evaluate,
    EvaluationEnded,
    Event,
    Extended,
    Finish,
    Freeze,
    MemberFailed,
    Report,
    SegmentReported,
    Start,
    SweepStarted,
    Task,
    Thaw,
    Together,
    badness,
    task_from_dict,
    task_to_dict,
)
from searchspaces import Space


@dataclass(slots=True)
class _Course:
    """How far a member has come on its way to a rung.

    Attributes:
        segment: Its last; -1 before the first.
        consumed: Steps it had behind it at its last report.
        until: Steps at the end of the segment under way, or of the one that was cut short.
        is_under_way: Whether that segment has yet to be reported.
        has_failed: Whether it ended with an error.
        badness: At its last report.
        is_new: Whether that has yet to be entered in the book.
        slot: Where it sits; None if nowhere.
    """

    segment: int = -1
    consumed: int = 0
    until: int = 0
    is_under_way: bool = False
    has_failed: bool = False
    badness: float = math.nan
    is_new: bool = False
    slot: Slot | None = None


class Search:
    """A strategy that begins members, freezes and thaws them.

    Args:
        task: What is optimised, and with what budget.
        policy_for: Builds the policy that says what free slots do in a space.
        ladder: Rungs, in steps; all are whole generations.
        synchronous: Whether slots that are free wait until all are.
        initial: The first configurations, before the policy is asked.
    """

    def __init__(
        self,
        task: Task,
        policy_for: Callable[[Space], Policy],
        ladder: Ladder,
        synchronous: bool,
        initial: Sequence[Hparams] = (),
    ) -> None:
        self._policy_for, self._synchronous, self._initial = policy_for, synchronous, initial
        self._task, self._policy = task, policy_for(task.space)
        self._book = Book(ladder, float(task.budget.member_steps))
        self._courses: list[_Course] = []
        self._slots: tuple[Slot, ...] = ()
        #: Id of the event that left each slot free; what is free was offered to the policy once.
        self._free: dict[Slot, str] = {}
        self._decisions = 0
        self._heard: list[str] = []
        self._stopped: str | None = None
        self._evaluations: dict[str, bool] = {}
        self._announced: int | None = None
        self._finished = False

    def handle(self, events: Sequence[Event]) -> list[Action]:
        """Take events in, give actions out."""
        return [action for event in events for action in self._handle(event)]

    # ------------------------------------------------------------------------------------------------- snapshots

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON-able data."""
        return {
            "task": task_to_dict(self._task),
            "runs": [asdict(run) for run in self._book.runs],
            "values": [list(value) for value in self._book.values],
            "courses": [asdict(course) for course in self._courses],
            "slots": [[slot.stack, slot.index] for slot in self._slots],
            "free": [[slot.stack, slot.index, cause] for slot, cause in self._free.items()],
            "decisions": self._decisions,
            "heard": list(self._heard),
            "stopped": self._stopped,
            "evaluations": dict(self._evaluations),
            "announced": self._announced,
            "finished": self._finished,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the search that gave the snapshot."""
        self._task = task_from_dict(snapshot["task"])
        self._policy = self._policy_for(self._task.space)
        runs = [Run(**run) for run in snapshot["runs"]]
        values = [Value(*value) for value in snapshot["values"]]
        self._book = Book(self._book.ladder, float(self._task.budget.member_steps), runs, values)
        self._courses = [_course(row) for row in snapshot["courses"]]
        self._slots = tuple(Slot(*it) for it in snapshot["slots"])
        self._free = {Slot(stack, index): cause for stack, index, cause in snapshot["free"]}
        self._decisions, self._heard = snapshot["decisions"], list(snapshot["heard"])
        self._stopped, self._evaluations = snapshot["stopped"], dict(snapshot["evaluations"])
        self._announced, self._finished = snapshot["announced"], snapshot["finished"]

    # ---------------------------------------------------------------------------------------------------- events

    def _handle(self, event: Event) -> list[Action]:
        match event:
            case SegmentReported() | MemberFailed():
                return self._go_on([event])
            case Together(reports=reports):
                return self._go_on(reports)
            case EvaluationEnded():
                return self._hear(event)
            case BudgetEnded() if self._is_news(event.id):
                self._stopped = self._stopped or event.reason
                return self._end_if_idle(event.id)
            case Extended() if self._is_news(event.id):
                return self._extend(event)
            case SweepStarted() if not self._slots:
                self._slots = event.slots
                self._free = dict.fromkeys(event.slots, event.id)
                return self._fill()
        return []

    def _is_news(self, event_id: str) -> bool:
        if not self._slots or event_id in self._heard:
            return False
        self._heard.append(event_id)
        return True

    def _go_on(self, reports: Sequence[Report]) -> list[Action]:
        entered = [report.member for report in reports if self._enter(report)]
        if not entered or (self._synchronous and self._num_under_way):
            return []
        self._close()
        return self._train_on() if self._stopped is None else self._end_if_idle(reports[-1].id)

    def _train_on(self, cause: str | None = None) -> list[Action]:
        """Who has not come to a rung goes on, and free slots get work; `cause` is by default each one's own report."""
        actions: list[Action] = [self._train(cause or self._report_of(it), it) for it in self._on_the_way()]
        actions += self._fill()
        return actions or self._end_if_idle(cause)

    def _enter(self, report: Report) -> bool:
        """Note how far a member has come; False if that is no news."""
        member = report.member
        if not 0 <= member < len(self._courses) or not self._courses[member].is_under_way:
            return False
        course = self._courses[member]
        if isinstance(report, MemberFailed):
            course.has_failed, course.badness = True, math.inf
            course.consumed = course.until  # how far it came is not known: it has cost as much at most
        elif report.segment != course.segment:
            return False
        else:
            course.badness = badness(report.metrics[self._task.metric], self._task.mode)
            course.consumed = report.consumed
        course.is_under_way, course.is_new = False, True
        return True

    def _close(self) -> None:
        """What is new is entered in the book, in member order: who reported first is to make no difference."""
        for member, course in enumerate(self._courses):
            if not course.is_new:
                continue
            course.is_new, until = False, self._book.runs[member].until
            assert until is not None
            assert course.slot is not None
            is_lost = math.isinf(course.badness) and course.consumed == course.until
            if course.consumed >= until or is_lost:
                self._book.saw(Value(member, float(course.consumed), course.badness, float(course.consumed)))
                self._free[course.slot] = self._report_of(member)

    def _extend(self, event: Extended) -> list[Action]:
        self._task, self._policy = event.task, self._policy_for(event.task.space)
        self._book.budget = float(event.task.budget.member_steps)
        self._free |= {slot: event.id for slot in event.slots if slot not in self._slots}
        self._slots = event.slots
        self._stopped, self._announced, self._finished = None, None, False
        return [] if self._synchronous and self._num_under_way else self._train_on(event.id)

    def _on_the_way(self) -> list[int]:
        """Members between two rungs that nobody trains; by slot."""
        members = [(it.slot, member) for member, it in enumerate(self._courses) if not it.is_under_way and it.slot]
        return [member for _, member in sorted(members) if self._book.runs[member].until is not None]

    def _report_of(self, member: int) -> str:
        """Id of the event in which a member reported, or failed, last."""
        segment = self._courses[member].segment
        return f"{'failed' if self._courses[member].has_failed else 'report'}:{member}:{segment}"

    @property
    def _num_under_way(self) -> int:
        return sum(course.is_under_way for course in self._courses)

    # ------------------------------------------------------------------------------------------- what slots do next

    def _fill(self) -> list[Action]:
        """Free slots get work, as long as the budget lasts."""
        slots = [slot for slot in self._slots if slot in self._free]
        orders = self._affordable(self._orders(len(slots)))
        actions: list[Action] = []
        for slot, order in self._assigned(slots, orders):
            actions += self._carry_out(slot, order, self._free.pop(slot))
        return actions

    def _orders(self, number: int) -> list[Order]:
        known = self._initial[len(self._book.runs) : len(self._book.runs) + number]
        orders: list[Order] = [Begin(hparams, self._book.ladder.rungs[0]) for hparams in known]
        if number > len(orders):
            book = self._book if not orders else self._with(orders)
            seed = int(generator(self._task.seed, "search", self._decisions).integers(2**62))
            orders += self._policy.choose(book, seed, number - len(orders))
        self._decisions += number
        return orders

    def _affordable(self, orders: Sequence[Order]) -> list[Order]:
        """Those that leave enough to train the best so far to the end."""
        best, left, chosen = self._policy.recommend(self._book), self._left, []
        for order in orders:
            is_best = isinstance(order, GoOn) and order.run == best
            steps = order.until - (self._book.runs[order.run].steps if isinstance(order, GoOn) else 0.0)
            reached = order.until if is_best or best is None else self._ordered(best)
            if steps + self._book.ladder.target - reached <= left:
                chosen.append(order)
                left -= steps
        return chosen

    @property
    def _left(self) -> float:
        """Steps of the budget that nobody was told to train."""
        return self._book.budget - sum(map(self._ordered, range(len(self._courses))))

    def _ordered(self, member: int) -> float:
        """Steps that were, or will be, trained of a member."""
        return self._book.runs[member].until or self._courses[member].consumed

    def _assigned(self, slots: Sequence[Slot], orders: Sequence[Order]) -> list[tuple[Slot, Order]]:
        """Who sits in one of the slots goes on there."""
        seats = {self._courses[order.run].slot: order for order in orders if isinstance(order, GoOn)}
        own = {slot: seats[slot] for slot in slots if slot in seats}
        others = iter([order for order in orders if not any(order is it for it in own.values())])
        found = [(slot, own.get(slot) or next(others, None)) for slot in slots]
        return [(slot, order) for slot, order in found if order is not None]

    def _carry_out(self, slot: Slot, order: Order, cause: str) -> list[Action]:
        member = self._book.take(order)
        if isinstance(order, Begin):
            self._courses.append(_Course())
            actions = self._cleared(slot, cause)
            seed = member_seed(self._task.seed, member)
            begun = Start(cause=cause, member=member, slot=slot, hparams=order.hparams, seed=seed, reason=order.reason)
            actions.append(begun)
        else:
            actions = self._moved_to(slot, member, cause, order.reason)
        self._courses[member].slot = slot
        return [*actions, self._train(cause, member)]

    def _moved_to(self, slot: Slot, member: int, cause: str, reason: str) -> list[Action]:
        """A member comes to a slot, unless it sits there."""
        if self._courses[member].slot == slot:
            return []
        actions = self._cleared(slot, cause)
        self._courses[member].slot = slot
        return [*actions, Thaw(cause=cause, member=member, slot=slot, reason=reason)]

    def _cleared(self, slot: Slot, cause: str) -> list[Action]:
        """Who sits in a slot makes way, and is frozen unless nobody can go on with it."""
        for member, course in enumerate(self._courses):
            if course.slot == slot:
                course.slot = None
                return [] if self._book.runs[member].is_over else [Freeze(cause=cause, member=member)]
        return []

    def _train(self, cause: str, member: int) -> ContinueUntil:
        """A member trains to the end of a generation, or to where it was told before it was cut short."""
        course, run, steps = self._courses[member], self._book.runs[member], self._task.budget.steps
        assert run.until is not None
        course.segment += 1
        course.until = min(int(run.until), (course.consumed // steps + 1) * steps)
        course.is_under_way = True
        generation = math.ceil(course.until / steps) - 1
        return ContinueUntil(cause=cause, member=member, consumed=course.until, generation=generation, lends=False)

    def _with(self, orders: Sequence[Order]) -> Book:
        """The book once these orders are given."""
        book = Book(self._book.ladder, self._book.budget, list(self._book.runs), list(self._book.values))
        for order in orders:
            book.take(order)
        return book

    # --------------------------------------------------------------------------------------------------- the end

    def _end_if_idle(self, event_id: str | None) -> list[Action]:
        """Where nobody trains: the best is trained to the end, evaluated, and announced.

        The last report to come in is not the cause: in which order they come in is to make no difference.
        """
        if self._finished or self._announced is not None or self._num_under_way:
            return []
        best = self._policy.recommend(self._book)
        if best is None:
            return [self._finish(event_id or "start", None, self._stopped or "every member failed or diverged")]
        cause = self._report_of(best)
        if not self._is_complete(best):
            if self._stopped is None and self._book.ladder.target - self._courses[best].consumed <= self._left:
                return self._confirm(best, cause)
            complete = self._best_complete()
            best = best if complete is None else complete
        self._announced = best
        answer = self._answer_about(best)
        if self._evaluations.get(answer):
            return [self._finish_with_best(cause)]
        self._evaluations[answer] = False
        split = self._task.final_split
        return [*self._seated(best, cause), Evaluate(cause=cause, member=best, split=split)]

    def _best_complete(self) -> int | None:
        """Of those that were trained to the end, the best at the target; None if there are none."""
        there = {member: bad for member, bad in self._book.at(self._book.ladder.target).items() if math.isfinite(bad)}
        return min(there, key=lambda it: (there[it], it), default=None)

    def _is_complete(self, member: int) -> bool:
        return self._book.runs[member].steps >= self._book.ladder.target

    def _confirm(self, member: int, cause: str) -> list[Action]:
        """Train a member to the end."""
        actions = self._seated(member, cause)
        self._book.take(GoOn(member, self._book.ladder.target))
        slot = self._courses[member].slot
        assert slot is not None
        self._free.pop(slot, None)
        return [*actions, self._train(cause, member)]

    def _seated(self, member: int, cause: str) -> list[Action]:
        """A member gets a slot, if it has none. All are free."""
        return [] if self._courses[member].slot else self._moved_to(self._slots[0], member, cause, "the best so far")

    def _hear(self, event: EvaluationEnded) -> list[Action]:
        if self._evaluations.get(event.id) is not False:
            return []
        self._evaluations[event.id] = True
        if self._finished or self._announced is None or event.id != self._answer_about(self._announced):
            return []
        return [self._finish_with_best(event.id)]

    def _answer_about(self, member: int) -> str:
        return f"evaluation:{member}:{self._courses[member].segment}:{self._task.final_split}"

    def _finish_with_best(self, cause: str) -> Finish:
        assert self._announced is not None
        begun = len(self._book.runs)
        complete = sum(self._is_complete(member) for member in range(begun))
        told = f"expected to be the best of {begun} configurations, {complete} of them trained to the end"
        return self._finish(cause, self._announced, "; ".join(filter(None, (self._stopped, told))))

    def _finish(self, cause: str, best: int | None, reason: str) -> Finish:
        self._finished = True
        return Finish(cause=cause, best=best, reason=reason)


def _course(row: Mapping[str, Any]) -> _Course:
    slot = None if row["slot"] is None else Slot(**row["slot"])
    return _Course(**{**row, "slot": slot})
