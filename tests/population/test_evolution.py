"""Ends of the budget and extensions, by hand; what holds of them in general is in the contract."""

import importlib
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.member import Slot, lay_out
from pbt.population import PBT, Fixed
from pbt.strategy import (
    BudgetEnded,
    ContinueUntil,
    Copy,
    Evaluate,
    EvaluationEnded,
    Extended,
    Finish,
    MemberFailed,
    SegmentReported,
    Set,
    Start,
    SweepStarted,
    task_from_dict,
    task_to_dict,
)
from pbt.sweep import STRATEGIES
from tests import strategies
from tests.contracts.strategy_contract import (
    AT_THE_END,
    EXAMPLES,
    SPACE,
    Case,
    Dies,
    Ended,
    Grown,
    cause_of,
    make_task,
    of_kind,
    play,
    tasks,
)

NAN = math.nan
NORMAL = "best score at the end of the last generation"
BOTH = pytest.mark.parametrize("synchronous", [True, False])


def larger(task, members=0, generations=0):
    budget = replace(
        task.budget, members=task.budget.members + members, generations=task.budget.generations + generations
    )
    return replace(task, budget=budget)


def reported(member, segment, score, consumed):
    return SegmentReported(
        id=f"report:{member}:{segment}",
        member=member,
        segment=segment,
        age=consumed,
        consumed=consumed,
        metrics={"Q": score},
        wall_s=1.0,
    )


def evaluated(answer):
    _, member, _, split = answer.split(":")
    return EvaluationEnded(id=answer, member=int(member), split=split, metrics={"Q": 0.0})


class Sweep:
    """A strategy, told things as a test wants it."""

    def __init__(self, options, task):
        self.strategy = options.begin(task)
        self.task = task
        self.slots = lay_out(task.budget.members, 1)
        self.start = self.strategy.handle([SweepStarted(id="start", slots=self.slots)])

    def tell(self, *events):
        return self.strategy.handle(events)

    def extend(self, number=1, **more):
        self.task = larger(self.task, **more)
        self.slots += tuple(Slot(1 + number, index) for index in range(self.task.budget.members - len(self.slots)))
        return self.tell(Extended(id=f"extended:{number}", task=self.task, slots=self.slots))

    def end_budget(self, number=1):
        return self.tell(BudgetEnded(id=f"budget:{number}", reason=f"reason {number}"))


# --- the end


@BOTH
def test_the_answer_about_a_winner_that_died_is_not_heard(synchronous):
    """The sweep has ended without one; that is its only end."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=1))
    sweep.tell(reported(0, 0, 0.5, 10))
    (finish,) = sweep.tell(MemberFailed(id="failed:0:0", member=0, reason="its host is gone"))
    assert Finish(cause="failed:0:0", best=None, reason="every member failed") == finish
    assert [] == sweep.tell(evaluated("evaluation:0:0:test"))


@BOTH
def test_who_diverges_twice_begins_twice_elsewhere(synchronous):
    """Each time with another seed and other hyperparameters: the same would diverge for ever."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=4))
    starts = of_kind(sweep.start, Start)
    for segment in range(2):
        starts += of_kind(sweep.tell(reported(0, segment, NAN, 10 * (segment + 1))), Start)
    assert len(starts) == 3
    assert len({start.seed for start in starts}) == 3
    assert len({json.dumps(dict(start.hparams), sort_keys=True) for start in starts}) == 3


# --- the budget ends


@BOTH
def test_the_budget_ends_in_the_midst_of_a_generation(synchronous):
    """Those under way are waited for, with fewer steps than ordered; the best of all is evaluated and wins."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=3, generations=5))
    sweep.tell(reported(0, 0, 0.2, 10))
    assert sweep.end_budget() == []
    assert sweep.tell(reported(1, 0, 0.9, 7)) == []
    others = [reported(0, 1, 0.3, 15)] if not synchronous else []
    asked = sweep.tell(*others, reported(2, 0, 0.5, 7))
    assert [Evaluate(cause="report:1:0", member=1, split="test")] == asked
    assert [Finish(cause="evaluation:1:0:test", best=1, reason="reason 1")] == sweep.tell(
        evaluated("evaluation:1:0:test")
    )


@BOTH
def test_the_budget_ends_with_the_last_failure(synchronous):
    """Who is heard of last may be heard of by its failure."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=2, generations=5))
    sweep.end_budget()
    sweep.tell(reported(0, 0, 0.2, 10))
    asked = sweep.tell(MemberFailed(id="failed:1:0", member=1, reason="made up"))
    assert [Evaluate(cause="report:0:0", member=0, split="test")] == asked


@BOTH
def test_only_the_first_end_counts(synchronous):
    """Its reason is told, and one that comes after the announcement is no news."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=5))
    assert sweep.end_budget(1) == []
    assert sweep.end_budget(2) == []
    assert len(sweep.tell(reported(0, 0, 0.2, 10))) == 1
    assert sweep.end_budget(3) == []
    (finish,) = sweep.tell(evaluated("evaluation:0:0:test"))
    assert finish.reason == "reason 1"
    assert sweep.end_budget(4) == []


@BOTH
def test_an_end_after_the_announcement_is_no_reason(synchronous):
    """The sweep ended because it was done."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=1))
    sweep.tell(reported(0, 0, 0.2, 10))
    sweep.end_budget()
    (finish,) = sweep.tell(evaluated("evaluation:0:0:test"))
    assert finish.reason == NORMAL


@BOTH
@pytest.mark.parametrize("score", [NAN, 0.5])
def test_the_budget_ends_and_nobody_is_left(synchronous, score):
    """Where everybody failed or diverged there is no winner, and that is the reason."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=5))
    sweep.end_budget()
    last = reported(0, 0, NAN, 4) if math.isnan(score) else MemberFailed(id="failed:0:0", member=0, reason="made up")
    why = "every member diverged" if math.isnan(score) else "every member failed"
    assert [Finish(cause=last.id, best=None, reason=why)] == sweep.tell(last)


@BOTH
def test_before_the_start_nothing_is_heard(synchronous):
    """Neither an end of the budget nor an extension, nor a failure."""
    task = make_task(members=2)
    strategy = PBT(synchronous=synchronous).begin(task)
    before = strategy.snapshot()
    early = [
        BudgetEnded(id="budget:1", reason="made up"),
        Extended(id="extended:1", task=larger(task, members=1), slots=lay_out(3, 1)),
        MemberFailed(id="failed:0:0", member=0, reason="made up"),
    ]
    assert strategy.handle(early) == []
    assert before == strategy.snapshot()


# --- the sweep is extended


def test_what_an_extension_orders():
    """The last generation is ended as any other, and newcomers catch up in one segment: all of it, by hand."""
    space = strategies.widened(SPACE)
    options = PBT(explore="resample")
    sweep = Sweep(options, make_task(members=2, generations=1))
    sweep.tell(reported(0, 0, 0.2, 10), reported(1, 0, 0.9, 10), evaluated("evaluation:1:0:test"))
    sweep.task = replace(sweep.task, space=space)
    actions = sweep.extend(members=1, generations=1)
    always = of_kind(Sweep(options, sweep.task).start, Start)[2]
    cause = "extended:1"
    (drawn,) = of_kind(actions, Set)
    assert [
        Copy(cause=cause, donor=1, receiver=0, reason="Q 0.2 is rank 2 of 2; donor 1 has 0.9, rank 1"),
        Set(cause=cause, member=0, hparams=drawn.hparams),
        ContinueUntil(cause=cause, member=0, consumed=20, generation=1),
        ContinueUntil(cause=cause, member=1, consumed=20, generation=1),
        Start(cause=cause, member=2, slot=Slot(2, 0), hparams=always.hparams, seed=always.seed),
        ContinueUntil(cause=cause, member=2, consumed=20, generation=1),
    ] == actions
    space.check(drawn.hparams)


def test_newcomers_that_do_not_wait_begin_at_the_beginning():
    """They train a generation at a time, as everybody did."""
    sweep = Sweep(PBT(synchronous=False), make_task(members=2, generations=3))
    sweep.tell(reported(0, 0, 0.2, 10), reported(0, 1, 0.2, 20))
    _, trains = sweep.extend(members=1)
    assert ContinueUntil(cause="extended:1", member=2, consumed=10, generation=0) == trains


@BOTH
def test_members_alone(synchronous):
    """The others are at the end and stay there; when the newcomer is, the best of all is announced."""
    sweep = Sweep(Fixed() if synchronous else PBT(synchronous=False), make_task(members=2, generations=1))
    sweep.tell(reported(0, 0, 0.2, 10), reported(1, 0, 0.9, 10), evaluated("evaluation:1:0:test"))
    actions = sweep.extend(members=1)
    assert {2} == {action.member for action in actions}
    again = Finish(cause="report:1:0", best=1, reason=NORMAL)
    assert [again] == sweep.tell(reported(2, 0, 0.3, 10))  # evaluated before, and no other since
    sweep.extend(2, members=1)
    assert [Evaluate(cause="report:3:0", member=3, split="test")] == sweep.tell(reported(3, 0, 1.5, 10))


@BOTH
def test_a_winner_being_evaluated_is_announced_no_more(synchronous):
    """The answer to the earlier announcement is not taken for the answer to the next, of the same member."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=1))
    sweep.tell(reported(0, 0, 0.2, 10))
    sweep.extend(generations=1)
    assert [Evaluate(cause="report:0:1", member=0, split="test")] == sweep.tell(reported(0, 1, 0.4, 20))
    assert sweep.tell(evaluated("evaluation:0:0:test")) == []
    assert [Finish(cause="evaluation:0:1:test", best=0, reason=NORMAL)] == sweep.tell(evaluated("evaluation:0:1:test"))


@BOTH
def test_an_answer_that_comes_while_others_train_is_kept(synchronous):
    """The member did not train since: when it is announced again, it has been evaluated."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=1))
    sweep.tell(reported(0, 0, 0.2, 10))
    sweep.extend(members=1)
    assert sweep.tell(evaluated("evaluation:0:0:test")) == []
    assert [Finish(cause="report:0:0", best=0, reason=NORMAL)] == sweep.tell(reported(1, 0, 0.1, 10))


@BOTH
def test_an_answer_that_was_lost_is_asked_for_again(synchronous):
    """The extension came before the answer, which never came."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=1))
    sweep.tell(reported(0, 0, 0.2, 10))
    assert [Evaluate(cause="extended:1", member=0, split="test")] == sweep.extend()
    assert len(sweep.tell(evaluated("evaluation:0:0:test"))) == 1


@BOTH
def test_what_the_budget_cut_short_is_trained_to_its_end(synchronous):
    """Nobody is replaced for a score at a lower age: the segment is finished first, then compared."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=2, generations=2))
    sweep.end_budget()
    sweep.tell(reported(0, 0, 0.9, 10), reported(1, 0, 0.2, 4), evaluated("evaluation:0:0:test"))
    actions = sweep.extend()
    assert ContinueUntil(cause="extended:1", member=1, consumed=10, generation=0) == actions[0]
    waits = [] if synchronous else [ContinueUntil(cause="extended:1", member=0, consumed=20, generation=1)]
    assert waits == actions[1:]
    assert [1] == [copy.receiver for copy in of_kind(sweep.tell(reported(1, 1, 0.3, 10)), Copy)]


def test_what_is_reported_short_after_an_extension_is_finished_too():
    """It had been cut before. Then all are compared at equal age."""
    sweep = Sweep(PBT(), make_task(members=2, generations=2))
    sweep.end_budget()
    assert [] == sweep.extend()
    assert [] == sweep.tell(reported(0, 0, 0.9, 10))
    rest = ContinueUntil(cause="report:1:0", member=1, consumed=10, generation=0)
    assert [rest] == sweep.tell(reported(1, 0, 0.2, 4))
    assert [1] == [copy.receiver for copy in of_kind(sweep.tell(reported(1, 1, 0.3, 10)), Copy)]


def test_what_was_cut_short_is_no_measure_of_others():
    """A segment of no steps reports the same weights again: they count once among those of their age."""
    sweep = Sweep(PBT(synchronous=False), make_task(members=2, generations=2))
    sweep.tell(reported(0, 0, 0.9, 10))
    sweep.end_budget()
    sweep.tell(reported(0, 1, 0.9, 10), reported(1, 0, 0.2, 10))
    (copy,) = of_kind(sweep.extend(), Copy)
    assert copy.reason == "Q 0.2 is rank 2 of 2 around age 10; donor 0 has 0.9 at age 10"


@BOTH
def test_a_new_budget_may_end_too(synchronous):
    """The first end is over with the extension; the next gives its own reason."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=9))
    sweep.end_budget(1)
    sweep.tell(reported(0, 0, 0.1, 10), evaluated("evaluation:0:0:test"))
    assert len(of_kind(sweep.extend(), ContinueUntil)) == 1
    assert len(of_kind(sweep.tell(reported(0, 1, 0.1, 20)), ContinueUntil)) == 1
    sweep.end_budget(2)
    sweep.tell(reported(0, 2, 0.1, 30))
    (finish,) = sweep.tell(evaluated("evaluation:0:2:test"))
    assert finish.reason == "reason 2"


@BOTH
def test_where_everybody_failed_newcomers_go_on(synchronous):
    """Without any the sweep ends again; with one it is trained, and wins."""
    sweep = Sweep(PBT(synchronous=synchronous), make_task(members=1, generations=2))
    sweep.tell(MemberFailed(id="failed:0:0", member=0, reason="made up"))
    assert [Finish(cause="extended:1", best=None, reason="every member failed")] == sweep.extend(generations=1)
    assert [1, 1] == [action.member for action in sweep.extend(2, members=1)]
    sweep.tell(reported(1, 0, 0.5, 10), reported(1, 1, 0.5, 20))
    assert [Evaluate(cause="report:1:2", member=1, split="test")] == sweep.tell(reported(1, 2, 0.5, 30))


@BOTH
def test_a_member_that_failed_after_the_end_stays_dead(synchronous):
    """It is not told to go on, and copies nothing."""
    case = Case(
        task=make_task(members=3, generations=1),
        scores=[[0.1], [0.5], [0.9]],
        news=[(AT_THE_END, Dies(2)), (AT_THE_END, Grown(generations=1))],
    )
    story = play(PBT(synchronous=synchronous), case)
    assert [2, 1] == [finish.best for finish in of_kind(story.actions, Finish)]
    assert [(1, 0)] == [(copy.donor, copy.receiver) for copy in of_kind(story.actions, Copy)]


@BOTH
def test_where_everybody_diverged_all_begin_again(synchronous):
    """The sweep had ended without a winner; with a generation more it goes on from fresh members."""
    case = Case(
        task=make_task(members=2, generations=1), scores=[[NAN, 0.5]], news=[(AT_THE_END, Grown(generations=1))]
    )
    story = play(PBT(synchronous=synchronous), case)
    assert [0, 1, 0, 1] == [start.member for start in of_kind(story.actions, Start)]
    assert [None, 0] == [finish.best for finish in of_kind(story.actions, Finish)]


def test_the_snapshot_holds_the_task_in_force():
    """Restored into a strategy that was begun on the old task, it goes on with the new one."""
    case = Case(
        task=make_task(members=2, generations=1),
        scores=[[0.1, 0.2], [0.5, 0.6]],
        news=[(2, Ended()), (AT_THE_END, Grown(members=1, generations=2, is_wider=True))],
    )
    whole = play(PBT(), case)
    grown = next(index for index, told in enumerate(whole.told) if isinstance(told.event, Extended))
    first, other = PBT().begin(case.task), PBT().begin(case.task)
    first.handle(whole.events[: grown + 1])
    other.restore(json.loads(json.dumps(first.snapshot())))
    rest = [action for told in whole.told[grown + 1 :] for action in told.actions]
    assert rest == other.handle(whole.events[grown + 1 :])
    assert {30} == {known.consumed for known in whole.members.values()}


@EXAMPLES
@given(task=tasks(), limits=st.fixed_dictionaries({}, optional={"tokens": st.just(7), "wall_minutes": st.just(0.1)}))
def test_a_task_travels_as_data(task, limits):
    """Through JSON and back it is equal, its space in the same order, limits included."""
    task = replace(task, budget=replace(task.budget, **limits), final_split="validation")
    assert task == task_from_dict(json.loads(json.dumps(task_to_dict(task))))


# --- the winner


@pytest.mark.parametrize("name", sorted(name for name, path in STRATEGIES.items() if "population" in path))
def test_every_ready_strategy_has_its_winner_evaluated_on_the_test_split_first(name):
    """Before it is named, and nobody else is: the last two actions of each strategy that a sweep file can name."""
    module, _, attribute = STRATEGIES[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    options = kind(arms=[{"name": "random search"}], seeds=16) if name == "replay" else kind()
    scores = [[0.1 * member] * 3 for member in range(16)]
    story = play(options, Case(task=make_task(members=16), scores=scores))
    evaluate, finish = story.actions[-2:]
    assert [evaluate] == of_kind(story.actions, Evaluate)
    assert ("test", finish.best) == (evaluate.split, evaluate.member)
    assert (f"evaluation:{finish.best}:2:test", NORMAL) == (finish.cause, cause_of(finish))
