"""Asynchronous population-based training: each member is compared as soon as it reports."""

import collections
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.population import PBT
from pbt.population.flow import Company
from pbt.population.verdicts import Keep, Standing
from pbt.strategy import ContinueUntil, Copy, Decline, Evaluate, MemberFailed, SegmentReported, Set, Start, Together
from searchspaces import Float, Space
from tests.contracts.strategy_contract import (
    EXAMPLES,
    METRIC,
    Case,
    StrategyContract,
    cases,
    eventful,
    make_task,
    of_kind,
    play,
)
from tests.population.test_evolution import Sweep, evaluated, reported

NAN = math.nan
SPACE = Space({"a": Float(0.0, 1000.0), "b": Float(0.0, 1000.0)})
FLOW = PBT(synchronous=False)


class TestContract(StrategyContract):
    """Asynchronous `PBT` keeps the contract of every strategy, with whatever options."""

    @pytest.fixture(
        params=[
            FLOW,
            PBT(synchronous=False, explore="resample", quantile=0.5),
            PBT(synchronous=False, inherit_hparams=False, resample_probability=0.0, factors=(0.5, 3.0)),
        ],
        ids=["defaults", "resample", "own-hparams"],
    )
    def options(self, request):
        return request.param


def aged(member, segment, score, age, consumed=None):
    consumed = age if consumed is None else consumed
    return replace(reported(member, segment, score, consumed), age=age)


def test_it_says_so():
    """The brain is told that donors may be under way."""
    assert FLOW.synchronous is False


# --- nobody waits


@EXAMPLES
@given(case=cases(failures=True))
def test_each_goes_on_at_once(case):
    """Reports are answered for the members that reported, and for no other, until their last."""
    last, steps = case.generations - 1, case.task.budget.steps
    for told in play(FLOW, case).told:
        trains = of_kind(told.actions, ContinueUntil)
        reports = {event.member: event for event in told.parts if isinstance(event, SegmentReported)}
        if reports:
            generations = {member: report.consumed // steps for member, report in reports.items()}
            expected = [(member, (n + 1) * steps, n) for member, n in generations.items() if n <= last]
            assert expected == [(action.member, action.consumed, action.generation) for action in trains]
            for action in of_kind(told.actions, Copy | Set | Start | ContinueUntil):
                member = action.receiver if isinstance(action, Copy) else action.member
                assert reports[member].id == action.cause


def test_a_slow_member_is_waited_for_at_the_end_alone():
    """The fast one is at its end long before; the best is announced when both are."""
    case = Case(
        task=make_task(members=2, generations=3),
        scores=[[0.1, 0.2, 0.3], [0.1, 0.2, 0.9]],
        durations=[[1, 1, 1], [100, 1, 1]],
    )
    story = play(FLOW, case)
    expected = ["start", "report:0:0", "report:0:1", "report:0:2", "report:1:0", "report:1:1", "report:1:2"]
    assert [*expected, "evaluation:1:2:test"] == [event.id for event in story.events]
    assert [Evaluate(cause="report:1:2", member=1, split="test")] == story.told[6].actions


# --- who ended together


@EXAMPLES
@given(
    scores=st.lists(st.floats(-1, 1) | st.sampled_from([0.0, 0.5]), min_size=1, max_size=12),
    quantile=st.sampled_from([0.1, 0.2, 0.4, 0.5]),
    mode=st.sampled_from(["min", "max"]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_where_all_are_in_one_stack_it_is_as_in_rounds(scores, quantile, mode, seed, data):
    """Though nobody waits, all stand there: the same are replaced, by the same donors, with the same values.

    Equals, too, whose order is that of their numbers.
    """
    members = len(scores)
    task = make_task(members=members, generations=2, mode=mode, seed=seed)
    in_rounds = Sweep(PBT(quantile=quantile), task)
    in_flow = Sweep(PBT(quantile=quantile, synchronous=False), task)
    reports = [aged(member, 0, score, 10) for member, score in enumerate(scores)]
    expected = in_rounds.tell(*reports)
    found = in_flow.tell(Together(reports=tuple(data.draw(st.permutations(reports)))))

    def changes(actions):
        told = [replace(action, reason="") if isinstance(action, Copy) else action for action in actions]
        return sorted(map(repr, of_kind(told, Copy | Set | Start)))

    assert changes(expected) == changes(found)
    assert len(of_kind(found, Copy)) == (max(1, math.floor(quantile * members)) if members > 1 else 0)


def test_all_that_ended_together_can_be_copied():
    """Also who is replaced at that very moment: 3 takes over from 0 or 1, the best two, and 0 takes over from 1.

    For at its own age 0 is the worst of three, though two of the others have a worse score by now.
    """
    drawn = set()
    for seed in range(10):
        sweep = Sweep(PBT(synchronous=False, quantile=0.4), make_task(members=5, generations=9, seed=seed))
        sweep.tell(*(aged(member, 0, 0.0, 10) for member in (0, 1, 2, 4)))
        sweep.tell(aged(1, 1, 0.97, 20), aged(2, 1, 0.96, 20), aged(2, 2, 0.5, 30))
        actions = sweep.tell(Together(reports=(aged(0, 1, 0.95, 20), aged(3, 0, NAN, 10))))
        assert [Copy, Set, Copy, Set, ContinueUntil, ContinueUntil] == [type(action) for action in actions]
        donors = {copy.receiver: copy.donor for copy in of_kind(actions, Copy)}
        assert {0: 1, 3: donors[3]} == donors
        assert [False, False] == [action.lends for action in of_kind(actions, ContinueUntil)]
        drawn.add(donors[3])
    assert {0, 1} == drawn


def test_who_failed_at_the_same_moment_is_not_copied():
    """Wherever it stands among the reports, and though it was the best so far."""
    task = make_task(members=3, generations=3)
    for place in range(3):
        sweep = Sweep(FLOW, task)
        sweep.tell(aged(0, 0, 0.9, 10), aged(1, 0, 0.1, 10), aged(2, 0, 0.2, 10))
        reports = [aged(1, 1, 0.3, 20), aged(2, 1, NAN, 20)]
        reports.insert(place, MemberFailed(id="failed:0:1", member=0, reason="made up"))
        (copy,) = of_kind(sweep.tell(Together(reports=tuple(reports))), Copy)
        assert (1, 2) == (copy.donor, copy.receiver)


def test_the_end_is_announced_once_for_all_that_ended_together():
    """After the last of them, the best of all."""
    sweep = Sweep(FLOW, make_task(members=3, generations=1))
    answer = sweep.tell(Together(reports=tuple(aged(member, 0, member / 10, 10) for member in (2, 0, 1))))
    assert [Evaluate(cause="report:2:0", member=2, split="test")] == answer


# --- who is replaced


def test_what_a_report_orders():
    """Copy, set and train on, when the second of two is worse: the whole answer, by hand."""
    initial = ({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0})
    options = PBT(synchronous=False, initial=initial, resample_probability=0.0, factors=(2.0, 2.0))
    task = make_task(members=2, generations=2, steps=7, space=SPACE)
    first, second = play(options, Case(task=task, scores=[[0.9, 0.0], [0.1, 0.0]])).told[1:3]
    assert [ContinueUntil(cause="report:0:0", member=0, consumed=14, generation=1)] == first.actions
    why = "Q 0.1 is rank 2 of 2 around age 7; donor 0 has 0.9 at age 7"
    assert [
        Copy(cause="report:1:0", donor=0, receiver=1, reason=why),
        Set(cause="report:1:0", member=1, hparams={"a": 2.0, "b": 4.0}),
        ContinueUntil(cause="report:1:0", member=1, consumed=14, generation=1, lends=False),
    ] == second.actions
    assert {0} == second.under_way  # the donor


def company(at_age, better, donors=(), num_better=0, spread=0.0):
    """Company of which the donors have these scores, best first, and are numbered from 10."""
    known = [Standing(10 + place, score, {"a": 1.0, "b": 1.0}, age=20) for place, score in enumerate(donors)]
    return Company(at_age, better, len(known) + 1, len(known), num_better, known.__getitem__, lambda: spread)


def consider(options, score, others, mode="max", members=2, generation=0):
    member = Standing(3, score, {"a": 2.0, "b": 2.0}, age=10)
    return options.consider(make_task(members=members, mode=mode, space=SPACE), generation, member, others)


@pytest.mark.parametrize(
    ("at_age", "better", "quantile", "is_replaced"),
    [
        (1, 0, 0.5, False),  # the first at its age
        (2, 0, 0.5, False),
        (2, 1, 0.5, True),
        (5, 4, 0.2, True),
        (5, 3, 0.2, False),  # the other four: three better, one no better
        (9, 8, 0.2, True),
        (9, 6, 0.2, False),
        (10, 8, 0.2, True),  # now two are replaced
        (10, 7, 0.2, False),
        (20, 10, 0.5, True),
        (20, 9, 0.5, False),
        (5, 0, 0.5, False),  # all five are equal
    ],
)
def test_the_worst_so_far_at_an_age_are_replaced(at_age, better, quantile, is_replaced):
    """Among the `quantile * n` worst of the n that were as old."""
    options = PBT(synchronous=False, quantile=quantile)
    for generation in range(50):
        others = company(at_age, better, donors=[0.9])
        verdict = consider(options, 0.5, others, members=20, generation=generation)
        assert is_replaced == (verdict is not None)


@pytest.mark.parametrize(
    ("at_age", "better", "quantile", "members", "chance"),
    [
        (2, 1, 0.2, 20, 0.4),
        (3, 2, 0.2, 20, 0.6),
        (9, 7, 0.2, 20, 0.8),
        (2, 1, 0.01, 100, 0.02),
        (2, 1, 0.2, 3, 2 / 3),  # one of three at least
        (2, 1, 0.2, 9, 2 / 9),  # one of nine: 1.8, rounded down as in rounds
    ],
)
def test_what_is_no_whole_number_is_right_in_the_mean(at_age, better, quantile, members, chance):
    """Over 2,000 generations; three standard deviations."""
    options, others = PBT(synchronous=False, quantile=quantile), company(at_age, better, donors=[0.9])
    verdicts = [consider(options, 0.5, others, members=members, generation=number) for number in range(2000)]
    found = sum(verdict is not None for verdict in verdicts) / 2000
    assert abs(chance - found) < 3 * math.sqrt(chance * (1 - chance) / 2000)


@pytest.mark.parametrize("select", ["truncation", "tournament"])
@pytest.mark.parametrize("synchronous", [True, False])
def test_a_plateau_is_left(select, synchronous):
    """Where all are equal some are replaced all the same, or nobody would ever try other hyperparameters."""
    case = Case(task=make_task(members=8, generations=4), scores=[[0.5] * 4] * 8)
    copies = of_kind(play(PBT(select=select, synchronous=synchronous), case).actions, Copy)
    assert 3 <= len(copies) <= 8 * 3
    assert all(copy.donor < copy.receiver for copy in copies), "equals stand in member order"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_donor_that_became_worse_is_declined(mode):
    """It may have been better at that age, and be worse now; one that is as good will do."""
    sign = 1.0 if mode == "max" else -1.0
    worse = consider(FLOW, sign * 0.5, company(2, 1, donors=[sign * 0.4]), mode)
    score, donor = sign * 0.5, sign * 0.4
    why = f"Q {score:g} is rank 2 of 2 around age 10; donor 10 has {donor:g} at age 20, which is worse"
    assert Keep(3, why) == worse
    assert consider(FLOW, sign * 0.5, company(2, 1, donors=[sign * 0.5]), mode).donor == 10


def test_in_a_tournament_it_is_beaten_as_often_as_others_at_its_age_are_better():
    """3 of the 4 others: three times in four, within three standard deviations of 2,000."""
    options = PBT(synchronous=False, select="tournament")
    others = company(5, 3, donors=[0.9, 0.8, 0.7, 0.4], num_better=3)
    verdicts = [consider(options, 0.5, others, members=20, generation=number) for number in range(2000)]
    beaten = [verdict for verdict in verdicts if verdict is not None]
    assert abs(len(beaten) / 2000 - 0.75) < 3 * math.sqrt(0.75 * 0.25 / 2000)
    drawn = collections.Counter(verdict.donor for verdict in beaten)
    assert {10, 11, 12} == set(drawn), "by one of those that are better"
    assert max(drawn.values()) < 1.3 * min(drawn.values()), "each about equally often"


def test_in_a_tournament_all_lend_their_states():
    """Anybody may be drawn; with truncation the best share alone is."""
    lends = {}
    for options in (PBT(synchronous=False), PBT(synchronous=False, select="tournament")):
        case = Case(task=make_task(members=10, generations=2), scores=[[-float(it)] for it in range(10)])
        story = play(options, case)
        lends[options.select] = {it.lends for it in of_kind(story.actions, ContinueUntil)}
    assert {"truncation": {True, False}, "tournament": {True}} == lends


def test_before_burn_in_only_those_that_diverged_are_replaced():
    """By the member's own generations."""
    options = PBT(synchronous=False, quantile=0.5, burn_in=2)
    others = company(2, 1, donors=[0.9])
    verdicts = [consider(options, 0.5, others, generation=generation) for generation in range(4)]
    assert [False, False, True, True] == [verdict is not None for verdict in verdicts]
    assert consider(options, NAN, others, generation=0).donor == 10


def test_gates_ask_for_more_than_a_better_score():
    """As in rounds; the spread is that of the scores reported at its age."""
    options = PBT(synchronous=False, quantile=0.5, min_gap_std=2.0)
    assert consider(options, 0.5, company(2, 1, donors=[0.9], spread=0.19)).donor == 10
    declined = consider(options, 0.5, company(2, 1, donors=[0.9], spread=0.21))
    assert declined.reason.endswith("which is better by less than 2 standard deviations of the population")


def test_control_members_are_no_company():
    """They are neither donors nor peers, and go on as they are; one that diverged begins again."""
    options = PBT(synchronous=False, quantile=0.5, controls=1)
    case = Case(task=make_task(members=3, generations=3), scores=[[9.0, NAN, 9.0], [0.5], [0.25]])
    story = play(options, case)
    copies = of_kind(story.actions, Copy)
    assert {(copy.donor, copy.receiver) for copy in copies} == {(1, 2)}
    assert [1] == [len(of_kind(story.actions_of(generation), Start)) for generation in (1,)]


def test_nobody_to_copy_from():
    """A bad member keeps what it has, and a diverged one begins again."""
    assert Keep(3, "there is nobody to copy from") == consider(FLOW, 0.5, company(2, 1))
    restart = consider(FLOW, NAN, company(1, 0))
    assert restart.member == 3
    SPACE.check(restart.hparams)


def test_donors_are_drawn_from_the_top():
    """Of ten members the best two by their last scores, about equally often; the member itself is none of them."""
    others = company(10, 9, donors=[1.0 - place / 10 for place in range(9)])
    member = Standing(3, 0.0, {"a": 2.0, "b": 2.0}, age=10)
    task = make_task(members=20, space=SPACE)
    drawn = collections.Counter(FLOW.consider(task, generation, member, others).donor for generation in range(200))
    assert {10, 11} == set(drawn)
    assert all(60 < number < 140 for number in drawn.values())  # 100 +- 7


def test_the_best_at_their_age_lend_their_states():
    """As many of them as may be donors: of five or more at a quantile of 0.4 two, of fewer one. The first is one."""
    sweep = Sweep(PBT(synchronous=False, quantile=0.4), make_task(members=7, generations=3))
    scores = [0.5, 0.6, 0.4, 0.7, 0.65, 0.1, NAN]
    assert [0, 1, 3, 4] == [member for member, score in enumerate(scores) if lends(sweep, member, 0, score, 10)]
    assert lends(sweep, 2, 1, 0.2, 20)


def test_who_does_not_lend_is_no_donor_until_it_reports():
    """Though its score is the best, once those that lend have become worse."""
    sweep = Sweep(PBT(synchronous=False, quantile=0.2), make_task(members=5, generations=9))
    assert [True, False] == [lends(sweep, member, 0, score, 10) for member, score in enumerate([0.9, 0.8])]
    assert lends(sweep, 0, 1, 0.1, 20)
    (copy,) = of_kind(sweep.tell(aged(2, 0, NAN, 10)), Copy)
    assert copy.donor == 0
    assert lends(sweep, 1, 1, 0.85, 20)
    (copy,) = of_kind(sweep.tell(aged(3, 0, NAN, 10)), Copy)
    assert copy.donor == 1


def lends(sweep, member, segment, score, age):
    """Whether a member, when it has reported and is told to train on, is told to lend its state."""
    (told,) = of_kind(sweep.tell(aged(member, segment, score, age)), ContinueUntil)
    return told.lends


@pytest.mark.parametrize("mode", ["min", "max"])
def test_members_are_compared_at_equal_age(mode):
    """A slow member of middling quality is kept, though all others have better scores by the time it reports."""
    sign = 1.0 if mode == "max" else -1.0
    learning = [[sign * (generation + quality / 10) for generation in range(6)] for quality in range(5)]
    durations = [[1] * 6, [1] * 6, [8] * 6, [1] * 6, [1] * 6]
    case = Case(task=make_task(members=5, generations=6, mode=mode), scores=learning, durations=durations)
    story = play(PBT(synchronous=False, resample_probability=0.0), case)
    first = next(told for told in story.told if told.event.id == "report:2:0")
    ahead = {member: score for member, score in first.scores.items() if member != 2}
    assert all(sign * score > sign * first.scores[2] for score in ahead.values())
    assert [] == of_kind(first.actions, Copy | Decline)


@EXAMPLES
@given(case=eventful(), quantile=st.sampled_from([0.2, 0.5]))
def test_who_is_replaced_lends_nothing(case, quantile):
    """So what a donor trains with is what earned it its score."""
    for told in play(PBT(synchronous=False, quantile=quantile), case).told:
        replaced = {copy.receiver for copy in of_kind(told.actions, Copy)}
        assert not [it for it in of_kind(told.actions, ContinueUntil) if it.member in replaced and it.lends]


@pytest.mark.parametrize(
    ("members", "quantile", "replaced"), [(20, 0.2, 4), (9, 0.2, 1), (5, 0.2, 1), (20, 0.05, 1), (100, 0.01, 1)]
)
def test_about_as_many_are_replaced_as_in_rounds(members, quantile, replaced):
    """However long each member takes; the first at an age has nobody to be compared with. Four standard deviations."""
    rng, generations = random.Random(1), 31
    scores = [[rng.random() for _ in range(generations)] for _ in range(members)]
    durations = [[rng.randint(1, 3) for _ in range(generations)] for _ in range(members)]
    task = make_task(members=members, generations=generations, space=SPACE)
    case = Case(task=task, scores=scores, durations=durations)
    counts = []
    for synchronous in (True, False):
        actions = play(PBT(synchronous=synchronous, quantile=quantile), case).actions
        counts.append(len(of_kind(actions, Copy | Decline)))
    in_rounds, in_flow = counts
    assert (generations - 1) * replaced == in_rounds
    expected = in_rounds * (members - 1) / members
    assert abs(expected - in_flow) < 4 * math.sqrt(expected)


def test_weights_that_were_cut_short_are_compared_too():
    """Nobody else has exactly their age: to the nearest generation, others have."""
    sweep = Sweep(PBT(synchronous=False, quantile=0.5), make_task(members=4, generations=3))
    sweep.end_budget()
    scores = [0.9, 0.5, 0.6, 0.1]
    sweep.tell(*(aged(member, 0, score, 4 if member == 0 else 10) for member, score in enumerate(scores)))
    sweep.tell(evaluated("evaluation:0:0:test"))
    (copy,) = [copy for copy in of_kind(sweep.extend(generations=5), Copy) if copy.receiver == 3]
    assert copy.donor == 0  # at age 4
    sweep.tell(aged(1, 1, 0.5, 20), aged(2, 1, 0.6, 20))
    (copy,) = of_kind(sweep.tell(aged(3, 1, -1000.0, 14, consumed=20)), Copy)
    assert copy.receiver == 3
    assert "is rank 4 of 4 around age 14" in copy.reason  # with the three that reported at age 10


# --- NaN


@EXAMPLES
@given(case=eventful(), quantile=st.sampled_from([0.2, 0.5]))
def test_nobody_goes_on_diverged(case, quantile):
    """Who reports NaN takes over from another, or begins again where nobody can be copied whose last score is not."""
    for told in play(PBT(synchronous=False, quantile=quantile), case).told:
        for going_on in of_kind(told.actions, ContinueUntil):
            report = next((it for it in told.parts if it.id == going_on.cause), None)
            if isinstance(report, SegmentReported) and math.isnan(report.metrics[METRIC]):
                others = [member for member in told.can_be_copied if not math.isnan(told.scores.get(member, NAN))]
                own = [type(a) for a in told.actions if isinstance(a, Copy | Start) and a.cause == report.id]
                assert own == [Copy if others else Start]


def test_who_diverged_counts_among_those_of_its_age():
    """The second of three, with the third diverged before it, is rank 2 of 3: not one of the worst third."""
    for seed in range(10):
        sweep = Sweep(PBT(synchronous=False, quantile=0.4), make_task(members=3, generations=3, seed=seed))
        sweep.tell(aged(0, 0, 0.9, 10), aged(1, 0, NAN, 10))
        assert [ContinueUntil] == [type(action) for action in sweep.tell(aged(2, 0, 0.5, 10))]


def test_who_begins_again_is_compared_with_beginners():
    """Its weights are young: after a restart it is no worse than others were at that age, and is kept."""
    case = Case(
        task=make_task(members=3, generations=4),
        scores=[[0.1, 0.5, 0.8, 0.9], [0.2, 0.6, 0.8, 0.9], [NAN, 0.3, 0.9, 0.9]],
        durations=[[5, 1, 1, 1], [5, 1, 1, 1], [1, 9, 1, 1]],
    )
    answers = {told.event.id: told.actions for told in play(FLOW, case).told}
    assert [2] == [start.member for start in of_kind(answers["report:2:0"], Start)]
    assert [ContinueUntil(cause="report:2:1", member=2, consumed=30, generation=2)] == answers["report:2:1"]
