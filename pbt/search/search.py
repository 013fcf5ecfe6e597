"""A search as a strategy: slots train whatever a policy says, a generation at a time.

A member is a configuration, or, where models are smaller on the way, one model of it. What rests without a slot is
frozen, and thawed when the policy goes on with it. Between two rungs every slot trains a generation and reports, so
that members of one stack, which end their orders together, do not wait for whoever has the longest way to go; a policy
hears of rungs only.

Slots of a stack that are free at once begin configurations of the same structure: they are trained at about the price
of one.

Where the policy's last words do not name a member that was trained to the end, that one is trained to the end first:
what is announced was seen at the target. So much of the budget is kept for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from pbt.member import Hparams, Slot, generator, member_seed
from pbt.search.fidelity import Course, cost_of
from pbt.search.policy import Begin, Book, GoOn, Order, Policy, Run, Value
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

#: Why somebody goes on at the end.
_BEST = "the best so far"
#: Of which all steps cost the same.
_NO_COST: Mapping[str, float] = MappingProxyType({})


@dataclass(slots=True)
class _Member:
    """How far a member has come on its way to a rung.

    Attributes:
        run: The configuration.
        rate: Steps of the target that a step of it costs.
        segment: Its last; -1 before the first.
        consumed: Steps it had behind it at its last report.
        until: Steps at the end of the segment under way, or of the one that was cut short.
        is_under_way: Whether that segment has yet to be reported.
        has_failed: Whether it ended with an error.
        badness: At its last report.
        is_new: Whether that has yet to be entered in the book.
        slot: Where it sits; None if nowhere.
    """

    run: int
    rate: float = 1.0
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
        course: The way to the target, in whole generations.
        synchronous: Whether slots that are free wait until all are.
        initial: The first configurations, before the policy is asked.
        cost: A step costs as the product of these powers of hyperparameters.
    """

    def __init__(
        self,
        task: Task,
        policy_for: Callable[[Space], Policy],
        course: Course,
        synchronous: bool,
        initial: Sequence[Hparams] = (),
        cost: Mapping[str, float] = _NO_COST,
    ) -> None:
        self._policy_for, self._synchronous, self._course, self._cost = policy_for, synchronous, course, cost
        self._initial = [{name: it for name, it in point.items() if name != course.name} for point in initial]
        self._task, self._policy = task, policy_for(course.varied(task.space))
        self._book = Book(course.ladder, float(task.budget.member_steps))
        self._members: list[_Member] = []
        #: Of each run, the member that it is now.
        self._current: list[int] = []
        self._slots: tuple[Slot, ...] = ()
        #: Id of the event that left each slot free; what is free was offered to the policy once.
        self._free: dict[Slot, str] = {}
        self._decisions = 0
        self._heard: list[str] = []
        self._stopped: str | None = None
        self._evaluations: dict[str, bool] = {}
        self._announced: int | None = None
        self._finished = False
        #: Steps of runs to the end, each time that they became more.
        self._targets: list[int] = []

    @property
    def target_steps(self) -> int:
        """Of a configuration that is trained to the end."""
        return self._course.steps[-1]

    @property
    def most_initial(self) -> int:
        """How many configurations can be named."""
        return int(self._book.budget // self._book.ladder.rungs[0])

    @property
    def fidelity(self) -> Mapping[str, Any] | None:
        """Which hyperparameter is smaller on the way, its values, and what a step with each counts; None if none is."""
        if self._course.name is None:
            return None
        rates = dict(zip(self._course.values, map(self._course.rate, self._course.ladder.rungs), strict=True))
        return {"name": self._course.name, "rates": [list(it) for it in rates.items()]}

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
            "members": [asdict(member) for member in self._members],
            "current": list(self._current),
            "slots": [[slot.stack, slot.index] for slot in self._slots],
            "free": [[slot.stack, slot.index, cause] for slot, cause in self._free.items()],
            "decisions": self._decisions,
            "heard": list(self._heard),
            "stopped": self._stopped,
            "evaluations": dict(self._evaluations),
            "announced": self._announced,
            "finished": self._finished,
            "targets": list(self._targets),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become the search that gave the snapshot."""
        self._task = task_from_dict(snapshot["task"])
        self._policy = self._policy_for(self._course.varied(self._task.space))
        for target in snapshot["targets"]:
            self._raise_to(target)
        runs = [Run(**run) for run in snapshot["runs"]]
        values = [Value(*value) for value in snapshot["values"]]
        self._book = Book(self._book.ladder, float(self._task.budget.member_steps), runs, values)
        self._members, self._current = [_member(row) for row in snapshot["members"]], list(snapshot["current"])
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
        number = report.member
        if not 0 <= number < len(self._members) or not self._members[number].is_under_way:
            return False
        member = self._members[number]
        if isinstance(report, MemberFailed):
            member.has_failed, member.badness = True, math.inf
            member.consumed = member.until  # how far it came is not known: it has cost as much at most
        elif report.segment != member.segment:
            return False
        else:
            member.badness = badness(report.metrics[self._task.metric], self._task.mode)
            member.consumed = report.consumed
        member.is_under_way, member.is_new = False, True
        return True

    def _close(self) -> None:
        """What is new is entered in the book, in member order: who reported first is to make no difference."""
        for number, member in enumerate(self._members):
            if not member.is_new:
                continue
            member.is_new, run = False, self._book.runs[member.run]
            assert run.until is not None
            assert member.slot is not None
            is_lost = math.isinf(member.badness) and member.consumed == member.until
            if member.consumed >= self._course.own_steps(run.until):
                self._saw(member, run.until)
            elif is_lost:
                self._saw(member, max(run.steps, member.consumed * member.rate))
            else:
                continue
            self._free[member.slot] = self._report_of(number)

    def _saw(self, member: _Member, steps: float) -> None:
        run = self._book.runs[member.run]
        cost = self._book.ladder.to_train(run.steps, steps) * cost_of(run.hparams, self._cost)
        self._book.saw(Value(member.run, steps, member.badness, run.cost + cost))

    def _extend(self, event: Extended) -> list[Action]:
        self._task, self._policy = event.task, self._policy_for(self._course.varied(event.task.space))
        self._book.budget = float(event.task.budget.member_steps)
        if event.target_steps is not None:
            self._raise_to(event.target_steps)
        self._free |= {slot: event.id for slot in event.slots if slot not in self._slots}
        self._slots = event.slots
        self._stopped, self._announced, self._finished = None, None, False
        actions = self._seated_again(event.id)
        return actions if self._synchronous and self._num_under_way else actions + self._train_on(event.id)

    def _seated_again(self, cause: str) -> list[Action]:
        """Who was on its way, and had to make way for the winner's evaluation, takes a slot of those that rest."""
        actions: list[Action] = []
        for number, member in enumerate(self._members):
            if member.slot is None and self._is_on_the_way(number):
                busy = {it.slot for other, it in enumerate(self._members) if self._is_on_the_way(other)}
                slot = next(slot for slot in self._slots if slot not in busy)
                self._free.pop(slot, None)
                actions += self._moved_to(slot, number, cause, "the sweep goes on")
        return actions

    def _raise_to(self, target: int) -> None:
        """Runs to the end take more steps from now on; those that were complete rest on a rung."""
        if target > self._course.steps[-1]:
            self._targets.append(target)
            self._course = self._course.raised(target)
            self._book.ladder = self._course.ladder

    def _on_the_way(self) -> list[int]:
        """Members between two rungs that nobody trains; by slot."""
        members = [(it.slot, number) for number, it in enumerate(self._members) if it.slot and not it.is_under_way]
        return [number for _, number in sorted(members) if self._is_on_the_way(number)]

    def _is_on_the_way(self, number: int) -> bool:
        run = self._members[number].run
        return self._current[run] == number and self._book.runs[run].until is not None

    def _report_of(self, number: int) -> str:
        """Id of the event in which a member reported, or failed, last."""
        member = self._members[number]
        return f"{'failed' if member.has_failed else 'report'}:{number}:{member.segment}"

    @property
    def _num_under_way(self) -> int:
        return sum(member.is_under_way for member in self._members)

    # ------------------------------------------------------------------------------------------- what slots do next

    def _fill(self) -> list[Action]:
        """Free slots get work, as long as the budget lasts."""
        slots = [slot for slot in self._slots if slot in self._free]
        orders = self._affordable(self._orders(slots))
        actions: list[Action] = []
        for slot, order in self._assigned(slots, orders):
            actions += self._carry_out(slot, order, self._free.pop(slot))
        return actions

    def _orders(self, slots: Sequence[Slot]) -> list[Order]:
        """Of each stack's free slots; those that are begun there at once are of one structure."""
        first = self._book.ladder.rungs[0]
        known = self._initial[len(self._book.runs) : len(self._book.runs) + len(slots)]
        orders: list[Order] = [Begin(hparams, first) for hparams in known]
        alike = [name for name in self._task.structural if name != self._course.name]
        rest = Counter(slot.stack for slot in slots[len(orders) :]) if alike else {0: len(slots) - len(orders)}
        for number in rest.values():
            seed = int(generator(self._task.seed, "search", self._decisions).integers(2**62))
            orders += self._policy.choose(self._book.after(orders), seed, number, alike) if number else []
            self._decisions += 1
        return orders

    def _affordable(self, orders: Sequence[Order]) -> list[Order]:
        """Those that leave enough to train the best so far to the end."""
        ladder, runs = self._book.ladder, self._book.runs
        best, left, chosen = self._policy.recommend(self._book), self._left, []
        reached = 0.0 if best is None else runs[best].until or runs[best].steps
        for order in orders:
            is_best = isinstance(order, GoOn) and order.run == best
            steps = ladder.to_train(runs[order.run].steps if isinstance(order, GoOn) else 0.0, order.until)
            after = order.until if is_best or best is None else reached
            if steps + ladder.to_train(after, ladder.target) <= left:
                chosen.append(order)
                left -= steps
        return chosen

    @property
    def _left(self) -> float:
        """Steps of the budget that nobody was told to train."""
        return self._book.budget - sum(map(self._ordered, range(len(self._members))))

    def _ordered(self, number: int) -> float:
        """Steps of the target that were, or will be, trained of a member."""
        member = self._members[number]
        if self._is_on_the_way(number):
            return self._course.own_steps(self._book.runs[member.run].until or 0.0) * member.rate
        return member.consumed * member.rate

    def _assigned(self, slots: Sequence[Slot], orders: Sequence[Order]) -> list[tuple[Slot, Order]]:
        """Who sits in one of the slots goes on there; of the others, those of one structure come next to each other."""
        seats = {self._members[self._current[it.run]].slot: it for it in orders if isinstance(it, GoOn)}
        own = {slot: seats[slot] for slot in slots if slot in seats}
        rest = [order for order in orders if not any(order is it for it in own.values())]
        others = iter(sorted(rest, key=self._structure))
        found = [(slot, own.get(slot) or next(others, None)) for slot in slots]
        return [(slot, order) for slot, order in found if order is not None]

    def _structure(self, order: Order) -> list[str]:
        """What a stack is built for: members that have it in common are trained together."""
        run = order.hparams if isinstance(order, Begin) else self._book.runs[order.run].hparams
        hparams = self._course.hparams(run, order.until)
        return [repr(hparams.get(name)) for name in self._task.structural]

    def _carry_out(self, slot: Slot, order: Order, cause: str) -> list[Action]:
        known = self._book.runs[order.run] if isinstance(order, GoOn) else None
        run = self._book.take(order)
        if known is not None and not self._book.ladder.begins_again(known.steps, order.until):
            number = self._current[run]
            actions = self._moved_to(slot, number, cause, order.reason)
        else:
            number, before = len(self._members), None if known is None else self._current[run]
            self._current[run : run + 1] = [number]
            self._members.append(_Member(run, self._course.rate(order.until)))
            hparams = self._course.hparams(self._book.runs[run].hparams, order.until)
            reason = order.reason if before is None else f"member {before} again: {order.reason}"
            actions = self._cleared(slot, cause, number)
            actions.append(self._start(number, slot, self._task.space.point(hparams), cause, reason))
        return [*actions, self._train(cause, number)]

    def _start(self, number: int, slot: Slot, hparams: Hparams, cause: str, reason: str) -> Start:
        self._members[number].slot = slot
        seed = member_seed(self._task.seed, number)
        return Start(cause=cause, member=number, slot=slot, hparams=hparams, seed=seed, reason=reason)

    def _moved_to(self, slot: Slot, number: int, cause: str, reason: str) -> list[Action]:
        """A member comes to a slot, unless it sits there."""
        if self._members[number].slot == slot:
            return []
        actions = self._cleared(slot, cause, number)
        self._members[number].slot = slot
        return [*actions, Thaw(cause=cause, member=number, slot=slot, reason=reason)]

    def _cleared(self, slot: Slot, cause: str, for_: int) -> list[Action]:
        """Who sits in a slot makes way for another, and is frozen unless nobody can go on with it."""
        for number, member in enumerate(self._members):
            if member.slot == slot:
                member.slot = None
                is_needed = self._current[member.run] == number and not self._book.runs[member.run].is_over
                reason = f"others promised more, and member {for_} has its slot"
                return [Freeze(cause=cause, member=number, reason=reason)] if is_needed else []
        return []

    def _train(self, cause: str, number: int) -> ContinueUntil:
        """A member trains to the end of a generation, or to where it was told before it was cut short."""
        member, steps = self._members[number], self._task.budget.steps
        until = self._book.runs[member.run].until
        assert until is not None
        member.segment += 1
        member.until = min(self._course.own_steps(until), (member.consumed // steps + 1) * steps)
        member.is_under_way = True
        generation = math.ceil(member.until / steps) - 1
        return ContinueUntil(cause=cause, member=number, consumed=member.until, generation=generation, lends=False)

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
        cause, target = self._report_of(self._current[best]), self._book.ladder.target
        if not self._is_complete(best):
            if self._stopped is None and self._book.ladder.to_train(self._book.runs[best].steps, target) <= self._left:
                return self._confirm(best, cause)
            complete = self._best_complete()
            best = best if complete is None else complete
        self._announced = self._current[best]
        answer = self._answer_about(self._announced)
        if self._evaluations.get(answer):
            return [self._finish_with_best(cause)]
        self._evaluations[answer] = False
        free = (slot for slot in self._slots if slot in self._free)
        seat = self._members[self._announced].slot or next(free, self._slots[0])
        seated = self._moved_to(seat, self._announced, cause, _BEST)
        return [*seated, Evaluate(cause=cause, member=self._announced, split=self._task.final_split)]

    def _best_complete(self) -> int | None:
        """Of those that were trained to the end, the best at the target; None if there are none."""
        there = {run: bad for run, bad in self._book.at(self._book.ladder.target).items() if math.isfinite(bad)}
        return min(there, key=lambda it: (there[it], it), default=None)

    def _is_complete(self, run: int) -> bool:
        return self._book.runs[run].steps >= self._book.ladder.target

    def _confirm(self, run: int, cause: str) -> list[Action]:
        """Train a run to the end. All slots are free."""
        slot = self._members[self._current[run]].slot or self._slots[0]
        self._free.pop(slot, None)
        return self._carry_out(slot, GoOn(run, self._book.ladder.target, _BEST), cause)

    def _hear(self, event: EvaluationEnded) -> list[Action]:
        if self._evaluations.get(event.id) is not False:
            return []
        self._evaluations[event.id] = True
        if self._finished or self._announced is None or event.id != self._answer_about(self._announced):
            return []
        return [self._finish_with_best(event.id)]

    def _answer_about(self, member: int) -> str:
        return f"evaluation:{member}:{self._members[member].segment}:{self._task.final_split}"

    def _finish_with_best(self, cause: str) -> Finish:
        assert self._announced is not None
        begun = len(self._book.runs)
        complete = sum(map(self._is_complete, range(begun)))
        told = f"expected to be the best of {begun} configurations, {complete} of them trained to the end"
        return self._finish(cause, self._announced, "; ".join(filter(None, (self._stopped, told))))

    def _finish(self, cause: str, best: int | None, reason: str) -> Finish:
        self._finished = True
        return Finish(cause=cause, best=best, reason=reason)


def _member(row: Mapping[str, Any]) -> _Member:
    slot = None if row["slot"] is None else Slot(**row["slot"])
    return _Member(**{**row, "slot": slot})
