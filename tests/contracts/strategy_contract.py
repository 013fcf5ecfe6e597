"""What every strategy keeps, as suites to inherit.

A strategy's test module subclasses `StrategyContract`, or `SynchronousContract` if it decides for the whole population
at once, and gives its options::

    class TestContract(SynchronousContract):
        @pytest.fixture
        def options(self):
            return PBT(quantile=0.25)

`play` is the world: it answers actions with events as a brain and its stacks would, on a clock of its own, with scores
and durations from tables; budgets end in it, and sweeps are extended.
"""

from __future__ import annotations

import heapq
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st

from pbt.member import Slot, lay_out
from pbt.spec import Budget
from pbt.strategy import (
    Action,
    BudgetEnded,
    ContinueUntil,
    Copy,
    Evaluate,
    EvaluationEnded,
    Event,
    Extended,
    Finish,
    MemberFailed,
    Report,
    SegmentReported,
    Set,
    Shrink,
    Start,
    Strategy,
    StrategyOptions,
    SweepStarted,
    Task,
    Together,
)
from searchspaces import Choice, Float, Int, Simplex, Space
from tests import strategies
from tests.examples import examples

EXAMPLES = examples(
    15,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # options are frozen
        HealthCheck.differing_executors,  # the suite is inherited
        HealthCheck.too_slow,
    ],
)

METRIC = "Q"
SPACE = Space(
    {
        "lr": Float(1e-4, 1e-1, log=True),
        "optimizer": Choice(["sgd", "adamw"]),
        "momentum": Float(0.0, 0.9, when={"optimizer": "sgd"}),
        "depth": Int(1, 4),
        "mix": Simplex(["books", "web"]),
    }
)
#: After so many events nothing else happens.
AT_THE_END = 10**9

# ------------------------------------------------------------------------------------------------------------- world


@dataclass(frozen=True, slots=True)
class Ended:
    """The budget ends; segments under way are cut short to a share of what they had left."""

    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Grown:
    """The sweep is extended by so many members and generations."""

    members: int = 0
    generations: int = 0
    is_wider: bool = False


@dataclass(frozen=True, slots=True)
class Dies:
    """A member fails, whatever it is doing."""

    member: int


News = Ended | Grown | Dies


@dataclass(frozen=True, kw_only=True)
class Case:
    """What happens in a sweep, whatever the strategy does.

    Attributes:
        task: What the strategy is told.
        scores: `scores[member][generation]`; beyond its end it begins again.
        fails: The generation in which a member fails instead of reporting.
        late: Members that fail while the first winner is being evaluated.
        durations: `durations[member][generation]`, 1 where there is none. Of what ends together the lowest member is
            heard first.
        news: What happens besides, each after so many events, or when nothing else does.
        is_forgetful: Whether evaluations under way are lost when the sweep is extended.
        is_together: Whether what ends together in one stack is told together.
        is_backwards: Whether the highest member then stands first.
    """

    task: Task
    scores: Sequence[Sequence[float]]
    fails: Mapping[int, int] = field(default_factory=dict)
    late: frozenset[int] = frozenset()
    durations: Sequence[Sequence[int]] = ()
    news: Sequence[tuple[int, News]] = ()
    is_forgetful: bool = False
    is_together: bool = False
    is_backwards: bool = False

    @property
    def members(self) -> range:
        return range(self.task.budget.members)

    @property
    def generations(self) -> int:
        return self.task.budget.generations

    def score(self, member: int, generation: int) -> float:
        """What a member reports at the end of a generation."""
        row = self.scores[member % len(self.scores)]
        return row[generation % len(row)]

    def duration(self, member: int, generation: int) -> int:
        """How long a member trains in a generation."""
        row = self.durations[member] if member < len(self.durations) else ()
        return row[generation] if generation < len(row) else 1

    def survivors(self, generation: int) -> set[int]:
        """Members that come to the end of a generation; of that after the last, if they live to see the end."""
        late = self.late if generation >= self.generations else frozenset()
        return {member for member in self.members if self.fails.get(member, math.inf) > generation} - late


@dataclass
class Known:
    """What the world knows of a member.

    Attributes:
        age: Of its weights at its last report.
        start_age: Of the weights it goes on from.
        until: Where its segment ends; None while it is idle.
        lends: Whether what it held before that can be copied.
        hparams: What it trains with.
        made_for: The structural ones of its weights.
        was_made_for: Those of its weights at its last report.
    """

    age: int = 0
    start_age: int = 0
    consumed: int = 0
    segment: int = -1
    generation: int = -1
    until: int | None = None
    lends: bool = True
    score: float | None = None
    is_alive: bool = True
    hparams: Mapping[str, Any] = field(default_factory=dict)
    made_for: Mapping[str, Any] = field(default_factory=dict)
    was_made_for: Mapping[str, Any] = field(default_factory=dict)

    @property
    def can_be_copied(self) -> bool:
        return self.is_alive and (self.until is None or self.lends)


class Told(NamedTuple):
    """An event, how it was answered, and how things stood.

    Attributes:
        event: What was told.
        actions: The answer.
        generation: The generation of the segment that ended, of several the last; None if none did.
        task: In force when it was answered.
        scores: Last scores of the living when it was answered.
        under_way: Who was still training when it was told.
        can_be_copied: Who was idle, or lent its last state.
    """

    event: Event
    actions: list[Action]
    generation: int | None
    task: Task
    scores: Mapping[int, float]
    under_way: frozenset[int]
    can_be_copied: frozenset[int]

    @property
    def parts(self) -> tuple[Event, ...]:
        """The reports that were told together, or else the event alone."""
        return self.event.reports if isinstance(self.event, Together) else (self.event,)


@dataclass
class Story:
    """What was said, in order, and what became of it."""

    strategy: Strategy
    told: list[Told] = field(default_factory=list)
    members: dict[int, Known] = field(default_factory=dict)

    @property
    def events(self) -> list[Event]:
        return [told.event for told in self.told]

    @property
    def actions(self) -> list[Action]:
        return [action for told in self.told for action in told.actions]

    def told_of(self, generation: int) -> list[Told]:
        """What was told at the ends of segments of a generation; -1 is the start."""
        return [told for told in self.told if told.generation == generation]

    def actions_of(self, generation: int) -> list[Action]:
        """Actions after the reports of a generation; -1 is the start."""
        return [action for told in self.told_of(generation) for action in told.actions]


def play(options: StrategyOptions, case: Case, between: Callable[[Strategy, Story], Strategy] | None = None) -> Story:
    """Play a case to its end.

    Args:
        options: Of the strategy.
        case: What happens.
        between: Called after every event; returns the strategy to go on with.
    """
    world = _World(case, Story(options.begin(case.task)), between)
    world.play()
    return world.story


class _World:
    """Answers actions with events. What no brain could obey is refused with an assertion."""

    def __init__(self, case: Case, story: Story, between: Callable[[Strategy, Story], Strategy] | None) -> None:
        self.case, self.story, self.between = case, story, between
        self.task = case.task
        self.slots = lay_out(len(case.members), 1 + len(case.members) // 3)
        self.members = story.members
        self.members.update({member: Known() for member in case.members})
        self.now = 0
        self.agenda: list[tuple[int, int, int, str]] = []  # when, who, number, evaluation or nothing
        self.news = list(case.news)
        self.late = sorted(case.late)
        self.counts = {"budget": 0, "extended": 0}

    def play(self) -> None:
        self.tell(SweepStarted(id="start", slots=self.slots), -1)
        while self.news or self.agenda:
            if self.news and (self.news[0][0] <= len(self.story.told) or not self.agenda):
                self.break_news(self.news.pop(0)[1])
                continue
            self.now, member, _, evaluation = heapq.heappop(self.agenda)
            self.end_evaluation(member, evaluation) if evaluation else self.end_segments(self.with_neighbours(member))

    def tell(self, event: Event, generation: int | None = None) -> None:
        under_way = frozenset(member for member, known in self.members.items() if known.until is not None)
        can_be_copied = frozenset(member for member, known in self.members.items() if known.can_be_copied)
        answer = self.story.strategy.handle([event])
        living = {member: known for member, known in self.members.items() if known.is_alive}
        scores = {member: known.score for member, known in living.items() if known.score is not None}
        told = Told(event, answer, generation, self.task, scores, under_way, can_be_copied)
        self.story.told.append(told)
        if self.between is not None:
            self.story.strategy = self.between(self.story.strategy, self.story)
        for action in answer:
            self.obey(action)

    # --- what is done

    def obey(self, action: Action) -> None:
        assert all(self.members[member].is_alive for member in addressed(action)), f"{action} is about the dead"
        match action:
            case Start(member=member, hparams=hparams):
                self.task.space.check(hparams)
                known = self.idle(member)
                known.start_age, known.hparams, known.made_for = 0, hparams, self.structure(hparams)
            case Set(member=member, hparams=hparams):
                self.task.space.check(hparams)
                self.idle(member).hparams = hparams
            case Copy(donor=donor, receiver=receiver):
                assert self.members[donor].segment >= 0
                assert self.members[donor].can_be_copied, f"member {donor} is under way, and does not lend its state"
                self.idle(receiver).start_age = self.members[donor].age
                self.idle(receiver).made_for = self.members[donor].was_made_for
            case ContinueUntil(member=member, consumed=consumed, generation=generation, lends=lends):
                self.train(member, consumed, generation)
                self.members[member].lends = lends
            case Evaluate(member=member, split=split):
                self.plan(member, 1, f"evaluation:{member}:{self.idle(member).segment}:{split}")

    def idle(self, member: int) -> Known:
        """A member that can be worked on."""
        assert self.members[member].until is None, f"member {member} is under way"
        return self.members[member]

    def train(self, member: int, until: int, generation: int) -> None:
        known = self.idle(member)
        assert self.structure(known.hparams) == known.made_for, f"the weights of member {member} are made for others"
        assert known.consumed < until <= self.task.budget.generations * self.task.budget.steps
        assert 0 <= generation < self.task.budget.generations
        known.segment, known.until, known.generation = known.segment + 1, until, generation
        self.plan(member, self.case.duration(member, generation))

    def plan(self, member: int, duration: int, evaluation: str = "") -> None:
        heapq.heappush(self.agenda, (self.now + duration, member, len(self.story.told), evaluation))

    def structure(self, hparams: Mapping[str, Any]) -> dict[str, Any]:
        """What weights are made for that are begun with these hyperparameters."""
        return {name: value for name, value in hparams.items() if name in self.task.structural}

    # --- what happens

    def with_neighbours(self, member: int) -> list[int]:
        """A member, and others of its stack whose segments end now as well."""
        if not self.case.is_together:
            return [member]
        stack = self.slots[member].stack
        ending = [it for it in self.agenda if it[0] == self.now and not it[3] and self.slots[it[1]].stack == stack]
        self.agenda = [it for it in self.agenda if it not in ending]
        heapq.heapify(self.agenda)
        return sorted([member, *(it[1] for it in ending)], reverse=self.case.is_backwards)

    def end_segments(self, members: Sequence[int]) -> None:
        living = [member for member in members if self.members[member].is_alive]
        reports = tuple(self.end_segment(member) for member in living)
        if reports:
            generation = max(self.members[member].generation for member in living)
            self.tell(reports[0] if len(reports) == 1 else Together(reports=reports), generation)

    def end_segment(self, member: int) -> Report:
        known = self.members[member]
        if self.case.fails.get(member) == known.generation:
            return self.die(member)
        assert known.until is not None
        known.age = known.start_age = known.start_age + known.until - known.consumed
        known.consumed, known.until = known.until, None
        known.was_made_for = known.made_for
        known.score = score = self.case.score(member, known.generation)
        return SegmentReported(
            id=f"report:{member}:{known.segment}",
            member=member,
            segment=known.segment,
            age=known.age,
            consumed=known.consumed,
            metrics={"other": -score, METRIC: score},
            wall_s=float(member),
        )

    def end_evaluation(self, member: int, evaluation: str) -> None:
        for other in self.late:
            self.fail(other)
        self.late = []
        if self.members[member].is_alive:
            split = evaluation.split(":")[-1]
            self.tell(EvaluationEnded(id=evaluation, member=member, split=split, metrics={METRIC: 0.0}))

    def fail(self, member: int) -> None:
        if self.members[member].is_alive:
            self.tell(self.die(member))

    def die(self, member: int) -> MemberFailed:
        known = self.members[member]
        known.is_alive, known.until = False, None
        return MemberFailed(id=f"failed:{member}:{known.segment}", member=member, reason="made up")

    def break_news(self, news: News) -> None:
        match news:
            case Dies(member):
                self.fail(member % len(self.members))
            case Ended(share):
                self.tell(BudgetEnded(id=self.number("budget"), reason=f"budget {self.counts['budget']} is used up"))
                for known in self.members.values():
                    if known.until is not None:
                        known.until = known.consumed + math.floor(share * (known.until - known.consumed))
            case Grown():
                self.grow(news)

    def grow(self, grown: Grown) -> None:
        old = self.task.budget
        budget = replace(old, members=old.members + grown.members, generations=old.generations + grown.generations)
        space = strategies.widened(self.task.space) if grown.is_wider else self.task.space
        self.task = replace(self.task, budget=budget, space=space)
        stack = 1 + max(slot.stack for slot in self.slots)
        self.slots += tuple(Slot(stack, index) for index in range(grown.members))
        self.members.update({member: Known() for member in range(old.members, budget.members)})
        if self.case.is_forgetful:
            self.agenda = [entry for entry in self.agenda if not entry[-1]]
            heapq.heapify(self.agenda)
        self.tell(Extended(id=self.number("extended"), task=self.task, slots=self.slots))

    def number(self, kind: str) -> str:
        self.counts[kind] += 1
        return f"{kind}:{self.counts[kind]}"


# ------------------------------------------------------------------------------------------------------------- cases


def make_task(
    members: int = 3,
    generations: int = 3,
    steps: int = 10,
    mode: str = "max",
    seed: int = 0,
    space: Space = SPACE,
    structural: Sequence[str] = (),
) -> Task:
    """A task with a small budget."""
    budget = Budget(members=members, generations=generations, steps=steps)
    return Task(space=space, metric=METRIC, mode=mode, budget=budget, seed=seed, structural=tuple(structural))


def with_structure(task: Task) -> st.SearchStrategy[Task]:
    """The task, with some hyperparameters that weights are made for, and all that these depend on."""
    names = [name for name, domain in task.space.items() if isinstance(domain, Choice | Int)]

    def closed(drawn: frozenset[str]) -> Task:
        found, added = set(), set(drawn)
        while added:
            found |= added
            added = {parent for name in found for parent in task.space[name].when or {}} - found
        return replace(task, structural=tuple(name for name in task.space if name in found))

    return st.frozensets(st.sampled_from(names)).map(closed) if names else st.just(task)


def tasks() -> st.SearchStrategy[Task]:
    """Tasks over all kinds of spaces."""
    plain = st.builds(
        make_task,
        members=st.integers(1, 6),
        generations=st.integers(1, 4),
        steps=st.integers(1, 5),
        mode=st.sampled_from(["min", "max"]),
        seed=st.integers(0, 2**63 - 1),
        space=st.one_of(st.just(SPACE), strategies.spaces()),
    )
    return plain.flatmap(with_structure)


def scores() -> st.SearchStrategy[float]:
    """Scores with many ties and many that diverged."""
    return st.one_of(st.sampled_from([math.nan, 0.0, 1.0]), st.floats(-2.0, 2.0))


def growth() -> st.SearchStrategy[Grown]:
    """Extensions, those that change nothing too."""
    return st.builds(Grown, members=st.integers(0, 3), generations=st.integers(0, 3), is_wider=st.booleans())


def ends() -> st.SearchStrategy[Ended]:
    """Ends of the budget; segments are cut short in the midst of it, at once, or not at all."""
    return st.builds(Ended, st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0)))


def told(news: st.SearchStrategy[News], max_size: int = 4) -> st.SearchStrategy[list[tuple[int, News]]]:
    """News at any time, after the end too."""
    when = st.one_of(st.integers(1, 30), st.just(AT_THE_END))
    # Sorted by the first alone: news have no order.
    return st.lists(st.tuples(when, news), max_size=max_size).map(lambda pairs: sorted(pairs, key=lambda pair: pair[0]))


@st.composite
def cases(
    draw,
    *,
    failures: bool = False,
    late: bool = True,
    news: st.SearchStrategy[News] | None = None,
    score: st.SearchStrategy[float] | None = None,
) -> Case:
    """Cases.

    Args:
        draw: Hypothesis' own.
        failures: Whether any members fail at any time.
        late: Whether they also fail while the winner is being evaluated.
        news: What may happen besides.
        score: Scores, of all kinds by default.
    """
    task = draw(tasks())
    members = range(task.budget.members)
    rows = st.lists(scores() if score is None else score, min_size=4, max_size=7)
    durations = st.lists(st.lists(st.integers(1, 9), max_size=7), max_size=9)
    fails = st.dictionaries(st.sampled_from(members), st.integers(0, task.budget.generations - 1))
    failing = draw(fails) if failures else {}
    failing_late = draw(st.frozensets(st.sampled_from(members))) - failing.keys() if failures and late else frozenset()
    return Case(
        task=task,
        scores=draw(st.lists(rows, min_size=len(members), max_size=len(members) + 3)),
        fails=failing,
        late=failing_late,
        durations=draw(durations),
        news=draw(told(news)) if news is not None else (),
        is_forgetful=news is not None and draw(st.booleans()),
        is_together=draw(st.booleans()),
    )


def eventful() -> st.SearchStrategy[Case]:
    """Cases in which anything happens."""
    dies = st.builds(Dies, st.integers(0, 8))
    return cases(failures=True, news=st.one_of(ends(), growth(), dies))


def of_kind(actions: Sequence[Action], kind: type | Any) -> list[Any]:
    """Actions of one kind, in order."""
    return [action for action in actions if isinstance(action, kind)]


def addressed(action: Action) -> set[int]:
    """Members an action speaks of."""
    names = ("member", "donor", "receiver", "best")
    return {getattr(action, name) for name in names if getattr(action, name, None) is not None}


def without_cause(actions: Sequence[Action]) -> list[Action]:
    """Actions on members, whatever caused them."""
    return [replace(action, cause="") for action in of_kind(actions, Start | Copy | Set | ContinueUntil)]


def best_of(scores: Mapping[int, float], mode: str) -> int | None:
    """The member with the best score, the lowest of equals; None where all are NaN."""
    sign = 1 if mode == "max" else -1
    finite = {member: sign * score for member, score in sorted(scores.items()) if not math.isnan(score)}
    return max(finite, key=finite.__getitem__) if finite else None


# ------------------------------------------------------------------------------------------------------------- suite


def cause_of(finish: Finish) -> str:
    """Why the sweep ended, without what a strategy has to say besides."""
    return finish.reason.partition("; ")[0]


class StrategyContract:
    """What holds for all strategies."""

    @pytest.fixture
    def options(self) -> StrategyOptions:
        raise NotImplementedError("give the strategy's options")

    # --- the same events, the same actions

    @EXAMPLES
    @given(case=eventful())
    def test_the_same_events_give_the_same_actions(self, options, case):
        """Another instance, told the same events one by one or all at once, acts the same."""
        story = play(options, case)
        assert story.actions == play(options, case).actions
        assert story.actions == options.begin(case.task).handle(story.events)

    @EXAMPLES
    @given(case=eventful())
    def test_restored_after_every_event_it_goes_on_the_same(self, options, case):
        """A snapshot through JSON, restored into a new instance after every event, changes nothing that follows."""

        def reborn(strategy: Strategy, story: Story) -> Strategy:
            snapshot = json.loads(json.dumps(strategy.snapshot()))
            other = options.begin(case.task)
            other.restore(snapshot)
            assert json.dumps(snapshot) == json.dumps(other.snapshot())
            return other

        assert play(options, case).actions == play(options, case, reborn).actions

    @EXAMPLES
    @given(case=eventful())
    def test_repeated_events_change_nothing(self, options, case):
        """All events so far, told again after each event, are answered with nothing and leave the state alone."""

        def repeat(strategy: Strategy, story: Story) -> Strategy:
            before = json.dumps(strategy.snapshot())
            assert strategy.handle(story.events) == []
            assert before == json.dumps(strategy.snapshot())
            return strategy

        assert play(options, case).actions == play(options, case, repeat).actions

    @EXAMPLES
    @given(case=eventful())
    def test_a_snapshot_stays_as_it_was_taken(self, options, case):
        """What happens after a snapshot does not change it."""
        taken: list[tuple[Any, str]] = []

        def take(strategy: Strategy, story: Story) -> Strategy:
            snapshot = strategy.snapshot()
            taken.append((snapshot, json.dumps(snapshot)))
            return strategy

        play(options, case, take)
        for snapshot, text in taken:
            assert text == json.dumps(snapshot)

    @EXAMPLES
    @given(case=cases())
    def test_options_travel(self, options, case):
        """Options that were pickled, as they are on their way to a brain elsewhere, decide the same."""
        assert play(options, case).actions == play(pickle.loads(pickle.dumps(options)), case).actions  # noqa: S301

    # --- what ends together

    @EXAMPLES
    @given(case=eventful())
    def test_one_that_is_told_as_together_is_one(self, options, case):
        """A moment in which a single member ended is answered as its report."""
        story = play(options, replace(case, is_together=False))
        wrapped = [Together(reports=(it,)) if isinstance(it, Report) else it for it in story.events]
        assert story.actions == options.begin(case.task).handle(wrapped)

    @EXAMPLES
    @given(case=eventful())
    def test_what_was_told_together_is_no_news_one_by_one(self, options, case):
        """Nor is the other way round."""
        one_by_one = replace(case, is_together=False)
        for known, again in ((replace(case, is_together=True), None), (one_by_one, Together)):
            story = play(options, known)
            reports = tuple(part for told in story.told for part in told.parts if isinstance(part, Report))
            before = json.dumps(story.strategy.snapshot())
            assert [] == story.strategy.handle([again(reports=reports)] if again else reports)
            assert before == json.dumps(story.strategy.snapshot())

    @EXAMPLES
    @given(case=eventful())
    def test_nobody_who_ended_together_was_first(self, options, case):
        """In whatever order they stand in their moment, the same is done with each of them."""

        def done(told: Told) -> list[str]:
            all_failed = [action for action in told.actions if getattr(action, "reason", "") == "every member failed"]
            others = [action for action in told.actions if action not in all_failed]
            return sorted(map(repr, others + [replace(action, cause="the last") for action in all_failed]))

        stories = [play(options, replace(case, is_together=True, is_backwards=it)) for it in (False, True)]
        up, down = ([done(told) for told in story.told] for story in stories)
        assert up == down

    # --- what actions say

    @EXAMPLES
    @given(case=eventful())
    def test_every_action_names_its_cause(self, options, case):
        """The cause of an action is the id of an event seen by then."""
        seen = set()
        for told in play(options, case).told:
            seen |= {event.id for event in told.parts}
            assert {action.cause for action in told.actions} <= seen

    @EXAMPLES
    @given(case=eventful())
    def test_a_member_is_changed_before_it_trains(self, options, case):
        """A member is started, copied to and set, then shrunk, before it is told to train on, in one answer."""
        for told in play(options, case).told:
            training: set[int] = set()
            changed, shrunk = set[int](), set[int]()
            for action in told.actions:
                match action:
                    case Start(member=member) | Set(member=member) | Copy(receiver=member):
                        assert member not in training | shrunk
                        changed.add(member)
                    case Shrink(member=member):
                        assert member not in training | shrunk
                        shrunk.add(member)
                    case ContinueUntil(member=member):
                        training.add(member)
            assert changed | shrunk <= training

    @EXAMPLES
    @given(case=eventful())
    def test_hparams_stay_in_the_space(self, options, case):
        """Whatever is ordered is a point of the space in force."""
        for told in play(options, case).told:
            for action in of_kind(told.actions, Start | Set):
                told.task.space.check(action.hparams)

    @EXAMPLES
    @given(case=cases(news=growth()))
    def test_every_member_starts_in_its_slot(self, options, case):
        """Each member is first put into the slot with its number, fresh."""
        story = play(options, case)
        first: dict[int, Start] = {}
        for action in of_kind(story.actions, Start):
            first.setdefault(action.member, action)
        slots = [event.slots for event in story.events if isinstance(event, SweepStarted | Extended)][-1]
        assert list(slots) == [first[member].slot for member in story.members]

    @EXAMPLES
    @given(case=cases(news=growth()))
    def test_every_member_has_a_seed_of_its_own(self, options, case):
        """No two members, newcomers too, begin with the same seed."""
        story = play(options, case)
        seeds = {(action.member, action.seed) for action in of_kind(story.actions, Start)}
        assert len(seeds) == len({seed for _, seed in seeds}) >= len(story.members)

    @EXAMPLES
    @given(case=cases(news=growth().map(lambda grown: replace(grown, is_wider=False))))
    def test_newcomers_begin_as_if_they_had_always_been_there(self, options, case):
        """Their hyperparameters and seeds are those of an undisturbed sweep of so many members."""
        story = play(options, case)
        whole = replace(case.task, budget=replace(case.task.budget, members=len(story.members)))
        undisturbed = of_kind(play(options, Case(task=whole, scores=case.scores)).actions_of(-1), Start)
        first: dict[int, Start] = {}
        for action in of_kind(story.actions, Start):
            first.setdefault(action.member, action)
        expected = [(start.member, start.hparams, start.seed) for start in undisturbed]
        assert expected == [(member, start.hparams, start.seed) for member, start in sorted(first.items())]

    @EXAMPLES
    @given(case=eventful())
    def test_donors_are_worth_copying(self, options, case):
        """A donor has reported, and its last score is not NaN."""
        for told in play(options, case).told:
            for action in of_kind(told.actions, Copy):
                assert not math.isnan(told.scores[action.donor])

    # --- failures

    @EXAMPLES
    @given(case=eventful())
    def test_a_failed_member_is_not_addressed_again(self, options, case):
        """Nothing is asked of a member that failed; it is no donor and no winner."""
        failed: set[int] = set()
        for told in play(options, case).told:
            failed |= {event.member for event in told.parts if isinstance(event, MemberFailed)}
            assert [action for action in told.actions if addressed(action) & failed] == []

    @EXAMPLES
    @given(case=eventful())
    def test_it_always_comes_to_an_end(self, options, case):
        """Whatever happens and whoever fails, the sweep ends, and ends again each time it is extended after that."""
        is_over = False
        for told in play(options, case).told:
            if isinstance(told.event, Extended):
                is_over = False
            assert not (is_over and told.actions)
            ends = of_kind(told.actions, Finish)
            assert ends == (told.actions[-1:] if ends else [])
            is_over = is_over or bool(ends)
        assert is_over

    @EXAMPLES
    @given(task=tasks(), generation=st.integers(0, 3), score=scores())
    def test_nobody_wins_where_everybody_failed(self, options, task, generation, score):
        """When the last member fails, the sweep finishes without a winner."""
        generation = min(generation, task.budget.generations - 1)
        rows = [[score] * task.budget.generations for _ in range(task.budget.members)]
        story = play(options, Case(task=task, scores=rows, fails=dict.fromkeys(range(len(rows)), generation)))
        finish = story.actions[-1]
        assert Finish(cause=story.events[-1].id, best=None, reason="every member failed") == finish

    @EXAMPLES
    @given(case=cases(score=st.floats(-1, 1)), data=st.data())
    def test_a_bystander_that_fails_during_the_evaluation_changes_nothing(self, options, case, data):
        """While the winner is evaluated, the failure of another is answered with nothing."""
        assume(len(case.members) > 1)
        best = play(options, case).actions[-1].best
        other = data.draw(st.sampled_from([member for member in case.members if member != best]))
        story = play(options, replace(case, late=frozenset({other})))
        failure = next(told for told in story.told if isinstance(told.event, MemberFailed))
        assert (other, []) == (failure.event.member, failure.actions)
        assert best == story.actions[-1].best

    # --- the end

    @EXAMPLES
    @given(case=eventful())
    def test_the_best_of_the_living_wins(self, options, case):
        """Whenever the sweep ends, the best last score of the living is announced and wins; NaN is never best."""
        for told in play(options, case).told:
            best = best_of(told.scores, told.task.mode)
            assert {best} >= {action.member for action in of_kind(told.actions, Evaluate)}
            for finish in of_kind(told.actions, Finish):
                # Who fails when the winner has been announced is no winner, but others may fail before it is named.
                assert finish.best == best
                expected = "every member diverged" if told.scores else "every member failed"
                assert best is not None or finish.reason == expected

    @EXAMPLES
    @given(case=cases(score=st.floats(-1, 1)))
    def test_ends_with_the_best_evaluated_on_the_test_split(self, options, case):
        """The member with the best last score, and nobody else, is evaluated on the test split and wins."""
        story = play(options, case)
        end = {member: case.score(member, case.generations - 1) for member in case.members}
        best = best_of(end, case.task.mode)
        (evaluate,) = of_kind(story.actions, Evaluate)
        assert (best, "test") == (evaluate.member, evaluate.split)
        assert story.actions[-2:] == [evaluate, story.actions[-1]]
        assert best == story.actions[-1].best
        assert cause_of(story.actions[-1]) == "best score at the end of the last generation"

    @EXAMPLES
    @given(case=cases(news=growth()))
    def test_the_budget_is_kept_exactly(self, options, case):
        """Every member trains `generations * steps` steps of the last task, neither more nor fewer."""
        story = play(options, case)
        budget = story.told[-1].task.budget
        steps = budget.generations * budget.steps
        assert dict.fromkeys(range(budget.members), steps) == {
            member: known.consumed for member, known in story.members.items()
        }

    @EXAMPLES
    @given(case=eventful())
    def test_the_budget_is_never_exceeded(self, options, case):
        """Nobody is ever told to train beyond the end of the task in force."""
        for told in play(options, case).told:
            steps = told.task.budget.generations * told.task.budget.steps
            assert all(action.consumed <= steps for action in of_kind(told.actions, ContinueUntil))

    @EXAMPLES
    @given(case=cases())
    def test_a_finished_strategy_says_nothing_more(self, options, case):
        """After the end no event but an extension is answered."""
        story = play(options, case)
        late = MemberFailed(id="late", member=0, reason="made up")
        budget = BudgetEnded(id="budget:1", reason="made up")
        assert story.strategy.handle([*story.events, late, budget]) == []

    # --- the budget ends

    @EXAMPLES
    @given(case=cases(failures=True, late=False, news=st.one_of(ends(), growth())))
    def test_nobody_trains_on_once_the_budget_has_ended(self, options, case):
        """From then until the sweep is extended nothing is ordered but the end, whose reason is the budget's."""
        reason, is_ending = None, False
        for told in play(options, case).told:
            if isinstance(told.event, Extended):
                reason, is_ending = None, False
            elif isinstance(told.event, BudgetEnded) and not is_ending:
                reason = reason or told.event.reason
            if reason is not None:
                assert [a for a in told.actions if not isinstance(a, Evaluate | Finish)] == []
            is_ending = is_ending or bool(of_kind(told.actions, Evaluate | Finish))
            for finish in of_kind(told.actions, Finish):
                normal = "best score at the end of the last generation"
                assert finish.best is None or cause_of(finish) == (reason or normal)

    @EXAMPLES
    @given(case=cases(news=ends()))
    def test_what_is_under_way_when_the_budget_ends_is_reported_first(self, options, case):
        """The best is announced when the last segment has been reported, and not before."""
        for told in play(options, case).told:
            assert not (told.under_way and of_kind(told.actions, Evaluate))

    # --- the sweep is extended

    @EXAMPLES
    @given(case=cases(failures=True, late=False), grown=growth())
    def test_extended_after_the_end_it_trains_what_is_missing(self, options, case, grown):
        """Each living member trains from where it stood to the new end, and the best is named again."""
        before = play(options, case)
        story = play(options, replace(case, news=[(AT_THE_END, grown)]))
        budget = story.told[-1].task.budget
        living = {member for member, known in story.members.items() if known.is_alive}
        assert {budget.generations * budget.steps} >= {story.members[member].consumed for member in living}
        assert before.actions == story.actions[: len(before.actions)]
        more = of_kind(story.actions[len(before.actions) :], ContinueUntil)
        expected = set(range(budget.members)) - {m for m, known in before.members.items() if not known.is_alive}
        old = expected & before.members.keys() if grown.generations else set()
        assert old | (expected - before.members.keys()) == {action.member for action in more}

    @EXAMPLES
    @given(case=cases())
    def test_an_extension_that_changes_nothing_ends_at_once(self, options, case):
        """Nothing is trained, and what was evaluated is not evaluated again: the same member is named."""
        ended = play(options, case)
        story = play(options, replace(case, news=[(AT_THE_END, Grown())]))
        (again,) = story.actions[len(ended.actions) :]
        assert replace(ended.actions[-1], cause="extended:1") == again

    @EXAMPLES
    @given(case=cases(news=growth()))
    def test_a_state_is_evaluated_once(self, options, case):
        """The same member is only asked for again if it trained since, or its answer was lost."""
        story = play(options, replace(case, is_forgetful=False))
        answered = set()
        segments = dict.fromkeys(story.members, -1)
        for told in story.told:
            answered |= {told.event.id} if isinstance(told.event, EvaluationEnded) else set()
            for action in told.actions:
                match action:
                    case ContinueUntil(member=member):
                        segments[member] += 1
                    case Evaluate(member=member, split=split):
                        assert f"evaluation:{member}:{segments[member]}:{split}" not in answered


class SynchronousContract(StrategyContract):
    """What holds besides for strategies that decide for the whole population at once."""

    def test_it_says_so(self, options):
        """The brain is told that donors are never under way."""
        assert options.synchronous is True

    @EXAMPLES
    @given(case=cases(failures=True, late=False, news=st.one_of(st.just(Ended()), growth())), data=st.data())
    def test_the_order_of_reports_changes_nothing(self, options, case, data):
        """However long each member takes, the actions are the same, and the state whenever all have reported."""
        assume(case.survivors(case.generations))  # the last to fail is the cause of the end
        case = replace(case, is_together=False)  # so that news comes after equally many reports
        shuffled = data.draw(st.lists(st.lists(st.integers(1, 9), max_size=7), max_size=9))
        stories, states = [], []
        for durations in (case.durations, shuffled):
            seen: list[str] = []

            def note(strategy: Strategy, story: Story, seen: list[str] = seen) -> Strategy:
                if not story.told[-1].under_way:
                    seen.append(json.dumps(strategy.snapshot()))
                return strategy

            stories.append(play(options, replace(case, durations=durations), note))
            states.append(seen)
        assert stories[0].actions == stories[1].actions
        assert states[0] == states[1]

    @EXAMPLES
    @given(case=cases(failures=True))
    def test_together_or_one_by_one_makes_no_difference(self, options, case):
        """The actions are the same, and so is the state at the end."""
        stories = [play(options, replace(case, is_together=it)) for it in (False, True)]
        alone, together = ((story.actions, json.dumps(story.strategy.snapshot())) for story in stories)
        assert alone == together

    @EXAMPLES
    @given(case=cases(failures=True))
    def test_the_living_go_on_once_in_every_generation(self, options, case):
        """At the start and after each generation but the last, each living member is told once to train on."""
        story = play(options, case)
        steps = case.task.budget.steps
        for generation in range(case.generations):
            told = of_kind(story.actions_of(generation - 1), ContinueUntil)
            assert sorted(action.member for action in told) == sorted(case.survivors(generation - 1))
            assert {action.generation for action in told} <= {generation}
            assert {action.consumed for action in told} <= {(generation + 1) * steps}
        assert of_kind(story.actions_of(case.generations - 1), ContinueUntil) == []

    @EXAMPLES
    @given(case=eventful())
    def test_changes_come_before_training(self, options, case):
        """Nobody is under way when members are copied, the donor neither, and what is changed is changed first."""
        for told in play(options, case).told:
            training = set(told.under_way)
            for action in told.actions:
                if isinstance(action, Copy | Set | Shrink):
                    assert not addressed(action) & training
                training |= addressed(action) if isinstance(action, ContinueUntil) else set()

    @EXAMPLES
    @given(case=eventful())
    def test_members_are_compared_after_equally_many_steps(self, options, case):
        """Everybody is told to train to the end of the same generation, newcomers in a single segment."""
        for told in play(options, case).told:
            for action in of_kind(told.actions, ContinueUntil):
                assert (action.generation + 1) * told.task.budget.steps == action.consumed
            assert len({action.generation for action in of_kind(told.actions, ContinueUntil)}) <= 1

    @EXAMPLES
    @given(
        case=cases(failures=True, late=False),
        more=st.integers(0, 3),
        end=st.one_of(st.none(), ends()),
        when=st.tuples(st.integers(1, 30), st.one_of(st.integers(1, 30), st.just(AT_THE_END))),
    )
    def test_an_extended_sweep_decides_as_if_it_had_always_been_so_long(self, options, case, more, end, when):
        """With or without an end of the budget before, the same is started, copied, set and trained, in order."""
        grown = Grown(generations=more)
        news = [(when[1], grown)] if end is None else [(min(when), end), (when[1], grown)]
        budget = replace(case.task.budget, generations=case.generations + more)
        undisturbed = play(options, replace(case, task=replace(case.task, budget=budget)))
        disturbed = without_cause(play(options, replace(case, news=news)).actions)
        # What was cut short is trained to its end, with an order like the first.
        once = [
            action
            for index, action in enumerate(disturbed)
            if not isinstance(action, ContinueUntil) or action not in disturbed[:index]
        ]
        assert without_cause(undisturbed.actions) == once
