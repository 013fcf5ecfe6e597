"""What every strategy of synchronous generations keeps, as one suite to inherit.

A strategy's test module subclasses `StrategyContract` and gives its options::

    class TestContract(StrategyContract):
        @pytest.fixture
        def options(self):
            return PBT(quantile=0.25)

`play` is the world: it answers actions with events as a brain and its stacks would, with scores from a table.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pbt.member import lay_out
from pbt.spec import Budget
from pbt.strategy import (
    Action,
    ContinueUntil,
    Copy,
    Evaluate,
    EvaluationEnded,
    Event,
    Finish,
    MemberFailed,
    SegmentReported,
    Set,
    Start,
    Strategy,
    StrategyOptions,
    SweepStarted,
    Task,
)
from searchspaces import Choice, Float, Int, Simplex, Space
from tests import strategies

EXAMPLES = settings(
    max_examples=25,
    deadline=None,
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

# ------------------------------------------------------------------------------------------------------------- world


@dataclass(frozen=True, kw_only=True)
class Case:
    """What happens in a sweep, whatever the strategy does.

    Attributes:
        task: What the strategy is told.
        scores: `scores[member][generation]`.
        fails: The generation in which a member fails instead of reporting. In the generation after the last the winner
            is being evaluated.
        order: `order[generation]` lists all members: the order in which they are heard.
    """

    task: Task
    scores: Sequence[Sequence[float]]
    fails: Mapping[int, int] = field(default_factory=dict)
    order: Sequence[Sequence[int]] = ()

    @property
    def members(self) -> range:
        return range(self.task.budget.members)

    @property
    def generations(self) -> int:
        return self.task.budget.generations

    def heard(self, generation: int) -> Sequence[int]:
        """Members in the order in which they are heard."""
        return self.order[generation] if generation < len(self.order) else self.members

    def survivors(self, generation: int) -> set[int]:
        """Members that come to the end of a generation."""
        return {member for member in self.members if self.fails.get(member, math.inf) > generation}


@dataclass
class Known:
    """What the world knows of a member."""

    age: int = 0
    consumed: int = 0
    segment: int = -1
    until: int | None = None


@dataclass
class Story:
    """What was said: events, each with the actions that answered it, by generation."""

    strategy: Strategy
    generations: list[list[tuple[Event, list[Action]]]] = field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [event for generation in self.generations for event, _ in generation]

    @property
    def actions(self) -> list[Action]:
        return [action for generation in self.generations for _, actions in generation for action in actions]

    def actions_of(self, generation: int) -> list[Action]:
        """Actions after the reports of a generation; -1 is the start."""
        return [action for _, actions in self.generations[generation + 1] for action in actions]


def play(options: StrategyOptions, case: Case, between: Callable[[Strategy, Story], Strategy] | None = None) -> Story:
    """Play a case to its end.

    Args:
        options: Of the strategy.
        case: What happens.
        between: Called after every event; returns the strategy to go on with.
    """
    strategy = options.begin(case.task)
    story = Story(strategy)
    members = {member: Known() for member in case.members}

    def tell(event: Event) -> list[Action]:
        answer = story.strategy.handle([event])
        story.generations[-1].append((event, answer))
        if between is not None:
            story.strategy = between(story.strategy, story)
        return answer

    def obey(actions: list[Action]) -> None:
        ages = {member: known.age for member, known in members.items()}
        for action in actions:
            match action:
                case Start(member=member):
                    members[member].age = 0
                case Copy(donor=donor, receiver=receiver):
                    members[receiver].age = ages[donor]
                case ContinueUntil(member=member, consumed=consumed):
                    known = members[member]
                    assert known.until is None, f"member {member} was told to go on twice"
                    known.segment, known.until = known.segment + 1, consumed

    story.generations.append([])
    obey(tell(SweepStarted(id="start", slots=lay_out(len(case.members), 1 + len(case.members) // 3))))
    for generation in range(case.generations):
        story.generations.append([])
        answers: list[Action] = []
        for member in case.heard(generation):
            known = members[member]
            if known.until is None:
                continue
            if case.fails.get(member) == generation:
                known.until = None
                answers += tell(MemberFailed(id=f"failed:{member}:{known.segment}", member=member, reason="made up"))
                continue
            known.age += known.until - known.consumed
            known.consumed, known.until = known.until, None
            report = SegmentReported(
                id=f"report:{member}:{known.segment}",
                member=member,
                segment=known.segment,
                age=known.age,
                consumed=known.consumed,
                metrics={"other": -case.scores[member][generation], METRIC: case.scores[member][generation]},
                wall_s=float(member),
            )
            answers += tell(report)
        obey(answers)
    story.generations.append([])
    for member in case.heard(case.generations):
        if case.fails.get(member) == case.generations:
            tell(MemberFailed(id=f"failed:{member}:late", member=member, reason="made up"))
    asked = [action for action in story.actions if isinstance(action, Evaluate)]
    for number, action in enumerate(asked):
        if case.fails.get(action.member) == case.generations:
            continue
        done = {"member": action.member, "split": action.split, "metrics": {METRIC: 0.0}}
        tell(EvaluationEnded(id=f"evaluation:{number}", **done))
    return story


def canonical(snapshot: Mapping[str, Any]) -> str:
    """A snapshot as text in which the order of pairs does not show."""

    def order(value: Any) -> Any:
        if isinstance(value, list):
            value = [order(item) for item in value]
            if all(isinstance(item, list) for item in value):
                return sorted(value, key=json.dumps)
        return value

    return json.dumps({key: order(value) for key, value in snapshot.items()}, sort_keys=True)


# ------------------------------------------------------------------------------------------------------------- cases


def make_task(
    members: int = 3,
    generations: int = 3,
    steps: int = 10,
    mode: str = "max",
    seed: int = 0,
    space: Space = SPACE,
) -> Task:
    """A task with a small budget."""
    budget = Budget(members=members, generations=generations, steps=steps)
    return Task(space=space, metric=METRIC, mode=mode, budget=budget, seed=seed)


def tasks() -> st.SearchStrategy[Task]:
    """Tasks over all kinds of spaces."""
    return st.builds(
        make_task,
        members=st.integers(1, 6),
        generations=st.integers(1, 4),
        steps=st.integers(1, 5),
        mode=st.sampled_from(["min", "max"]),
        seed=st.integers(0, 2**63 - 1),
        space=st.one_of(st.just(SPACE), strategies.spaces()),
    )


def scores() -> st.SearchStrategy[float]:
    """Scores with many ties and many that diverged."""
    return st.one_of(st.sampled_from([math.nan, 0.0, 1.0]), st.floats(-2.0, 2.0))


@st.composite
def cases(draw, *, failures: bool = False, score: st.SearchStrategy[float] | None = None) -> Case:
    """Cases; with `failures`, any members fail at any time."""
    task = draw(tasks())
    members, generations = range(task.budget.members), task.budget.generations
    rows = st.lists(scores() if score is None else score, min_size=generations, max_size=generations)
    orders = st.lists(st.permutations(members), min_size=generations + 1, max_size=generations + 1)
    fails = st.dictionaries(st.sampled_from(members), st.integers(0, generations)) if failures else st.just({})
    return Case(
        task=task,
        scores=draw(st.lists(rows, min_size=len(members), max_size=len(members))),
        fails=draw(fails),
        order=draw(orders),
    )


def of_kind(actions: Sequence[Action], kind: type) -> list[Any]:
    """Actions of one kind, in order."""
    return [action for action in actions if isinstance(action, kind)]


def addressed(action: Action) -> set[int]:
    """Members an action speaks of."""
    names = ("member", "donor", "receiver", "best")
    return {getattr(action, name) for name in names if getattr(action, name, None) is not None}


# ------------------------------------------------------------------------------------------------------------- suite


class StrategyContract:
    """The suite."""

    @pytest.fixture
    def options(self) -> StrategyOptions:
        raise NotImplementedError("give the strategy's options")

    # --- the same events, the same actions

    @EXAMPLES
    @given(case=cases(failures=True))
    def test_the_same_events_give_the_same_actions(self, options, case):
        """Another instance, told the same events one by one or all at once, acts the same."""
        story = play(options, case)
        assert story.actions == play(options, case).actions
        assert story.actions == options.begin(case.task).handle(story.events)

    @EXAMPLES
    @given(case=cases(failures=True), data=st.data())
    def test_the_order_of_reports_changes_nothing(self, options, case, data):
        """However the reports of a generation are ordered, the actions and the state after it are the same."""
        assume(case.survivors(case.generations - 1))  # the last to fail is the cause of the end
        states: list[list[str]] = [[], []]
        shuffled = [data.draw(st.permutations(order)) for order in case.order]
        stories = []
        for seen, order in zip(states, (case.order, shuffled), strict=True):

            def note(strategy: Strategy, story: Story, seen: list[str] = seen) -> Strategy:
                del seen[len(story.generations) - 1 :]
                seen.append(canonical(strategy.snapshot()))
                return strategy

            stories.append(play(options, Case(task=case.task, scores=case.scores, fails=case.fails, order=order), note))
        for generation in range(-1, case.generations):
            assert stories[0].actions_of(generation) == stories[1].actions_of(generation)
        # Once the winner is being evaluated a failure may end the sweep, and the next one is not heard any more.
        generations = slice(case.generations + 1)
        assert states[0][generations] == states[1][generations]

    @EXAMPLES
    @given(case=cases(failures=True))
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
    @given(case=cases(failures=True))
    def test_repeated_events_change_nothing(self, options, case):
        """All events so far, told again after each event, are answered with nothing and leave the state alone."""

        def repeat(strategy: Strategy, story: Story) -> Strategy:
            before = json.dumps(strategy.snapshot())
            assert strategy.handle(story.events) == []
            assert before == json.dumps(strategy.snapshot())
            return strategy

        assert play(options, case).actions == play(options, case, repeat).actions

    @EXAMPLES
    @given(case=cases())
    def test_options_travel(self, options, case):
        """Options that were pickled, as they are on their way to a brain elsewhere, decide the same."""
        assert play(options, case).actions == play(pickle.loads(pickle.dumps(options)), case).actions  # noqa: S301

    # --- what actions say

    @EXAMPLES
    @given(case=cases(failures=True))
    def test_every_action_names_its_cause(self, options, case):
        """The cause of an action is the id of an event seen by then."""
        seen = set()
        for event, actions in [pair for generation in play(options, case).generations for pair in generation]:
            seen.add(event.id)
            assert {action.cause for action in actions} <= seen

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
    @given(case=cases())
    def test_changes_come_before_training(self, options, case):
        """A member is started, copied to and set before it is told to train on, in one answer."""
        for _, actions in [pair for generation in play(options, case).generations for pair in generation]:
            told: set[int] = set()
            for action in actions:
                assert isinstance(action, ContinueUntil) or not addressed(action) & told
                told |= addressed(action) if isinstance(action, ContinueUntil) else set()

    @EXAMPLES
    @given(case=cases(failures=True))
    def test_hparams_stay_in_the_space(self, options, case):
        """Whatever is ordered is a point of the space."""
        for action in play(options, case).actions:
            if isinstance(action, Start | Set):
                case.task.space.check(action.hparams)

    @EXAMPLES
    @given(case=cases())
    def test_every_member_starts_in_its_slot(self, options, case):
        """The start puts each member into the slot with its number, fresh, each with a seed of its own."""
        story = play(options, case)
        (started, answer), *_ = story.generations[0]
        starts = of_kind(answer, Start)
        assert list(zip(case.members, started.slots, strict=True)) == [(start.member, start.slot) for start in starts]
        assert len(case.members) == len({start.seed for start in starts})

    # --- failures

    @EXAMPLES
    @given(case=cases(failures=True))
    def test_a_failed_member_is_not_addressed_again(self, options, case):
        """Nothing is asked of a member that failed; it is no donor and no winner."""
        failed: set[int] = set()
        for event, actions in [pair for generation in play(options, case).generations for pair in generation]:
            failed |= {event.member} if isinstance(event, MemberFailed) else set()
            assert [action for action in actions if addressed(action) & failed] == []

    @EXAMPLES
    @given(case=cases(failures=True))
    def test_failures_never_hang_the_population(self, options, case):
        """The sweep ends once, after the last event and nothing else, whoever failed and when."""
        story = play(options, case)
        assert len(of_kind(story.actions, Finish)) == 1
        assert isinstance(story.actions[-1], Finish)

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
        fails = {other: case.generations}
        story = play(options, Case(task=case.task, scores=case.scores, fails=fails, order=case.order))
        assert story.generations[-1][0][1] == []
        assert best == story.actions[-1].best

    # --- NaN

    @EXAMPLES
    @given(case=cases(failures=True))
    def test_a_diverged_member_wins_only_where_there_is_no_other(self, options, case):
        """NaN is never best; where everybody ends in NaN there is no winner."""
        best = play(options, case).actions[-1].best
        end = {member: case.scores[member][-1] for member in case.survivors(case.generations)}
        finite = [member for member, score in end.items() if not math.isnan(score)]
        assert (best in finite) if finite else (best is None)

    # --- the end

    @EXAMPLES
    @given(case=cases(score=st.floats(-1, 1)))
    def test_ends_with_the_best_evaluated_on_the_test_split(self, options, case):
        """The member with the best last score, and nobody else, is evaluated on the test split and wins."""
        story = play(options, case)
        sign = 1 if case.task.mode == "max" else -1
        end = [sign * case.scores[member][-1] for member in case.members]
        best = end.index(max(end))
        (evaluate,) = of_kind(story.actions, Evaluate)
        assert (best, "test") == (evaluate.member, evaluate.split)
        assert story.actions[-2:] == [evaluate, story.actions[-1]]
        assert best == story.actions[-1].best

    @EXAMPLES
    @given(case=cases())
    def test_the_budget_is_kept_exactly(self, options, case):
        """Every member trains `generations * steps` steps, neither more nor fewer."""
        trained = dict.fromkeys(case.members, 0)
        total = 0
        for action in of_kind(play(options, case).actions, ContinueUntil):
            total += action.consumed - trained[action.member]
            trained[action.member] = action.consumed
        assert case.task.budget.member_steps == total
        assert {case.generations * case.task.budget.steps} == set(trained.values())

    @EXAMPLES
    @given(case=cases())
    def test_a_finished_strategy_says_nothing_more(self, options, case):
        """After the end no event is answered."""
        story = play(options, case)
        late = MemberFailed(id="late", member=0, reason="made up")
        assert story.strategy.handle([*story.events, late]) == []
