"""Successive halving: who makes way for a new configuration, when, and whether that finds better ones."""

import json
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pbt
from pbt.errors import SpecError
from pbt.member import Slot
from pbt.population import Fixed, Halving
from pbt.population.halving import Rungs
from pbt.population.verdicts import Keep, Restart, Standing, rank
from pbt.spec import Budget
from pbt.strategy import ContinueUntil, Copy, Decline, Finish, SegmentReported, Set, Start, SweepStarted
from searchspaces import Float, Space
from tests.contracts.strategy_contract import (
    AT_THE_END,
    EXAMPLES,
    Case,
    Dies,
    Grown,
    SynchronousContract,
    cases,
    ends,
    growth,
    make_task,
    of_kind,
    play,
)

NAN = math.nan
SPACE = Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)})
TWO = Halving(reduction_factor=2)


class TestContract(SynchronousContract):
    """`Halving` keeps the contract of every strategy, with rungs at every age, and at few."""

    @pytest.fixture(
        params=[
            Halving(reduction_factor=2),
            pytest.param(Halving(), marks=pytest.mark.full),
            pytest.param(Halving(reduction_factor=3, min_generations=2), marks=pytest.mark.full),
        ],
        ids=["two", "defaults", "late"],
    )
    def options(self, request):
        return request.param


# --------------------------------------------------------------------------------------------------------- decisions


def evolve(scores, *, options=TWO, mode="max", age=10, rungs=None, generation=0):
    """Verdicts by member, where all have come to an age together; `make_task` has 10 steps in a generation."""
    task = make_task(members=len(scores), mode=mode, space=SPACE)
    ages = age if isinstance(age, list) else [age] * len(scores)
    standings = [Standing(it, score, {"a": 0.5, "b": 0.5}, ages[it]) for it, score in enumerate(scores)]
    rungs = rungs or Rungs(options.min_generations, options.reduction_factor)
    ranking = rank(standings, mode)
    rungs.observe(task, generation, ranking)
    verdicts = options.evolve(rungs, task, generation, ranking)
    assert len(verdicts) == len({it.member for it in verdicts}), "a member was judged twice"
    return {it.member: it for it in verdicts}


def stopped(verdicts):
    """Those that make way."""
    return sorted(member for member, it in verdicts.items() if isinstance(it, Restart))


#: What members 0 to 3 report in six generations, with rungs at ages 1, 2, 4.
ROWS = [
    [4.0, 5.0, 0.5, 3.2, 4.5, 0.0],
    [3.0, 6.0, 7.0, 1.0, 1.0, 0.0],
    [2.0, 3.5, 5.5, NAN, 0.1, 0.0],
    [1.0, 1.5, 9.0, 5.8, 2.0, 0.0],
]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_sweep_by_hand(mode):
    """Everything that is decided in it, with the reasons: in each generation those that stand on a rung, or diverged.

    Ages before each decision: 1 1 1 1; 2 2 1 1; 1 3 2 1; 1 4 1 2; 2 5 1 3.
    """
    sign = 1.0 if mode == "max" else -1.0
    rows = [[sign * score for score in row] for row in ROWS]
    story = play(TWO, Case(task=make_task(4, 6, 10, mode, 0, SPACE), scores=rows))
    known = [
        {it.member: it.reason for it in of_kind(story.actions_of(generation), Start | Decline)}
        for generation in range(6)
    ]
    begun = [[it.member for it in of_kind(story.actions_of(generation), Start)] for generation in range(6)]
    assert [sorted(members) for members in begun] == [[2, 3], [0, 3], [0, 2], [2], [2], []]

    def said(score, place, number, age, quota):
        goes = "goes" if quota == 1 else f"{quota} go"
        return f"Q {sign * score:.6g} is rank {place} of {number} that have reached age {age}; the best {goes} on"

    assert known == [
        {0: said(4, 1, 4, 10, 2), 1: said(3, 2, 4, 10, 2), 2: said(2, 3, 4, 10, 2), 3: said(1, 4, 4, 10, 2)},
        {0: said(5, 2, 2, 20, 1), 1: said(6, 1, 2, 20, 1), 2: said(3.5, 2, 6, 10, 3), 3: said(1.5, 5, 6, 10, 3)},
        {0: said(0.5, 8, 8, 10, 4), 2: said(5.5, 2, 3, 20, 1), 3: said(9, 1, 8, 10, 4)},
        {0: said(3.2, 4, 10, 10, 5), 1: said(1, 1, 1, 40, 1), 2: "Q nan: it diverged", 3: said(5.8, 2, 4, 20, 2)},
        {0: f"{said(4.5, 5, 5, 20, 2)}, and so does the best of all members now", 2: said(0.1, 10, 11, 10, 5)},
        {},
    ]


@pytest.mark.parametrize(
    ("number", "factor", "going_on"),
    [(1, 2, 1), (2, 4, 1), (3, 4, 1), (4, 4, 1), (7, 4, 1), (8, 4, 2), (9, 3, 3), (16, 4, 4), (17, 4, 4), (5, 2, 2)],
)
def test_how_many_go_on(number, factor, going_on):
    """One in `reduction_factor`, rounded down, and one at least: the best."""
    verdicts = evolve([float(-it) for it in range(number)], options=Halving(reduction_factor=factor))
    assert list(range(going_on, number)) == stopped(verdicts)
    assert len(verdicts) == number


@pytest.mark.parametrize(
    ("options", "ages"),
    [
        (Halving(), [1, 4, 16, 64]),
        (Halving(reduction_factor=2), [1, 2, 4, 8, 16, 32, 64]),
        (Halving(reduction_factor=3, min_generations=2), [2, 6, 18, 54]),
        (Halving(min_generations=5), [5, 20, 80]),
        (Halving(reduction_factor=10, min_generations=10), [10, 100]),
    ],
)
def test_rungs_are_in_geometric_progression(options, ages):
    """At no other age is anybody judged."""
    judged = [age for age in range(1, 101) if evolve([1.0, 0.0], options=options, age=10 * age)]
    assert ages == judged


def test_those_that_came_before_count():
    """Whoever reached the rung is compared with, also those that have been replaced, or have failed, since."""
    rungs = Rungs(1, 2)
    assert [2, 3] == stopped(evolve([4.0, 3.0, 2.0, 1.0], rungs=rungs))
    # 2.5 is better than half of the newcomers, but not than half of all eight.
    assert [2, 3] == stopped(evolve([3.5, 3.2, 2.5, 0.0], rungs=rungs))
    rungs = Rungs(1, 2)
    evolve([0.1, 0.1, 0.1, 0.1], rungs=rungs)
    assert [] == stopped(evolve([4.0, 3.0, 2.0, 1.0], rungs=rungs))


def test_those_of_one_moment_are_compared_with_each_other():
    """Who stands first in the ranking, or has the lowest number, was not there first."""
    scores = [1.0, 2.0, 3.0, 4.0]
    assert [0, 1] == stopped(evolve(scores))
    assert [2, 3] == stopped(evolve(scores[::-1]))


def test_equals_go_on_together():
    """Nothing tells them apart."""
    assert [] == stopped(evolve([1.0] * 8, options=Halving()))
    assert [3, 4] == stopped(evolve([1.0, 1.0, 1.0, 0.0, 0.0], options=Halving()))


def test_who_diverged_is_replaced_at_once():
    """On a rung or between two; on a rung it counts among those that reached it."""
    assert [1] == stopped(evolve([1.0, NAN, 2.0], age=30))
    assert [1, 3] == stopped(evolve([1.0, NAN, 2.0, NAN], options=TWO)), "two of four are the best half"
    verdicts = evolve([NAN, NAN])
    assert [0, 1] == stopped(verdicts)
    assert verdicts[0].reason == "Q nan: it diverged"


def test_the_best_of_all_is_never_stopped():
    """At the age of 2 others were better once; none of them is now."""
    rungs = Rungs(1, 2)
    evolve([9.0, 8.0, 7.0, 6.0], age=20, rungs=rungs)
    verdicts = evolve([1.0, 2.0, 5.0, 4.0], age=[30, 30, 20, 20], rungs=rungs)
    assert [3] == stopped(verdicts)
    assert {2, 3} == set(verdicts), "0 and 1 stand on no rung"
    assert verdicts[2] == Keep(
        2,
        "Q 5 is rank 5 of 6 that have reached age 20; the best 3 go on, and so does the best of all members now",
    )


def test_newcomers_of_an_extension_are_judged_where_they_stand():
    """One that catches up to age 3 has been on no rung; at age 4 it is compared, with who was there."""
    task = make_task(2, 6, 10, "max", 0, SPACE)
    rows = [[5.0] * 6, [5.0] * 6, [9.0, 9.0, 9.0, 1.0, 1.0, 1.0]]
    story = play(TWO, Case(task=task, scores=rows, news=[(5, Grown(members=1))]))
    told = [(it.cause, it.reason) for it in of_kind(story.actions, Start | Decline) if it.member == 2]
    assert told[0] == ("extended:1", "")
    assert told[1] == ("report:2:1", "Q 1 is rank 3 of 3 that have reached age 40; the best goes on")


def test_what_begins_anew_is_new():
    """Hyperparameters from anywhere in the space in force, a seed of its own, the same for the same sweep."""
    task = make_task(8, 6, 10, "max", 3, SPACE)
    rows = [[float(generation - member) for generation in range(6)] for member in range(8)]
    starts, again = (of_kind(play(Halving(), Case(task=task, scores=rows)).actions, Start) for _ in range(2))
    assert starts == again
    assert len(starts) > 20
    assert len({start.seed for start in starts}) == len({tuple(start.hparams.values()) for start in starts})
    assert len({start.seed for start in starts}) == len(starts)
    other = of_kind(play(Halving(), Case(task=replace(task, seed=4), scores=rows)).actions, Start)
    assert not {start.seed for start in starts} & {start.seed for start in other}


def test_begins_as_fixed_does():
    """With the same seed the same initial population, which is what it is compared with."""
    case = Case(task=make_task(members=3, generations=2, seed=5, space=SPACE), scores=[[0.0]] * 3)
    initial = ({"a": 0.25, "b": 0.75},)
    fixed, ours = (of_kind(play(kind(initial=initial), case).actions_of(-1), Start) for kind in (Fixed, Halving))
    assert fixed == ours
    assert ours[0].hparams == initial[0]


# --------------------------------------------------------------------------------------------------------- snapshots


def test_a_strategy_restored_in_the_middle_remembers_the_rungs():
    """It goes on the same; one that is restored without what the rungs hold does not."""
    rows = [[float((7 * member + 5 * generation) % 11) for generation in range(8)] for member in range(6)]
    case = Case(task=make_task(6, 8, 10, "max", 0, SPACE), scores=rows)

    def go_on_with(forget):
        def between(strategy, story):
            if len(story.told) != 20:
                return strategy
            snapshot = json.loads(json.dumps(strategy.snapshot()))
            assert sorted(age for age, _ in snapshot["pace"]["memory"]["reached"]) == [10, 20]
            if forget:
                snapshot["pace"]["memory"]["reached"] = []
            other = TWO.begin(case.task)
            other.restore(snapshot)
            return other

        return play(TWO, case, between).actions

    undisturbed = play(TWO, case).actions
    assert undisturbed == go_on_with(forget=False)
    assert undisturbed != go_on_with(forget=True)


# -------------------------------------------------------------------------------------------------------- properties


def beginnings(story):
    """Each member's Starts after its first, by the generation that ended before."""
    found = defaultdict(list)
    for told in story.told:
        for action in of_kind(told.actions, Start):
            if told.generation is not None and told.generation >= 0:
                found[action.member, told.generation].append(action)
    return found


@EXAMPLES
@given(case=cases(failures=True, news=st.one_of(ends(), growth(), st.builds(Dies, st.integers(0, 8)))))
def test_nobody_begins_anew_twice_in_a_generation(case):
    """Nor is anything copied or set, whatever happens."""
    story = play(TWO, case)
    assert all(len(starts) == 1 for starts in beginnings(story).values())
    assert of_kind(story.actions, Copy | Set) == []


@EXAMPLES
@given(case=cases(failures=True), factor=st.integers(2, 4))
def test_it_costs_what_fixed_costs(case, factor):
    """The same orders to train, member by member and generation by generation."""
    ours, fixed = (play(options, case) for options in (Halving(reduction_factor=factor), Fixed()))
    orders = [
        [(it.member, it.generation, it.consumed) for it in of_kind(story.actions, ContinueUntil)]
        for story in (ours, fixed)
    ]
    assert orders[0] == orders[1]
    consumed = [{member: known.consumed for member, known in story.members.items()} for story in (ours, fixed)]
    assert consumed[0] == consumed[1]


@EXAMPLES
@given(
    case=cases(),
    generations=st.integers(1, 9),
    factor=st.integers(2, 4),
    first=st.integers(1, 2),
)
def test_who_is_stopped_is_not_among_the_best_of_its_rung(case, generations, factor, first):
    """Found again from scores and ages alone: exactly those are stopped that diverged, or are not the best there."""
    budget = replace(case.task.budget, generations=generations)
    case = replace(case, task=replace(case.task, budget=budget))
    story = play(Halving(reduction_factor=factor, min_generations=first), case)
    begun, ages, seen = beginnings(story), dict.fromkeys(case.members, 0), defaultdict(list)
    sign = 1.0 if case.task.mode == "min" else -1.0
    for generation in range(generations - 1):
        bad = {member: sign * case.score(member, generation) for member in case.members}
        bad = {member: math.inf if math.isnan(it) else it for member, it in bad.items()}
        ages = {member: age + 1 for member, age in ages.items()}
        rungs = [first * factor**power for power in range(9)]
        for member, age in ages.items():
            seen[age].append(bad[member])
        best = min(bad, key=lambda member: (bad[member], member))
        for member, age in ages.items():
            better = sum(it < bad[member] for it in seen[age])
            is_among_best = better < max(1, len(seen[age]) // factor)
            is_stopped = (member, generation) in begun
            is_due = bad[member] == math.inf or (age in rungs and not is_among_best and member != best)
            assert is_due == is_stopped
        for member, ended in begun:
            if ended == generation:
                ages[member] = 0


@given(scores=st.lists(st.one_of(st.floats(-10, 10), st.just(NAN)), min_size=1, max_size=40), age=st.integers(1, 9))
def test_the_best_is_never_lost_and_nobody_goes_on_diverged(scores, age):
    """Whatever the scores."""
    verdicts = evolve(scores, options=Halving(reduction_factor=3), age=10 * age)
    assert {member for member, score in enumerate(scores) if math.isnan(score)} <= set(stopped(verdicts))
    finite = {member: score for member, score in enumerate(scores) if not math.isnan(score)}
    if finite:
        assert max(finite, key=lambda member: (finite[member], -member)) not in stopped(verdicts)


# ------------------------------------------------------------------------------------------------ what it is good for


def winner(options, curve, *, seed, noise=0.01, members=16, generations=24):
    """Train a population whose validation loss is `curve(hparams, age)` and noise; the winner's loss without it.

    Args:
        options: Of the strategy.
        curve: The loss of hyperparameters at an age in generations.
        seed: Of strategy and noise.
        noise: Standard deviation of what a validation loss is off.
        members: How many.
        generations: How many.

    Returns:
        The winner's loss.
    """
    rng = np.random.default_rng(seed)
    task = make_task(members, generations, 10, "min", seed, SPACE)
    strategy, age, hparams, trained = options.begin(task), [0] * members, [{}] * members, 0
    actions = strategy.handle([SweepStarted(id="start", slots=tuple(Slot(0, it) for it in range(members)))])
    while going_on := of_kind(actions, ContinueUntil):
        for start in of_kind(actions, Start):
            age[start.member], hparams[start.member] = 0, start.hparams
        reports = []
        for it in going_on:
            age[it.member] += 1
            trained += 10
            loss = curve(hparams[it.member], age[it.member]) + noise * rng.normal()
            name = f"report:{it.member}:{it.generation}"
            common = {"member": it.member, "segment": it.generation, "consumed": it.consumed, "wall_s": 0.0}
            metrics = {task.metric: loss}
            reports.append(SegmentReported(id=name, age=10 * age[it.member], metrics=metrics, **common))
        actions = strategy.handle(reports)
    assert trained == task.budget.member_steps
    best = actions[-1].member
    return curve(hparams[best], age[best])


def lead(curve, *, options=Halving(), seeds=40):  # noqa: B008
    """By how much the loss of `Fixed` is larger: the mean over seeds, and half of its 95 % interval, paired."""
    gains = [winner(Fixed(), curve, seed=it) - winner(options, curve, seed=it) for it in range(seeds)]
    return np.mean(gains), 1.96 * np.std(gains, ddof=1) / math.sqrt(seeds)


def distance(hparams):
    """Squared, from the best configuration."""
    return (hparams["a"] - 0.7) ** 2 + (hparams["b"] - 0.4) ** 2


def honest(hparams, age):
    """Curves that do not cross: early scores predict late ones."""
    return 2.0 * distance(hparams) + 0.3 / math.sqrt(age)


def crossing(hparams, age):
    """Curves that cross: what is fast at first ends high, as with large learning rates."""
    return 0.3 * distance(hparams) + math.exp(-age / (8.0 * math.exp(-6.0 * distance(hparams))))


def test_it_finds_better_configurations_where_early_scores_predict_late_ones():
    """At equal member-steps, though its winner may be younger.

    Measured over 40 seeds: `Fixed` ends at a mean loss of 0.104, the lead is 0.028 +- 0.012.
    """
    mean, half = lead(honest)
    assert mean > half
    assert mean > 0.01


def test_it_finds_worse_ones_where_early_scores_mislead():
    """A first rung that comes later mends most of it.

    Measured over 40 seeds: `Fixed` ends at a mean loss of 0.036, the lead is -0.070 +- 0.003, or -0.028 +- 0.004 with
    the first rung at the age of 8.
    """
    mean, half = lead(crossing)
    assert mean < -half
    late, _ = lead(crossing, options=Halving(min_generations=8))
    assert late > mean + half


def test_a_young_member_wins_only_if_it_is_best():
    """The winner is whoever has the best score at the end, and no one else."""
    rows = [[float(generation) for generation in range(5)], [0.0, 0.0, 0.0, 0.0, 9.0], [-1.0] * 5]
    story = play(TWO, Case(task=make_task(3, 5, 10, "max", 0, SPACE), scores=rows))
    assert isinstance(story.actions[-1], Finish)
    assert story.actions[-1].best == 1


# ------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction_factor": 1}, "reduction_factor: 1 is not a whole number of at least 2. Write 4"),
        ({"reduction_factor": 2.5}, "reduction_factor: 2.5 is not"),
        ({"reduction_factor": True}, "reduction_factor: True is not"),
        ({"reduction_factor": NAN}, "reduction_factor: nan is not"),
        ({"min_generations": 0}, "min_generations: 0 is not a whole number of at least 1. Write 1"),
        ({"min_generations": "2"}, "min_generations: '2' is not"),
        ({"initial": 3}, "initial: 3 is not a list of mappings"),
    ],
)
def test_bad_options_are_named_with_the_mend(options, message):
    """Field, value, mend."""
    with pytest.raises(SpecError) as raised:
        Halving(**options)
    assert str(raised.value).startswith(f"strategy.options.{message}")


@pytest.mark.parametrize(
    ("options", "generations", "message"),
    [
        (Halving(), 1, "is 1, so nobody is ever judged: at the age of 1 the sweep is over. Write 2 or more"),
        (
            Halving(min_generations=4),
            4,
            "is 4, so nobody is ever judged: at the age of 4 the sweep is over. "
            "Write 5 or more, or lower strategy.options.min_generations",
        ),
        (Halving(), 2, None),
        (Halving(min_generations=4), 5, None),
    ],
)
def test_a_budget_without_a_rung_is_refused(options, generations, message):
    """Before anything is begun."""
    budget = Budget(members=8, generations=generations, steps=1)
    if message is None:
        options.check(budget)
        return
    with pytest.raises(SpecError) as raised:
        options.check(budget)
    assert str(raised.value) == f"budget.generations: {message}"


# ---------------------------------------------------------------------------------------------------------- on record


def test_the_reasons_are_on_record(tmp_path):
    """A sweep by name, in this process: `pbt why` tells of each restart why it was."""
    result = pbt.Sweep(
        trainable="quadratic",
        space={"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)},
        objective="Q",
        strategy=pbt.Component(name="halving", options={"reduction_factor": 2}),
        budget={"members": 4, "generations": 4, "steps": 5},
        hosts={"kind": "local", "stacks": 1},
        storage=tmp_path,
        tracking=False,
    ).run(progress=False)
    told = [it for member in range(4) for it in result.story(member) if it.kind in ("restart", "decline")]
    restarts = [it.reason for it in told if it.kind == "restart"]
    assert len(restarts) >= 2
    assert all(" that have reached age " in it and it.endswith(" on") for it in restarts)
    assert {"restart", "decline"} == {it.kind for it in told}
    assert all(row["consumed_end"] == 5 * (row["segment"] + 1) for row in result.segments.to_pylist())


def test_an_extension_goes_on_as_if_it_had_been_known():
    """Nothing is decided by how much is left: after the end of a longer sweep nobody can tell that it was extended."""
    rows = [[float((7 * member + 5 * generation) % 11) for generation in range(9)] for member in range(6)]
    whole = play(TWO, Case(task=make_task(6, 9, 10, "max", 0, SPACE), scores=rows))
    parts = play(
        TWO, Case(task=make_task(6, 4, 10, "max", 0, SPACE), scores=rows, news=[(AT_THE_END, Grown(generations=5))])
    )
    assert [(it.member, it.seed) for it in of_kind(whole.actions, Start)] == [
        (it.member, it.seed) for it in of_kind(parts.actions, Start)
    ]
