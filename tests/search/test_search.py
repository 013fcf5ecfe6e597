"""A search as a strategy: who sits where, what is kept, what it costs, how it ends; whatever the policy says."""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import SpecError
from pbt.member import lay_out
from pbt.search import ASHA, MFMES, FreezeThaw, MedianRule, OptunaSearch, RandomSearch, RungEnsemble
from pbt.search.fidelity import course
from pbt.search.policy import Begin, GoOn, Ladder
from pbt.search.promotion import lowest
from pbt.search.search import Search
from pbt.spec import Budget
from pbt.strategy import (
    BudgetEnded,
    ContinueUntil,
    Evaluate,
    EvaluationEnded,
    Extended,
    Finish,
    Freeze,
    MemberFailed,
    SegmentReported,
    Start,
    SweepStarted,
    Task,
    Thaw,
    Together,
)
from searchspaces import Choice, Float, Space
from tests.examples import examples

SPACE = Space({"lr": Float(1e-4, 1.0, log=True)})
#: Models of three sizes; the largest is wanted.
SIZES = Space({"lr": Float(1e-4, 1.0, log=True), "width": Choice([16, 64, 32])})
EXAMPLES = examples(40)
STEPS = 10


def make_task(members=3, generations=16, mode="min", seed=0, space=SPACE):
    return Task(
        space=space,
        metric="loss",
        mode=mode,
        budget=Budget(members=members, generations=generations, steps=STEPS),
        seed=seed,
        structural=tuple(name for name in space if name == "width"),
    )


def loss(hparams, consumed):
    """Falls to what the learning rate is worth."""
    return abs(math.log10(hparams["lr"]) + 2.0) + 10.0 / consumed + 1.0 / hparams.get("width", 64)


@dataclasses.dataclass
class Seen:
    """What the world knows of a member."""

    hparams: Mapping
    slot: object = None
    consumed: int = 0
    segment: int = -1
    until: int | None = None
    is_frozen: bool = False
    has_failed: bool = False


class World:
    """Slots that do as they are told; what no brain could obey is refused.

    Args:
        options: Of the search.
        task: What it is told.
        stacks: Slots of one stack that end together are told of together.
        fails: Segments that fail.
        diverges: Segments after which the loss is NaN.
        takes: How long segments take, by member, again and again.
        ends: The budget ends after so many reports; what is under way then comes half as far.
        grows: By so many members and generations it is extended, once it has ended.
        between: Called after each event; returns the search to go on with.
    """

    def __init__(
        self,
        options,
        task,
        stacks=1,
        fails=(),
        diverges=(),
        takes=(1,),
        ends=None,
        grows=None,
        between=lambda search: search,
    ):
        self.task, self.search, self.between = task, options.begin(task), between
        self.slots = lay_out(task.budget.members, min(stacks, task.budget.members))
        self.fails, self.diverges, self.takes = set(fails), set(diverges), takes
        self.ends, self.grows = ends, grows
        self.members, self.actions, self.events, self.agenda = {}, [], [], []
        self.now, self.num_reports, self.is_cut = 0, 0, False

    def play(self):
        """To the end; returns itself."""
        self.tell(SweepStarted(id="start", slots=self.slots))
        return self.play_on()

    def play_on(self):
        """From here to the end; returns itself."""
        while self.agenda or self.grows:
            if not self.agenda:
                self.grow(*self.grows)
                continue
            self.now, stack, _ = self.agenda[0]
            ending = []
            while self.agenda and self.agenda[0][:2] == (self.now, stack):
                ending.append(heapq.heappop(self.agenda)[2])
            reports = tuple(self.end(member) for member in ending)
            self.num_reports += len(reports)
            if self.ends is not None and self.num_reports >= self.ends:
                self.ends, self.is_cut = None, True
                self.tell(BudgetEnded(id="budget:1", reason="out of tokens"))
            self.tell(reports[0] if len(reports) == 1 else Together(reports=reports))
        return self

    def grow(self, members, generations):
        self.grows, self.is_cut = None, False
        budget = dataclasses.replace(
            self.task.budget,
            members=self.task.budget.members + members,
            generations=self.task.budget.generations + generations,
        )
        self.task = dataclasses.replace(self.task, budget=budget)
        self.slots = (*self.slots, *(type(self.slots[0])(99, index) for index in range(members)))
        self.tell(Extended(id="extended:1", task=self.task, slots=self.slots))

    def tell(self, event):
        self.events.append(event)
        actions = self.search.handle([event])
        self.search = self.between(self.search)
        for action in actions:
            self.obey(action)

    def obey(self, action):
        self.actions.append(action)
        match action:
            case Start(member=member, slot=slot, hparams=hparams):
                assert member == len(self.members), "members are numbered as they begin"
                self.task.space.check(hparams)
                self.members[member] = Seen(hparams)
                self.sit(member, slot)
            case Thaw(member=member, slot=slot):
                assert self.members[member].is_frozen
                self.members[member].is_frozen = False
                self.sit(member, slot)
            case Freeze(member=member):
                seen = self.at_rest(member)
                assert seen.consumed
                seen.slot, seen.is_frozen = None, True
            case ContinueUntil(member=member, consumed=consumed, lends=lends, generation=generation):
                seen = self.at_rest(member)
                assert seen.consumed < consumed <= seen.consumed + STEPS
                assert not lends
                assert generation == math.ceil(consumed / STEPS) - 1
                seen.until, seen.segment = consumed, seen.segment + 1
                takes = self.takes[(member + seen.segment) % len(self.takes)]
                heapq.heappush(self.agenda, (self.now + takes, seen.slot.stack, member))
            case Evaluate(member=member, split=split):
                segment = self.at_rest(member).segment
                event = f"evaluation:{member}:{segment}:{split}"
                self.tell(EvaluationEnded(id=event, member=member, split=split, metrics={"loss": 0.0}))

    def at_rest(self, member):
        seen = self.members[member]
        assert not seen.has_failed
        assert seen.slot in self.slots
        assert seen.until is None
        return seen

    def sit(self, member, slot):
        for other in self.members.values():
            if other.slot == slot:
                assert other.until is None
                other.slot = None
        self.members[member].slot = slot

    def end(self, member):
        seen = self.members[member]
        key = (member, seen.segment)
        if key in self.fails:
            seen.has_failed, seen.until = True, None
            return MemberFailed(id=f"failed:{member}:{seen.segment}", member=member, reason="made up")
        seen.consumed, seen.until = seen.until - self.is_cut * ((seen.until - seen.consumed) // 2), None
        score = math.nan if key in self.diverges else loss(seen.hparams, seen.consumed)
        return SegmentReported(
            id=f"report:{member}:{seen.segment}",
            member=member,
            segment=seen.segment,
            age=seen.consumed,
            consumed=seen.consumed,
            metrics={"loss": score if self.task.mode == "min" else -score},
            wall_s=1.0,
        )

    @property
    def finish(self):
        (finish,) = [it for it in self.actions if isinstance(it, Finish)][-1:]
        return finish

    @property
    def consumed(self):
        return [seen.consumed for seen in self.members.values()]

    @property
    def spent(self):
        """Steps of the target; one with a quarter of the width costs a quarter."""
        return sum(seen.consumed * seen.hparams.get("width", 64) / 64 for seen in self.members.values())


SEARCHES = [
    ASHA(),
    ASHA(synchronous=False, reduction_factor=2, target_generations=8),
    ASHA(brackets=2),
    MedianRule(least=2, synchronous=False),
    RandomSearch(sobol=True),
    RandomSearch(synchronous=False, target_generations=3),
    ASHA(resumable=False),
    OptunaSearch(halving=True),
]
#: Searches that judge configurations by smaller models.
SIZED = [
    ASHA(fidelity="width", reduction_factor=2),
    ASHA(fidelity="width", target_generations=2, min_generations=2, synchronous=False),
    MedianRule(fidelity="width", least=2, resumable=False),
]


@st.composite
def worlds(draw):
    """Worlds in which things go wrong."""
    options = draw(st.sampled_from([*SEARCHES, *SIZED]))
    task = make_task(
        space=SIZES if options in SIZED else SPACE,
        members=draw(st.integers(1, 5)),
        generations=draw(st.integers(8, 20)),
        mode=draw(st.sampled_from(["min", "max"])),
        seed=draw(st.integers(0, 3)),
    )
    keys = st.tuples(st.integers(0, 9), st.integers(0, 3))
    return {
        "options": options,
        "task": task,
        "stacks": draw(st.integers(1, 3)),
        "fails": draw(st.sets(keys, max_size=3)),
        "diverges": draw(st.sets(keys, max_size=5)),
        "takes": draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)),
        "ends": draw(st.none() | st.integers(1, 20)),
        "grows": draw(st.none() | st.tuples(st.integers(0, 2), st.integers(1, 8))),
    }


@EXAMPLES
@given(case=worlds())
def test_it_comes_to_an_end_within_the_budget(case):
    """And says nothing more; what is announced has lived."""
    world = World(**case).play()
    assert isinstance(world.actions[-1], Finish)
    assert world.spent <= world.task.budget.member_steps + 1e-6
    assert world.search.handle(world.events[-2:]) == []
    best = world.finish.best
    if best is not None:
        assert not world.members[best].has_failed
        evaluated = [it.member for it in world.actions if isinstance(it, Evaluate)]
        assert best in evaluated


@EXAMPLES
@given(case=worlds(), data=st.data())
def test_a_search_can_be_taken_down_and_put_up_again(case, data):
    """At any moment, as JSON; and who is told the same again, decides the same."""
    whole = World(**case).play()
    at = data.draw(st.integers(0, len(whole.events) - 1))
    count = 0

    def between(search):
        nonlocal count
        count += 1
        if count - 1 != at:
            return search
        again = case["options"].begin(case["task"])
        again.restore(json.loads(json.dumps(search.snapshot())))
        return again

    assert World(**case, between=between).play().actions == whole.actions
    other = case["options"].begin(case["task"])
    told = [action for event in whole.events for action in [*other.handle([event]), *other.handle([event])]]
    assert told == whole.actions


@EXAMPLES
@given(case=worlds(), takes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_in_synchronous_mode_time_and_stacks_make_no_difference(case, takes):
    options = dataclasses.replace(case["options"], synchronous=True)
    case = {**case, "options": options, "ends": None, "stacks": case["task"].budget.members}
    assert World(**case).play().actions == World(**{**case, "takes": takes}).play().actions


def test_a_model_is_told_in_an_order_that_time_has_no_part_in():
    """It would see the same values, but not the same first ones, and add them up in another order."""
    task = make_task(members=4, generations=16)
    worlds = [World(FreezeThaw(startup=4), task, stacks=4, takes=takes).play() for takes in ((1,), (5, 2, 3))]
    assert worlds[0].actions == worlds[1].actions


@pytest.mark.parametrize("options", SEARCHES, ids=repr)
def test_the_budget_is_used_up(options):
    """But for what would not bring anybody to the next rung; and the winner was trained to the end."""
    world = World(options, make_task(members=4, generations=32), stacks=2, takes=(1, 2)).play()
    target = (options.target_generations or 8) * STEPS
    assert sum(world.consumed) > 32 * 4 * STEPS - target
    assert world.members[world.finish.best].consumed == target
    assert max(world.consumed) == target
    complete = sum(it == target for it in world.consumed)
    begun = len({seen.hparams["lr"] for seen in world.members.values()})
    assert f"expected to be the best of {begun} configurations, {complete} of them" in world.finish.reason


@pytest.mark.parametrize("options", SIZED, ids=repr)
def test_the_winner_is_of_the_size_that_is_wanted(options):
    """And was begun again on its way, with what it had been: only the size has changed."""
    world = World(options, make_task(members=4, generations=32, space=SIZES), stacks=2, takes=(1, 2)).play()
    best = world.members[world.finish.best]
    assert best.hparams["width"] == 64
    assert best.consumed == (options.target_generations or 8) * STEPS
    smaller = {seen.hparams["width"] for seen in world.members.values() if seen.hparams["lr"] == best.hparams["lr"]}
    assert len(smaller) > 1
    assert {16, 32, 64} == {seen.hparams["width"] for seen in world.members.values()}
    small = sum(seen.hparams["width"] == 16 for seen in world.members.values())
    assert small > len(world.members) / 3


def test_what_a_stack_begins_at_once_is_of_one_structure():
    """Then it is trained together."""
    space = Space({**SPACE, "width": Choice([16, 32, 64])})
    world = World(RandomSearch(), make_task(members=6, generations=32, space=space), stacks=2).play()
    begun = {}
    for action in world.actions:
        if isinstance(action, Start):
            begun.setdefault((action.cause, action.slot.stack), set()).add(action.hparams["width"])
    assert [len(widths) for (cause, _), widths in begun.items() if cause == "start"] == [1, 1]
    assert len({next(iter(widths)) for widths in begun.values()}) > 1


@pytest.mark.parametrize("options", [ASHA(target_generations=4), ASHA(fidelity="width", target_generations=4)])
def test_a_target_that_is_further_is_reached_by_those_that_were_complete(options):
    """They go on from where they are; also by one that was taken down and put up again."""

    def again(search):
        other = options.begin(task)
        other.restore(json.loads(json.dumps(search.snapshot())))
        return other

    task = make_task(members=3, generations=16, space=SIZES if options.fidelity else SPACE)
    worlds = [World(options, task, between=between).play() for between in (again, lambda search: search)]
    for world in worlds:
        complete = [member for member, seen in world.members.items() if seen.consumed == 4 * STEPS]
        budget = dataclasses.replace(task.budget, generations=48)
        world.task = dataclasses.replace(task, budget=budget)
        world.tell(Extended(id="extended:1", task=world.task, slots=world.slots, target_steps=12 * STEPS))
        world.play_on()
        best = world.finish.best
        assert world.members[best].consumed == 12 * STEPS
        assert any(world.members[member].consumed > 4 * STEPS for member in complete)
        assert world.spent <= budget.member_steps
    assert worlds[0].actions == worlds[1].actions


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("ends", [5, 9, 14, 20, 26, 33])
@pytest.mark.parametrize("seed", [0, 1])
def test_who_made_way_for_the_winners_evaluation_goes_on_once_it_is_extended(synchronous, ends, seed):
    """A limit cut them short on their way; the best was frozen, and took a slot to be evaluated."""
    options = ASHA(target_generations=9, synchronous=synchronous)
    task = make_task(members=3, generations=27, seed=seed)
    world = World(options, task, stacks=2, takes=(1, 2), ends=ends, grows=(0, 20)).play()
    book = world.search.snapshot()
    assert [run["until"] for run in book["runs"] if run["until"] is not None] == []
    target = 9 * STEPS
    assert sum(world.consumed) > 47 * 3 * STEPS - 2 * target
    assert world.members[world.finish.best].consumed == target


def test_the_best_wins_and_is_found_among_many():
    world = World(ASHA(), make_task(members=4, generations=64)).play()
    found = [loss(it.hparams, 160) for it in world.members.values()]
    assert len(found) > 60
    assert sorted(found).index(loss(world.members[world.finish.best].hparams, 160)) < 3


def test_slots_wait_for_a_generation_and_not_for_a_rung():
    """In synchronous mode a run on a long way holds nobody up."""
    world = World(ASHA(), make_task(members=4, generations=32))
    world.play()
    assert world.now <= 32 + 8  # all four at work nearly all the time, and then the confirmation


def test_first_come_the_configurations_that_were_named():
    named = [{"lr": 0.01}, {"lr": 0.02}, {"lr": 0.03}, {"lr": 0.04}]
    world = World(ASHA(initial=named), make_task(members=3)).play()
    assert named == [world.members[member].hparams for member in range(4)]


class Scripted:
    """Says what it was given, one order for each free slot."""

    def __init__(self, *orders):
        self.orders = list(orders)

    def choose(self, book, seed, number=1, alike=()):
        return [self.orders.pop(0) if self.orders else Begin({"lr": 0.5}, 10.0) for _ in range(number)]

    def recommend(self, book):
        return lowest(book)


class TestSeats:
    COURSE = course(Ladder((10.0, 20.0, 40.0)))

    def begin(self, *orders, members=2, generations=20, space=SPACE, course=COURSE):
        task = make_task(members, generations, space=space)
        return Search(task, lambda space: Scripted(*orders), course, synchronous=True)

    def report(self, search, member, segment, consumed, score):
        event = SegmentReported(
            id=f"report:{member}:{segment}",
            member=member,
            segment=segment,
            age=consumed,
            consumed=consumed,
            metrics={"loss": score},
            wall_s=1.0,
        )
        return search.handle([event])

    def test_who_sits_goes_on_there_and_others_are_thawed(self):
        first, second = lay_out(2, 1)
        a, b, c = ({"lr": 0.1 * it} for it in (1, 2, 3))
        search = self.begin(Begin(a, 10.0), Begin(b, 10.0), Begin(c, 10.0), GoOn(0, 20.0), GoOn(2, 20.0), GoOn(1, 20.0))
        search.handle([SweepStarted(id="start", slots=(first, second))])
        assert self.report(search, 0, 0, 10, 0.5) == []
        actions = self.report(search, 1, 0, 10, 0.6)
        # Member 0 sits in the first slot and goes on there; the new one takes that of member 1, which is frozen.
        assert [
            ContinueUntil(cause="report:0:0", member=0, consumed=20, generation=1, lends=False),
            Freeze(cause="report:1:0", member=1, reason="others promised more, and member 2 has its slot"),
            Start(cause="report:1:0", member=2, slot=second, hparams=c, seed=actions[2].seed),
            ContinueUntil(cause="report:1:0", member=2, consumed=10, generation=0, lends=False),
        ] == actions
        self.report(search, 2, 0, 10, 0.4)
        actions = self.report(search, 0, 1, 20, 0.3)
        assert [
            Freeze(cause="report:0:1", member=0, reason="others promised more, and member 1 has its slot"),
            Thaw(cause="report:0:1", member=1, slot=first),
            ContinueUntil(cause="report:0:1", member=1, consumed=20, generation=1, lends=False),
            ContinueUntil(cause="report:2:0", member=2, consumed=20, generation=1, lends=False),
        ] == actions

    def test_those_of_one_structure_share_a_stack(self):
        """Two widths for two stacks of two slots each, in turns: no stack gets both."""
        orders = [Begin({"lr": 0.1, "width": width}, 10.0) for width in (16, 64, 16, 64)]
        search = self.begin(*orders, members=4, space=SIZES)
        actions = search.handle([SweepStarted(id="start", slots=lay_out(4, 2))])
        widths = {}
        for action in actions:
            if isinstance(action, Start):
                widths.setdefault(action.slot.stack, set()).add(action.hparams["width"])
        assert list(widths.values()) == [{16}, {64}]

    def test_who_diverged_is_not_frozen(self):
        slots = lay_out(1, 1)
        search = self.begin(members=1)
        search.handle([SweepStarted(id="start", slots=slots)])
        actions = self.report(search, 0, 0, 10, math.nan)
        assert [Start, ContinueUntil] == [type(it) for it in actions]

    def test_the_last_steps_are_kept_for_the_best(self):
        """Of 80 steps there are 40 left when nobody may begin: just enough for the whole way of the best."""
        slots = lay_out(1, 1)
        search = self.begin(members=1, generations=8)
        actions = search.handle([SweepStarted(id="start", slots=slots)])
        scores = iter([0.5, 0.6, 0.7, 0.8, 0.9])
        while isinstance(actions[-1], ContinueUntil) and actions[-1].consumed == 10:
            actions = self.report(search, actions[-1].member, 0, 10, next(scores))
        assert Thaw(cause="report:0:0", member=0, slot=slots[0], reason="the best so far") in actions
        assert actions[-1].consumed == 20
        for segment, consumed in ((1, 20), (2, 30), (3, 40)):
            actions = self.report(search, 0, segment, consumed, 0.4)
        assert Evaluate(cause="report:0:3", member=0, split="test") == actions[-1]


def test_a_search_by_model_is_a_search():
    world = World(FreezeThaw(), make_task(members=4, generations=32), stacks=2).play()
    assert abs(math.log10(world.members[world.finish.best].hparams["lr"]) + 2.0) < 0.1


@pytest.mark.parametrize(
    ("options", "budget", "field"),
    [
        (lambda: ASHA(reduction_factor=1), None, "strategy.options.reduction_factor"),
        (lambda: ASHA(min_generations=0), None, "strategy.options.min_generations"),
        (lambda: ASHA(brackets=0), None, "strategy.options.brackets"),
        (lambda: ASHA(target_generations=3, min_generations=4), None, "strategy.options.target_generations"),
        (lambda: FreezeThaw(random=1.5), None, "strategy.options.random"),
        (lambda: FreezeThaw(startup=0), None, "strategy.options.startup"),
        (lambda: MedianRule(least=1), None, "strategy.options.least"),
        (lambda: RandomSearch(target_generations=0), None, "strategy.options.target_generations"),
        (lambda: RandomSearch(target_generations=9), 8, "strategy.options.target_generations"),
        (lambda: ASHA(target_generations=9), 8, "strategy.options.target_generations"),
        (lambda: ASHA(min_generations=3), 8, "strategy.options.min_generations"),
        (lambda: ASHA(fidelity="wdith"), None, "strategy.options.fidelity"),
        (lambda: ASHA(fidelity="lr"), None, "strategy.options.fidelity"),
        (lambda: ASHA(cost={"wdith": 2}), None, "strategy.options.cost.wdith"),
        (lambda: ASHA(cost={"width": "2"}), None, "strategy.options.cost.width"),
        (lambda: ASHA(fidelity=3), None, "strategy.options.fidelity"),
        (lambda: ASHA(cost=2), None, "strategy.options.cost"),
        (lambda: ASHA(resumable="no"), None, "strategy.options.resumable"),
        (lambda: FreezeThaw(guess=0.1), None, "strategy.options.guess"),
        (lambda: FreezeThaw(guess={"rl": 0.1}), None, "strategy.options.guess.rl"),
        (lambda: FreezeThaw(guess={"lr": 7}), None, "strategy.options.guess.lr"),
        (lambda: MFMES(fidelity="width", guess={"width": 16}), None, "strategy.options.guess.width"),
        (lambda: RungEnsemble(earlier="runs.csv"), None, "strategy.options.earlier"),
        (lambda: OptunaSearch(sampler="tpee"), None, "strategy.options.sampler"),
        (lambda: OptunaSearch(sampler=None), None, "strategy.options.sampler"),
        (lambda: ASHA(fidelity="width", cost={"width": 0}), None, "strategy.options.cost.width"),
        (lambda: ASHA(fidelity="width", cost={"width": -1}), None, "strategy.options.cost.width"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, budget, field):
    with pytest.raises(SpecError) as refused:
        options().begin(make_task(2, budget or 8, space=SIZES))
    assert refused.value.field == field


def test_a_budget_in_which_nobody_can_be_trained_to_the_end_is_refused():
    """Not even the first, which begins again at each rung."""
    with pytest.raises(SpecError) as refused:
        ASHA(resumable=False, target_generations=3).begin(make_task(1, 3))
    assert refused.value.field == "budget.generations"
    assert "Write 4 or more" in str(refused.value)
    assert World(ASHA(resumable=False, target_generations=3), make_task(1, 4)).play().finish.best is not None


def test_there_is_something_to_search_besides_the_size():
    with pytest.raises(SpecError, match="leaves nothing to search"):
        ASHA(fidelity="width").begin(make_task(space=Space({"width": Choice([16, 32])})))
