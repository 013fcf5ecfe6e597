"""The brain: one per sweep, the only owner of strategy state, event order and ledger.

Reports come in, are recorded and shown to the strategy; its actions are recorded, and only then become work orders.
The brain is a plain object: in process it is called directly, under Ray an actor holds it. It never waits.

On a ledger that has something in it already, the brain tells its strategy again what happened, checks that it decides
what is on record, and has the states that were lost trained again: see `history`, `minutes` and `recovery`.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pbt.errors import HostError, StorageError
from pbt.lineage import Lineage
from pbt.member import Hparams, SegmentKey, Shrinkage, Slot
from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.schema import canonical
from pbt.runtime.checkpoints import Checkpoint
from pbt.runtime.drafts import Draft
from pbt.runtime.history import (
    Extension,
    Happening,
    History,
    Moment,
    SegmentEnded,
    Told,
    moments,
    read_history,
)
from pbt.runtime.minutes import Minutes
from pbt.runtime.nodes import Nodes
from pbt.runtime.orders import (
    Admit,
    Examine,
    Fetch,
    Renew,
    SegmentResult,
    StackReport,
    Train,
    Trouble,
    WorkOrder,
)
from pbt.runtime.outstanding import AtWork, Outstanding
from pbt.runtime.plan import Plan
from pbt.runtime.planning import ToBuild, in_words, less_at_once, unbuilt
from pbt.runtime.purse import Purse
from pbt.runtime.rescue import Rescue
from pbt.runtime.results import Results
from pbt.runtime.retention import removable
from pbt.runtime.saving import Saving, key_of, token_of
from pbt.runtime.states import States
from pbt.runtime.suspects import Suspects
from pbt.runtime.tokens import Tokens
from pbt.strategy import (
    Action,
    BudgetEnded,
    ContinueUntil,
    Copy,
    Decline,
    Evaluate,
    Event,
    Extended,
    Finish,
    Freeze,
    SegmentReported,
    Set,
    Shrink,
    Start,
    Strategy,
    SweepStarted,
    Thaw,
    Together,
)

#: Members that may break off alone, one after another, before the sweep ends: then it is not the members' fault.
_MOST_BLAMED = 3


@dataclass(slots=True)
class _Member:
    """What the brain knows of a member.

    Attributes:
        slot: Where it sits, or sat last.
        segment: The last segment begun; -1 before the first.
        ended: The last segment that ended, `age` and `consumed` at its end, and what it was `trained` with.
        start: How the next segment starts, from which `parent`, at which age, and what becomes of the weights first.
        until: Value of `consumed` at which the segment under way ends; None between two segments.
        lends: Whether the state at the last report may be asked for while that segment is under way.
        alive: Whether it can be trained on: it has neither failed nor been given up.
    """

    slot: Slot
    seed: int = 0
    hparams: Hparams = field(default_factory=dict)
    segment: int = -1
    ended: int = -1
    age: int = 0
    consumed: int = 0
    trained: Hparams = field(default_factory=dict)
    start: str = "fresh"
    parent: SegmentKey | None = None
    start_age: int = 0
    shrinkage: Shrinkage | None = None
    until: int | None = None
    lends: bool = True
    alive: bool = True


class Brain:
    """Turns reports into work orders.

    Args:
        plan: The sweep's fixed facts.
        strategy: Decides; just begun.
        ledger: Records; the brain is its one writer.
        states: Saves, offers and drops states.
        clock: Seconds, from any beginning.
    """

    def __init__(
        self,
        plan: Plan,
        strategy: Strategy,
        ledger: Ledger,
        states: States,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._strategy = strategy
        self._ledger = ledger
        self._minutes = Minutes(ledger)
        self._results = Results(plan, ledger)
        self._states = states
        self._clock = clock
        self._tokens = Tokens(states.drop)
        self._slots = plan.slots
        self._capacities = Counter(slot.stack for slot in plan.slots)
        self._members: dict[int, _Member] = {}
        self._seats: dict[int, dict[int, int]] = {slot.stack: {} for slot in plan.slots}  # who sits in which slot
        self._frozen: set[int] = set()  # of whom it is not sure yet that they are saved
        self._thawed: set[SegmentKey] = set()  # states of whom it is not sure yet that they are at hand
        self._drafts: defaultdict[int, Draft] = defaultdict(Draft)
        self._closing: defaultdict[int, Draft] = defaultdict(Draft)
        self._outstanding = Outstanding()
        self._suspects = Suspects()
        self._losses: Counter[int] = Counter()
        self._releasing: dict[int, bool] = {}
        self._blamed: list[tuple[Train, StackReport, Trouble]] = []
        self._rescue: Rescue | None = None
        self._is_coming_back = False
        self._plans: dict[int, str] = {}
        self._trained: frozenset[int] = frozenset()
        self._num_orders = 0
        self._session = 0
        self._nodes = Nodes(0)
        self._was_cut = False
        self._is_stopping = False
        self._is_closing = False
        self.finished = False
        self.best: int | None = None
        self.num_trained = 0

    @property
    def num_stacks(self) -> int:
        """Number of stacks the sweep is laid out on."""
        return len(self._seats)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: the sweep has finished or was stopped, and everything is saved."""
        return self._is_closing and not (self._outstanding or self._closing or self._saving.pending)

    def capacity(self, stack: int) -> int:
        """Number of slots of a stack."""
        return self._capacities[stack]

    def start(self) -> None:
        """Begin the sweep, or go on with it.

        Raises:
            LedgerError: The ledger is damaged, or the strategy no longer decides what is on record.
        """
        history = read_history(LedgerReader(self._ledger.run), self._plan.metric, self._plan.split)
        self._saving = Saving(self._plan.checkpoints, self._states, self._clock, history.checkpoints)
        plan = self._plan
        self._purse = Purse(plan.budget, history.usage, plan.tokens_per_step, self._clock, plan.devices)
        self._plans, self._trained = dict(history.plans), history.trained
        self._open_session(history)
        self._minutes = Minutes(self._ledger, history.decided)
        self._states.keep(set(history.checkpoints.values()) | history.damaged)
        self._tell((Told(SweepStarted(id="start", slots=self._plan.slots)),))
        extensions = self._tell_again(history)
        self._minutes.close()
        self._secure()
        self._recover(range(self.num_stacks))
        self._is_coming_back = self._rescue is not None
        self._extend(extensions)
        self._record_stacks()
        self._settle()

    def to_build(self, stack: int) -> ToBuild:
        """What a host needs to build a stack: stacks of one capacity share the plan that was measured first."""
        known = self._plans.get(stack)
        if known is None and stack not in self._trained:
            alike = (plan for other, plan in self._plans.items() if self.capacity(other) == self.capacity(stack))
            known = next(alike, None)
            if known is not None:
                self.planned(stack, known)
        is_to_plan = known is None and stack not in self._trained
        return ToBuild(stack, self.capacity(stack), known, is_to_plan)

    def planned(self, stack: int, plan: str) -> None:
        """Record how a stack is going to run, before it does.

        Args:
            stack: Its number.
            plan: JSON text of a `trainables.Plan`.

        Raises:
            StorageError: It could not be recorded.
        """
        self._plans[stack] = plan
        data = {"stack": stack, "plan": json.loads(plan)}
        self._ledger.append("decisions", kind="plan", reason=f"stack {stack}: {in_words(plan)}", data=canonical(data))
        self._ledger.commit()

    def orders(self, stacks: Iterable[int]) -> list[WorkOrder]:
        """Work for these stacks, at most one order each; none for a stack that has not reported its last.

        Raises:
            StorageError: The decisions behind the orders could not be recorded.
        """
        waiting, made = sorted(set(stacks) - self._outstanding.stacks), []
        while waiting:
            orders = [order for stack in waiting if (order := self._next(stack)) is not None]
            made += orders
            # What these publish, others may have waited for.
            waiting = [stack for stack in waiting if stack not in self._outstanding.stacks] if orders else []
        self._ledger.commit()
        return made

    def may_order(self, stacks: Iterable[int]) -> bool:
        """Whether `orders` may have anything for these stacks; as good as free, where that is not."""
        coming_back = self._rescue.stacks if self._rescue is not None else frozenset()
        there = (self._drafts, self._closing, self._releasing, coming_back)
        return any(stack in known for stack in stacks for known in there)

    def report(self, reports: Sequence[StackReport]) -> None:
        """Take in the answers to orders. One that was answered before, or given up, changes nothing."""
        answered = [(report, known) for report in reports if (known := self._answered(report)) is not None]
        fresh = [(report, known) for report, known in answered if report.trouble is None]
        for report, known in answered:
            trained = [(self._steps(it), self._plan.share(it.held)) for it in report.segments if known.draft]
            self._purse.spend(report, sum(n for n, _ in trained), sum(n * share for n, share in trained))
        if answered:
            used = self._purse.used_now()
            self._ledger.append("usage", session=self._session, **used)
            readings = [node for report, _ in answered for node in report.nodes]
            for row in self._nodes.rows(readings, used["wall_s"]):
                self._ledger.append("nodes", **row)
        work = [report for report, known in fresh if known.draft is not None]
        happened = self._budget_events(work)
        if any(report.segments for report in work):
            happened += self._failed()  # before the reports: nobody is to copy them any more
        for report, known in fresh:
            happened += self._take_in(report) if known.draft is not None else self._rescued(report, known.order)
            if known.draft is not None:
                self._went_well(report, known)
        self._ledger.commit()
        self._tell_all(happened)
        self._provide()
        for report, known in answered:
            if report.trouble is not None:
                self._broke_off(report, known, report.trouble)
        self._settle()

    def _tell_all(self, happened: Sequence[Happening]) -> None:
        for moment in self._as_told(moments(happened)):  # as when they are told again
            self._tell(moment)
        self._secure()
        self._ledger.commit()  # before anyone can ask for the orders

    def _answered(self, report: StackReport) -> AtWork | None:
        known = self._outstanding.get(report.stack, report.order)
        if known is not None:
            self._tokens.published_all(item.token for item in known.order.publish)
            self._outstanding.take(report.stack)
        return known

    def _went_well(self, report: StackReport, known: AtWork) -> None:
        for item in known.order.fetch:
            self._tokens.read(item.token, _reader(Slot(report.stack, item.slot)))
            self._thawed.discard(key_of(item.token))
        if report.segments:
            self.num_trained += len(report.segments)
            self._suspects.trained(report.stack)
            self._losses[report.stack] = 0

    def lost(self, stacks: Iterable[int], reason: str, gone: Iterable[str] = ()) -> None:
        """The hosts of these stacks are gone: what they held is trained again, what they were doing is done again.

        Args:
            stacks: Which.
            reason: Why, for people.
            gone: Tokens of published states that went with them.

        Raises:
            HostError: A stack was lost too often without training anything in between.
        """
        gone, lost = set(gone), set(stacks)
        self._tokens.gone(gone)
        for stack in sorted(lost):
            nth, most = self._losses[stack] + 1, self._plan.retries
            often = "" if most is None else f"; lost {nth} of at most {most} times in a row"
            self._ledger.append("incidents", kind="host_lost", stack=stack, message=reason + often)
            self._count_loss(stack, reason)
        # States that are gone are trained again in stacks that are lost; where there are none, in those that need them.
        self._bring_back(lost or {stack for stack, draft in self._drafts.items() if draft.fetched & gone})
        self._settle()

    def unbuilt(self, stack: int, trouble: Trouble) -> None:
        """A host could not build a stack, and is lost with it.

        Args:
            stack: Which.
            trouble: What it raised.

        Raises:
            HostError: Nothing has been trained yet, and neither memory nor the device is to blame: so it will remain.
        """
        message = f"stack {stack} could not be built: {trouble.told}\n{trouble.traceback}"
        self._ledger.append("incidents", kind="exception", stack=stack, message=message)
        self._ledger.commit()
        if not (self.num_trained or trouble.is_memory or trouble.is_lasting):
            raise _with(trouble, unbuilt(stack, trouble.told, self._ledger.run))

    def release(self, stack: int) -> None:
        """Have a stack ready to be built elsewhere: it is ordered nothing more until its members are saved."""
        self._releasing.setdefault(stack, False)

    def is_released(self, stack: int) -> bool:
        """Whether a stack that was to be released can go; where its members could not be saved, they are lost then."""
        if not self._releasing.get(stack, False) or stack in self._outstanding.stacks or self._is_closing:
            return False
        return not any(self._members[key.member].slot.stack == stack for key in self._saving.pending)

    def moved(self, stack: int, reason: str) -> None:
        """A released stack is given up where it was: it is brought back wherever it is built next."""
        self._ledger.append("incidents", kind="moved", stack=stack, message=reason)
        self._bring_back({stack})
        self._settle()

    def _count_loss(self, stack: int, reason: str) -> None:
        self._losses[stack] += 1
        if self._plan.retries is not None and self._losses[stack] > self._plan.retries:
            times = self._losses[stack]
            raise HostError(
                f"stack {stack} was lost {times} times without training anything in between, the last time because "
                f"{reason}. What is recorded is kept: mend that, then `pbt resume {self._ledger.run}`; or allow more "
                "with hosts.retries."
            )

    def _bring_back(self, lost: set[int]) -> None:
        """Have the states of these stacks trained again, and what they were doing done again."""
        for stack in sorted(lost):
            self._take_back(stack)
            self._releasing.pop(stack, None)
        if self._rescue is not None:  # begins again, with these stacks in it
            for stack in self._rescue.stacks:
                self._take_back(stack)
            self._tokens.read_all(map(token_of, self._rescue.read), "rescue")
            lost |= self._rescue.stacks
        self._is_coming_back = False
        if self._is_closing:  # who has nothing to save any more needs no states
            lost &= self._closing.keys()
        self._recover(lost)
        self._withdraw()
        self._ledger.commit()

    def _broke_off(self, report: StackReport, known: AtWork, trouble: Trouble) -> None:
        """An exception broke an order off: the stack is brought back, and whose fault it was is found out.

        Where the device had no room, the stack trains fewer members together from now on. Otherwise its members are
        trained in halves until one breaks off alone: it has failed, and the others go on.
        """
        stack, smaller = report.stack, None
        if trouble.is_memory:
            smaller = less_at_once(self._plans.get(stack), self.capacity(stack), self._plan.session.place)
        self._outstanding.add(known)  # as if it had not been answered
        if smaller is not None:
            message = f"stack {stack} found no room ({trouble.message}): it trains fewer members together from now on"
            self._ledger.append("incidents", kind="out_of_memory", stack=stack, message=message)
            self.planned(stack, smaller)
            self._bring_back({stack})
            return
        item = self._culprit(known)
        at = {} if item is None else {"member": item.member, "segment": item.segment}
        who = f"stack {stack}" if item is None else f"member {item.member}, trained alone,"
        message = f"{who} broke off: {trouble.told}\n{trouble.traceback}"
        self._ledger.append("incidents", kind="exception", stack=stack, **at, message=message)
        if known.draft is None or not known.order.train:
            self._count_loss(stack, trouble.told)
        self._bring_back({stack})
        if item is not None:
            self._blame(item, report, trouble)

    def _culprit(self, known: AtWork) -> Train | None:
        """What an order that broke off trained, if that was one member only."""
        trained = {item.slot: item for item in known.order.train}
        if known.draft is None or not trained:
            return None
        slot = self._suspects.broke_off(known.order.stack, trained.keys())
        return None if slot is None else trained[slot]

    def _blame(self, item: Train, report: StackReport, trouble: Trouble) -> None:
        """A member broke off when it was trained alone. It has failed, once it is clear that others can be trained."""
        self._blamed.append((item, report, trouble))
        if len(self._blamed) >= min(_MOST_BLAMED, len(self._members)):
            problem = HostError(
                f"{len(self._blamed)} members in a row could not be trained, the last because of {trouble.told}. "
                f"Mend that, then `pbt resume {self._ledger.run}`; `pbt show {self._ledger.run} --json` shows where."
            )
            raise _with(trouble, problem)
        draft = self._drafts[report.stack]
        if item.slot in draft.fetch:
            self._tokens.read(draft.fetch[item.slot].token, _reader(self._members[item.member].slot))
        draft.forget(item.slot)

    def _failed(self) -> list[Happening]:
        """Those that were blamed have failed."""
        blamed, self._blamed = self._blamed, []
        happened: list[Happening] = []
        for item, report, trouble in blamed:
            member = self._members[item.member]
            result = SegmentResult(
                member=item.member,
                segment=item.segment,
                age=member.start_age,
                consumed=member.consumed,
                held={},
                failure=trouble.told,
            )
            happened.append(self._ended(result, report, None))
        return happened

    def is_to_wait(self, stack: int, order: str, token: str) -> bool:
        """Whether a host is to go on waiting for a state that a stack's order is to fetch, before it has begun with it.

        If not, the host forgets the order: it was given up, or whoever was to publish the state is lost, and the order
        will be given again.
        """
        if self._outstanding.get(stack, order) is None:
            return False
        if self._is_coming(token):
            return True
        self._take_back(stack)
        if self._rescue is None and self._unpublished():  # lost with a host that had no stacks any more
            self._bring_back({stack})
        return False

    def forgo(self, orders: Iterable[tuple[int, str]]) -> None:
        """A host has not begun with these orders, `(stack, id)`, and will not: they may be given again."""
        for stack, order in orders:
            if self._outstanding.get(stack, order) is not None:
                self._take_back(stack)
        self._settle()

    def _take_back(self, stack: int) -> None:
        known = self._outstanding.take(stack)
        if known is not None and known.draft is not None:
            drafts = self._closing if known.is_closing else self._drafts
            drafts[stack] = known.draft.joined(drafts.get(stack))

    def _is_coming(self, token: str) -> bool:
        """Whether a state is published, or will be by an order at work."""
        return self._tokens.is_published(token) or self._outstanding.publishes(token)

    def stop(self) -> None:
        """Order nothing more; once what is under way has been reported, save every living member.

        While what an earlier session trained is still being brought back, there is nothing new to save: that ends, too.
        """
        self._is_stopping = True
        self._settle()

    def saved(self, token: str, checkpoint: Checkpoint) -> None:
        """A member's state has been saved."""
        key = key_of(token)
        self._saving.end(key, checkpoint.digest)
        self._tokens.read(token, "save")
        self._record_checkpoint(key, checkpoint.digest, "saved", checkpoint.size_bytes)
        if len(self._saving.saved) > 2 * self._plan.checkpoints.keep * len(self._members):
            self._tidy()
        self._ledger.commit()

    def not_saved(self, token: str, reason: str) -> None:
        """A member's state could not be saved; training goes on."""
        key = key_of(token)
        self._saving.end(key, None)
        self._tokens.read(token, "save")
        self._incident("checkpoint_failed", key, reason)
        self._ledger.commit()

    def close(self) -> None:
        """Remove checkpoints nobody needs, and seal the ledger."""
        try:
            if self.done:
                self._tidy()
        finally:
            self._ledger.close(finished=self.finished and self.done)

    def abandon(self) -> None:
        """Let go of the ledger as the death of the process would."""
        self._ledger.abandon()

    # ------------------------------------------------------------------------------------------ what happened

    def _take_in(self, report: StackReport) -> list[Happening]:
        share = report.joules / len(report.segments) if report.joules is not None and report.segments else None
        happened: list[Happening] = [self._ended(result, report, share) for result in report.segments]
        just_ended = {result.member: result.segment for result in report.segments}
        for examination in report.examinations:
            segment = just_ended.get(examination.member, self._members[examination.member].ended)
            happened.append(self._results.examined(examination, segment))
        return happened

    def _until(self, result: SegmentResult) -> int:
        return self._members[result.member].until or 0

    def _steps(self, result: SegmentResult) -> int:
        return result.consumed - self._members[result.member].consumed

    def _ended(self, result: SegmentResult, report: StackReport, joules: float | None) -> SegmentEnded:
        return self._results.ended(result, report, self._steps(result), joules)

    def _stand(self, ended: SegmentEnded) -> None:
        """The member stands at the end of its segment."""
        number = ended.event.member
        member = self._members[number]
        if member.ended >= 0:
            self._tokens.read(self._token(number), "hold")
        member.ended, member.age, member.consumed = ended.segment, ended.age, ended.consumed
        member.trained = member.hparams
        member.start, member.parent, member.start_age = "own", SegmentKey(number, ended.segment), ended.age
        member.shrinkage = None
        member.until = None
        member.alive = isinstance(ended.event, SegmentReported)

    def _budget_events(self, reports: Sequence[StackReport]) -> list[Happening]:
        """The end of the budget, to be told before reports after which there is not enough for another round."""
        results = {result.member: result for report in reports for result in report.segments}
        if not results or not self._purse.is_limited:
            return []
        under_way, following = 0.0, 0
        for number in self._seated(self._seats):
            member, result = self._members[number], results.get(number)
            if not member.alive or (result is not None and (result.failure or self._results.unreported(result))):
                continue
            reached = result.consumed if result else member.until or member.consumed
            under_way += 0 if result else (reached - member.consumed) * self._plan.share(member.hparams)
            if self._plan.synchronous or result:
                following += self._purse.following(reached)
        self._was_cut |= any(
            result.failure is None and result.consumed < self._until(result) for result in results.values()
        )
        if self._plan.synchronous and under_way:
            return []  # once all have reported: what is decided must not depend on who is first
        was_cut, self._was_cut = self._was_cut, False
        reason = self._purse.exhausted(under_way, following, was_cut, self.num_stacks, self._plan.most_share)
        if reason is None:
            return []
        self._ledger.append("decisions", kind="budget", reason=reason)
        return [Told(BudgetEnded(id=f"budget:{self._purse.num_ends}", reason=reason))]

    # ------------------------------------------------------------------------------------- taking a sweep up again

    def _open_session(self, history: History) -> None:
        known = self._plan.session
        self._session = history.sessions + 1
        self._nodes = Nodes(self._session)
        self._ledger.append(
            "sessions",
            session=self._session,
            reason=known.reason,
            software=canonical(dict(known.software)),
            hardware=canonical(dict(known.hardware)),
            git_commit=known.git_commit,
            spec=canonical(known.spec),
        )

    def _record_stacks(self) -> None:
        for stack in range(self.num_stacks):
            self._ledger.append(
                "stacks",
                session=self._session,
                stack=stack,
                capacity=self.capacity(stack),
                bucket=self._plan.bucket,
                **self._plan.session.place,
            )

    def _tell_again(self, history: History) -> int:
        """Tell the strategy what happened; returns how often the sweep has been extended."""
        extensions = 0
        for moment in self._as_told(history.happened):
            for happening in moment:
                match happening:
                    case SegmentEnded():
                        self._done_before(happening)
                    case Told(event):
                        self._told_before(event)
                    case Extension():
                        extensions += 1
            self._tell(moment, extensions)
        self._ledger.commit()
        return extensions

    def _done_before(self, ended: SegmentEnded) -> None:
        member = self._members[ended.event.member]
        self._saving.was_at(SegmentKey(ended.event.member, ended.segment), ended.consumed)
        is_short = isinstance(ended.event, SegmentReported) and ended.consumed < (member.until or 0)
        self._was_cut |= self._plan.synchronous and is_short  # the others of its generation may not have reported yet
        slot = member.slot
        draft = self._draft(slot)
        self._fetched_before(slot)
        draft.forget(slot.index)
        for receiver in self._seats[slot.stack].values():  # who was to be copied from it then must have it as it was
            index = self._members[receiver].slot.index
            if draft.copy.get(index) == slot.index:
                del draft.copy[index]
                self._fetch(receiver)

    def _told_before(self, event: Event) -> None:
        if isinstance(event, BudgetEnded):
            self._purse.end()
            self._was_cut = False
            return
        member = self._members[event.member]  # type: ignore[union-attr]
        self._draft(member.slot).examine.pop(member.slot.index, None)
        if not self._is_there(event.member):  # type: ignore[union-attr]  # it was thawed to be evaluated
            self._fetched_before(member.slot)

    def _fetched_before(self, slot: Slot) -> None:
        item = self._draft(slot).fetch.pop(slot.index, None)
        if item is not None:
            self._tokens.read(item.token, _reader(slot))
            self._thawed.discard(key_of(item.token))

    def _extend(self, extensions: int) -> None:
        """Extend the sweep, if this session is for that and has not done so yet."""
        if self._plan.session.extension is None or self._plan.session.extension[0] <= extensions:
            return
        number, data = self._plan.session.extension
        self._ledger.append("decisions", kind="extend", data=data, reason="asked for with `pbt extend`")
        self._ledger.commit()
        self._tell((Extension(data),), number)
        self._ledger.commit()

    def _extended(self, number: int, data: str) -> Event:
        told = json.loads(data)
        assert self._plan.extend is not None
        task = self._plan.extend(told["spec"])
        self._slots = tuple(Slot(stack, index) for stack, index in told["slots"])
        was_alone = self.num_stacks == 1
        self._capacities = Counter(slot.stack for slot in self._slots)
        self._seats = {stack: self._seats.get(stack, {}) for stack in self._capacities}
        if was_alone and self.num_stacks > 1:  # members elsewhere may ask from now on
            for member in [member for member, known in self._members.items() if known.until is not None]:
                self._hold(member)
        self._purse.extend(task.budget)
        if self._plan.per_example is not None:  # a wider space has larger ones
            per_example = self._plan.per_example.in_space(task.space)
            self._plan = replace(self._plan, per_example=per_example)
        for draft in self._drafts.values():
            draft.examine.clear()  # who was announced before is no winner any more
        self.finished, self.best, self._is_closing, self._was_cut = False, None, False, False
        return Extended(id=f"extended:{number}", task=task, slots=self._slots, target_steps=told.get("target_steps"))

    # ------------------------------------------------------------------------------- training again what was lost

    def _recover(self, stacks: Iterable[int]) -> None:
        """Have the states trained again that these stacks must hold before they can go on."""
        lost = set(stacks)
        targets = {self._members[key.member].slot: key for key in self._there(sorted(lost))}
        for key, slot in self._leaving(lost):
            targets[slot] = key
        extra = self._unpublished()
        self._rescue = None
        if not lost or not (targets or extra):
            return
        rows = LedgerReader(self._ledger.run).rows(("segments", "outcomes"))
        while self._rescue is None:
            slots = [slot for slot in self._slots if slot.stack in lost]
            rescue = Rescue(rows, targets, extra, slots, self._saving.saved)
            if (broken := self._offer(rescue)) is None:
                self._rescue = rescue
                if rescue.outlook is not None:
                    self._ledger.append("incidents", kind="recovering", message=rescue.outlook)
            else:
                self._give_up_checkpoint(*broken)

    def _leaving(self, stacks: Iterable[int]) -> Iterator[tuple[SegmentKey, Slot]]:
        """Frozen members whose states are in their slots until they have been published."""
        for stack in stacks:
            for index, token in self._drafts[stack].publish.items() if stack in self._drafts else ():
                if self._seats[stack].get(index) != key_of(token).member:
                    yield key_of(token), Slot(stack, index)

    def _seated(self, stacks: Iterable[int]) -> Iterator[int]:
        """Members that have a slot in one of these stacks."""
        for stack in stacks:
            yield from self._seats.get(stack, {}).values()

    def _is_seated(self, number: int) -> bool:
        slot = self._members[number].slot
        return self._seats[slot.stack].get(slot.index) == number

    def _there(self, stacks: Iterable[int]) -> list[SegmentKey]:
        """End states of the living that the slots of these stacks hold, or would if they had not been lost."""
        living = (number for number in self._seated(stacks) if self._members[number].alive)
        return [SegmentKey(number, self._members[number].ended) for number in living if self._is_there(number)]

    def _is_there(self, number: int) -> bool:
        """Whether a seated member's slot holds its state, or would if its stack had not been lost."""
        ended = self._members[number].ended
        return ended >= 0 and SegmentKey(number, ended) not in self._thawed

    def _unpublished(self) -> set[SegmentKey]:
        """States to be read that nobody publishes any more; that some have been by now, nobody here can know."""
        read = self._outstanding.fetched | {token for draft in self._drafts.values() for token in draft.fetched}
        read |= {token_of(key) for key in self._saving.pending if not self._is_seated(key.member)}
        drafted = {token for draft in self._drafts.values() for token in draft.publish.values()}
        return {key_of(token) for token in read - drafted if not self._is_coming(token)}

    def _offer(self, rescue: Rescue) -> tuple[SegmentKey, str] | None:
        """Publish the checkpoints a recovery begins from; returns the first that is damaged, and what is wrong."""
        for offered, (key, digest) in enumerate(rescue.loads):
            try:
                self._states.offer(token_of(key), digest)
            except StorageError as error:
                for other, _ in rescue.loads[:offered]:
                    self._states.drop(token_of(other))
                return key, str(error)
        for key in rescue.read:
            self._tokens.reads(token_of(key), "rescue")
        self._tokens.published_all(token_of(key) for key, _ in rescue.loads)
        return None

    @property
    def _is_to_leave_recovery(self) -> bool:
        return self._is_stopping and self._is_coming_back and not self.finished

    def _leave_recovery(self, rescue: Rescue) -> None:
        """What is not back yet is left to the next session, which finds all as this one did."""
        if (rest := rescue.rest) is not None:
            self._ledger.append("incidents", kind="recovery_stopped", message=rest)
        self._tokens.read_all(map(token_of, rescue.read), "rescue")
        self._drafts.clear()
        self._rescue, self._is_closing = None, True

    def _give_up_checkpoint(self, key: SegmentKey, problem: str) -> None:
        digest = self._saving.saved.pop(key)
        self._record_checkpoint(key, digest, "damaged")
        older = "its segments are trained again from an older one, or from the start"
        self._incident("checkpoint_damaged", key, f"{problem} {older}.")

    def _rescued(self, report: StackReport, order: WorkOrder) -> list[Happening]:
        """A step of a recovery was done; that is no news to the strategy."""
        assert self._rescue is not None
        for result in report.segments:
            self._rescue.check(result, is_limited=order.stop_after_s is not None)
            if (problem := self._rescue.difference(result, self._results.score(result))) is not None:
                self._incident("differs", SegmentKey(result.member, result.segment), problem)
        self._tokens.read_all(map(token_of, self._rescue.reported(report.stack)), "rescue")
        if self._rescue.done:
            self._tokens.read_all(map(token_of, self._rescue.read), "rescue")
            self._ledger.append("incidents", kind="recovered", message=self._rescue.story)
            self._rescue, self._is_coming_back = None, False
        return []

    # ---------------------------------------------------------------------------------------- what is to be done

    def _as_told(self, happened: Iterable[Moment]) -> Iterable[Moment]:
        """In synchronous mode one by one: it makes no difference, so how stacks are laid out makes none either."""
        return ((it,) for moment in happened for it in moment) if self._plan.synchronous else happened

    def _tell(self, moment: Moment, extensions: int = 0) -> None:
        """Something happened, now or before: the strategy is told, and its decisions are taken down."""
        for happening in moment:
            if isinstance(happening, SegmentEnded):
                self._stand(happening)
        for action in self._strategy.handle([self._event(moment, extensions)]):
            self._take(action)

    def _event(self, moment: Moment, extensions: int) -> Event:
        match moment:
            case (SegmentEnded(event=event),) | (Told(event),):
                return event
            case (Extension(data),):
                return self._extended(extensions, data)
        return Together(reports=tuple(it.event for it in moment if isinstance(it, SegmentEnded)))

    def _take(self, action: Action) -> None:
        match action:
            case Start():
                self._start(action)
            case Copy():
                self._copy(action)
            case Set():
                self._set(action)
            case Shrink():
                self._shrink(action)
            case ContinueUntil():
                self._continue(action)
            case Freeze():
                self._freeze(action)
            case Thaw():
                self._thaw(action)
            case Decline():
                self._decide("decline", action.cause, action.member, reason=action.reason)
            case Evaluate():
                self._decide("evaluate", action.cause, action.member, reason=f"on the {action.split} split")
                slot = self._members[action.member].slot
                self._draft(slot).examine[slot.index] = Examine(slot.index, action.member, action.split)
            case Finish():
                self._decide("finish", action.cause, action.best, reason=action.reason)
                self.finished, self.best = True, action.best

    def _start(self, action: Start) -> None:
        member = self._members.setdefault(action.member, _Member(action.slot))
        hparams = self._full(action.hparams)
        self._decide("start", action.cause, action.member, hparams=hparams, reason=action.reason or None)
        self._seat(action.member, action.slot)
        member.seed, member.hparams = action.seed, hparams
        member.start, member.parent, member.start_age = "fresh", None, 0
        slot = member.slot.index
        self._draft(member.slot).admit[slot] = Admit(slot, hparams, member.seed, member.consumed)

    def _freeze(self, action: Freeze) -> None:
        """The member's state is published before anything is changed in its slot, and saved: nothing else has it."""
        self._decide("freeze", action.cause, action.member, reason=action.reason or None)
        member = self._members[action.member]
        key = SegmentKey(action.member, member.ended)
        if not self._saving.is_safe(key):
            self._draft(member.slot).publish[member.slot.index] = token_of(key)
            self._frozen.add(action.member)
        del self._seats[member.slot.stack][member.slot.index]

    def _secure(self) -> None:
        """Those that were frozen are saved."""
        for number in sorted(self._frozen):
            self._begin_to_save(SegmentKey(number, self._members[number].ended), self._members[number].trained)
        self._frozen.clear()

    def _thaw(self, action: Thaw) -> None:
        place = canonical({"stack": action.slot.stack, "slot": action.slot.index})
        self._decide("thaw", action.cause, action.member, reason=action.reason or None, data=place)
        self._seat(action.member, action.slot)
        self._fetch(action.member)
        self._frozen.discard(action.member)
        self._thawed.add(SegmentKey(action.member, self._members[action.member].ended))

    def _provide(self) -> None:
        """States of those that were thawed are offered from where they were saved, or else trained again."""
        if not self._thawed:
            return
        for key in sorted(self._thawed & self._unpublished() & self._saving.saved.keys()):
            try:
                self._states.offer(token_of(key), self._saving.saved[key])
                self._tokens.published_all([token_of(key)])
            except StorageError as error:
                self._give_up_checkpoint(key, str(error))
        if self._rescue is None and (lost := self._thawed & self._unpublished()):
            self._bring_back({self._members[key.member].slot.stack for key in lost})

    def _seat(self, number: int, slot: Slot) -> None:
        """A member takes a slot; who sat there, and was not frozen, is given up."""
        seats = self._seats[slot.stack]
        if (other := seats.get(slot.index, number)) != number:
            self._members[other].alive = False
        seats[slot.index] = number
        self._members[number].slot = slot

    def _copy(self, action: Copy) -> None:
        donor, receiver = self._members[action.donor], self._members[action.receiver]
        self._decide("copy", action.cause, action.receiver, donor=action.donor, reason=action.reason)
        receiver.start, receiver.start_age = "copied", donor.age
        receiver.parent = SegmentKey(action.donor, donor.ended)
        token = self._token(action.donor)
        is_there = donor.until is None or donor.slot.index in self._draft(donor.slot).train
        if is_there and donor.slot.stack == receiver.slot.stack:
            self._draft(donor.slot).copy[receiver.slot.index] = donor.slot.index
            return
        if is_there:
            self._draft(donor.slot).publish[donor.slot.index] = token
        elif not self._tokens.is_read_by(token, "hold"):
            problem = f"the strategy copies member {action.donor}, which is under way"
            raise HostError(f"{problem}. Set `synchronous = False` in the strategy's options.")
        self._fetch(action.receiver)

    def _fetch(self, receiver: int) -> None:
        """The receiver takes its parent's end state from the exchange."""
        member = self._members[receiver]
        assert member.parent is not None
        slot, token = member.slot.index, token_of(member.parent)
        self._tokens.reads(token, _reader(member.slot))
        self._draft(member.slot).fetch[slot] = Fetch(slot, token, member.hparams, member.seed, member.consumed)

    def _set(self, action: Set) -> None:
        member = self._members[action.member]
        hparams = self._full(action.hparams)
        self._decide("set", action.cause, action.member, hparams=hparams)
        member.hparams = hparams
        slot, draft = member.slot.index, self._draft(member.slot)
        if slot in draft.fetch:  # weights are taken over with the hyperparameters that they are to be trained with
            draft.fetch[slot] = replace(draft.fetch[slot], hparams=hparams)
        else:
            draft.set[slot] = hparams

    def _shrink(self, action: Shrink) -> None:
        member, told = self._members[action.member], canonical(asdict(action.how))
        self._decide("shrink", action.cause, action.member, reason=action.reason, data=told)
        member.shrinkage = action.how
        self._draft(member.slot).renew[member.slot.index] = Renew(member.slot.index, member.hparams, action.how)

    def _continue(self, action: ContinueUntil) -> None:
        member = self._members[action.member]
        member.segment += 1
        member.until = action.consumed
        self._minutes.write(
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
            age_start=member.start_age,
            consumed_start=member.consumed,
            until=action.consumed,
            shrink=canonical(asdict(member.shrinkage)) if member.shrinkage else None,
            cause=action.cause,
        )
        slot, draft = member.slot.index, self._draft(member.slot)
        draft.train[slot] = Train(slot, action.member, member.segment, action.consumed, member.hparams)
        member.lends = action.lends
        if self.num_stacks > 1:
            self._hold(action.member)

    def _hold(self, number: int) -> None:
        """Others may ask for the state at the member's last report while it trains on: keep it at hand.

        Those of its own stack need not: when they have reported, it is at rest as they are, or has not begun.
        """
        member = self._members[number]
        if self._plan.synchronous or not member.lends or member.ended < 0:
            return
        self._draft(member.slot).publish[member.slot.index] = self._token(number)
        self._tokens.reads(self._token(number), "hold")

    def _decide(
        self,
        kind: str,
        cause: str,
        member: int | None,
        *,
        donor: int | None = None,
        hparams: Hparams | None = None,
        reason: str | None = None,
        data: str | None = None,
    ) -> None:
        known = self._members.get(member) if member is not None else None
        self._minutes.write(
            "decisions",
            kind=kind,
            member=member,
            donor=donor,
            segment=known.segment if known else None,
            hparams_before=canonical(dict(known.hparams)) if known and hparams else None,
            hparams=canonical(dict(hparams)) if hparams else None,
            reason=reason,
            cause=cause,
            data=data,
        )

    def _full(self, hparams: Hparams) -> Hparams:
        return {**self._plan.defaults, **hparams}

    def _draft(self, slot: Slot) -> Draft:
        return self._drafts[slot.stack]

    def _token(self, member: int) -> str:
        return token_of(SegmentKey(member, self._members[member].ended))

    # -------------------------------------------------------------------------------------------------- work orders

    def _next(self, stack: int) -> WorkOrder | None:
        if self._rescue is not None and stack in self._rescue.stacks:
            parts = None if self._is_to_leave_recovery else self._rescue.order(stack)
            return None if parts is None else self._release(stack, None, **parts)
        if stack in self._closing:
            return self._carry_out(stack, self._closing.pop(stack), is_closing=True)
        if stack in self._releasing:
            return self._save_to_go(stack)
        draft = self._drafts.get(stack, Draft())
        if draft.is_empty:
            return self._save_meanwhile(stack)
        if self._is_stopping or not self._can_fetch(draft):
            return self._publish_early(stack, draft) or self._save_meanwhile(stack)
        del self._drafts[stack]
        if (suspects := self._suspects.next(stack)) is not None:
            draft, rest = self._apart(stack, draft, suspects)
            self._drafts[stack] = rest.joined(self._drafts.get(stack))
        self._save_due(stack, draft)
        return self._carry_out(stack, draft)

    def _save_due(self, stack: int, draft: Draft) -> None:
        for key in self._unsafe(stack):
            if self._saving.is_due(key, self._members[key.member].consumed):
                self._save(key, draft)

    def _save_meanwhile(self, stack: int) -> WorkOrder | None:
        """While a stack waits for others, those of its members that are due are saved."""
        draft = Draft()
        if not (self._is_stopping or self.finished):  # then all are
            self._save_due(stack, draft)
        return None if draft.is_empty else self._carry_out(stack, draft)

    def _save_to_go(self, stack: int) -> WorkOrder | None:
        """Before a stack is released its members are saved, once: where that fails, older checkpoints must do."""
        was_ordered, self._releasing[stack] = self._releasing[stack], True
        draft = Draft()
        for key in [] if was_ordered else self._unsafe(stack):
            self._save(key, draft)
        return None if draft.is_empty else self._carry_out(stack, draft)

    def _apart(self, stack: int, draft: Draft, slots: frozenset[int]) -> tuple[Draft, Draft]:
        """What is to be done with these slots of a draft, and the rest."""
        for member in self._seats[stack].values():
            receiver = self._members[member].slot.index
            if receiver not in slots and receiver in draft.copy:  # its donor will have trained on by then
                donor, parent = draft.copy.pop(receiver), self._members[member].parent
                assert parent is not None
                draft.publish[donor] = token_of(parent)
                self._fetch(member)
        return draft.split(slots)

    def _can_fetch(self, draft: Draft) -> bool:
        """Whether all a draft is to fetch is published, or will be by orders at work: a host that waits does not ask.

        So no two hosts can wait for each other, nor one for a stack that nobody has.
        """
        return all(map(self._is_coming, draft.fetched))

    def _publish_early(self, stack: int, draft: Draft) -> WorkOrder | None:
        """What others are to fetch from a stack that itself has to wait, or that trains no more."""
        tokens = {token for token in draft.publish.values() if not self._tokens.is_published(token)}
        if self._is_stopping:
            pending = set(map(token_of, self._saving.pending))
            tokens = {token for token in tokens if token in pending or self._outstanding.fetches(token)}
        early = draft.take_publish(tokens)
        return None if early.is_empty else self._carry_out(stack, early)

    def _carry_out(self, stack: int, draft: Draft, is_closing: bool = False) -> WorkOrder:
        return self._release(stack, draft, is_closing, **draft.parts())

    def _release(self, stack: int, draft: Draft | None, is_closing: bool = False, **parts: Any) -> WorkOrder:
        now = self._clock()
        if parts["train"]:
            busy_s = self._outstanding.busy_s(now)
            parts["stop_after_s"] = self._purse.seconds_left(self.num_stacks, busy_s, is_recovery=draft is None)
        self._num_orders += 1
        order = WorkOrder(id=f"order:{self._session}:{self._num_orders}", stack=stack, split=self._plan.split, **parts)
        self._outstanding.add(AtWork(order, draft, is_closing, now))
        self._ledger.append(
            "orders",
            order=order.id,
            stack=stack,
            kind="recovery" if draft is None else "saving" if is_closing else "work",
            segments=canonical([[item.member, item.segment] for item in order.train]),
        )
        return order

    def _settle(self) -> None:
        """Once everything has been reported of a sweep that finished or is to stop, save what is not saved."""
        if self._blamed and not (self._outstanding or self._rescue or self._is_drafted):
            self._tell_all(self._failed())  # nobody is left to show that others can be trained
        if self._is_closing or self._outstanding:
            return
        if self._rescue is not None:
            if self._is_to_leave_recovery:
                self._leave_recovery(self._rescue)
            return
        if not (self.finished or self._is_stopping):
            if not self._is_drafted:
                raise HostError(
                    "the strategy neither orders anything nor ends the sweep: that is a mistake in it. Correct it so "
                    f"that `handle` answers the last report with Finish; `pbt resume {self._ledger.run}` then goes on."
                )
            return
        self._is_closing = True
        for stack in range(self.num_stacks):
            for key in self._unsafe(stack):
                self._save(key, self._closing[stack])
        fetched = {item.token: None for draft in self._drafts.values() for item in draft.fetch.values()}
        self._save_published(key_of(token) for token in fetched if self._tokens.is_published(token))

    @property
    def _is_drafted(self) -> bool:
        """Whether anything is still to be ordered."""
        return not all(draft.is_empty for draft in self._drafts.values())

    def _unsafe(self, stack: int) -> list[SegmentKey]:
        """End states of a stack's living members that are not saved."""
        return [key for key in self._there([stack]) if not self._saving.is_safe(key)]

    # --------------------------------------------------------------------------------------------------- checkpoints

    def _save(self, key: SegmentKey, draft: Draft) -> None:
        """Have a member's state published, and saved."""
        member = self._members[key.member]
        draft.publish[member.slot.index] = token_of(key)
        self._begin_to_save(key, member.trained)

    def _save_published(self, keys: Iterable[SegmentKey]) -> None:
        """Have states saved that were copied from donors which have trained on since, before the receivers began."""
        wanted = {(key.member, key.index): key for key in keys if not self._saving.is_safe(key)}
        if not wanted:
            return
        for row in LedgerReader(self._ledger.run).rows(("segments",))["segments"]:
            if (key := wanted.get((row["member"], row["segment"]))) is not None:
                self._begin_to_save(key, json.loads(row["hparams"]))

    def _begin_to_save(self, key: SegmentKey, hparams: Hparams) -> None:
        about = {"member": key.member, "segment": key.index, "bucket": self._plan.bucket, "hparams": hparams}
        self._tokens.reads(token_of(key), "save")
        self._saving.begin(key, self._members[key.member].consumed, about)

    def _withdraw(self) -> None:
        """What was to be saved, was lost before it was read, and is not published again: nobody is to wait for it."""
        drafts = (*self._drafts.values(), *self._closing.values())
        drafted = {token for draft in drafts for token in draft.publish.values()}
        for key in sorted(self._saving.pending, key=token_of):
            if self._rescue is not None and not self._is_seated(key.member):  # it is frozen: the rescue publishes it
                continue
            token = token_of(key)
            if token not in drafted and not self._is_coming(token):
                self._states.withdraw(token)

    def _tidy(self) -> None:
        """Remove the checkpoints that no living member's ancestry needs."""
        rows = LedgerReader(self._ledger.run).rows(("segments", "outcomes"))
        frontier = {SegmentKey(number, member.ended) for number, member in self._members.items() if member.ended >= 0}
        frontier = {key for key in frontier if self._members[key.member].alive}
        frontier |= {member.parent for member in self._members.values() if member.alive and member.parent is not None}
        pinned = {key for key in frontier if key.member == self.best}
        saved = self._saving.saved
        gone = removable(Lineage.from_rows(rows), frontier, saved, self._plan.checkpoints.keep, pinned)
        for key in gone:
            self._record_checkpoint(key, saved[key], "removed")
        self._ledger.commit()  # a file that is gone must not be looked for
        self._saving.remove(gone)

    def _record_checkpoint(self, key: SegmentKey, digest: str, status: str, size_bytes: int | None = None) -> None:
        self._ledger.append(
            "checkpoints", member=key.member, segment=key.index, digest=digest, size_bytes=size_bytes, status=status
        )

    def _incident(self, kind: str, key: SegmentKey, message: str) -> None:
        self._ledger.append("incidents", kind=kind, member=key.member, segment=key.index, message=message)


def _with(trouble: Trouble, error: HostError) -> HostError:
    """An error that says where the exception behind it was raised, which was elsewhere."""
    error.add_note(trouble.traceback)
    return error


def _reader(slot: Slot) -> str:
    """Name of a slot as a reader of states."""
    return f"slot:{slot.stack}:{slot.index}"
