"""Replays: what is trained with what, since when, and with which seed."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given

from pbt.errors import SpecError
from pbt.member import generator
from pbt.population import Arm, Replay
from pbt.population.explore import fitted
from pbt.population.replay import replay_seed
from pbt.spec import Budget
from pbt.strategy import ContinueUntil, Copy, Set, Shrink, Start
from searchspaces import Float, Int, Space
from tests.contracts.strategy_contract import EXAMPLES, Case, SynchronousContract, cases, make_task, of_kind, play

SPACE = Space({"a": Float(0.0, 10.0)})
UP = Arm(name="up", schedule=((0, {"a": 1.0}), (10, {"a": 2.0}), (30, {"a": 3.0})))
FLAT = Arm(name="flat", schedule=((0, {"a": 5.0}),))
RANDOM = Arm(name="random search")


@dataclass(frozen=True)
class Fitting:
    """Replays in whatever space a task has, changing in every generation, in every other, and never."""

    seeds: int

    @property
    def synchronous(self):
        return True

    def begin(self, task):
        arms = [Arm(name=f"every {gap}", schedule=self._schedule(task, gap)) for gap in (1, 2)]
        return Replay(arms=[*arms, RANDOM], seeds=self.seeds).begin(task)

    def _schedule(self, task, gap):
        ages = [generation * task.budget.steps for generation in range(0, 20, gap)]
        drawn = [task.space.sample(generator(task.seed, "test", age, gap)) for age in ages]
        return [(age, fitted(task, age, 0, hparams, drawn[0])) for age, hparams in zip(ages, drawn, strict=True)]


class TestContract(SynchronousContract):
    """`Replay` keeps the contract of every strategy, but that its members share seeds."""

    @pytest.fixture(params=[Fitting(1), Fitting(2)], ids=["a seed", "two seeds"])
    def options(self, request):
        return request.param

    @EXAMPLES
    @given(case=cases())
    def test_every_member_has_a_seed_of_its_own(self, options, case):
        """Instead, those of each arm have the same ones, which no population's members have."""
        starts = of_kind(play(options, case).actions, Start)
        seeds = [replay_seed(case.task.seed, k) for k in range(options.seeds)]
        assert [seeds[start.member % options.seeds] for start in starts] == [start.seed for start in starts]


def played(*arms, seeds=2, generations=4, scores=((0.0,) * 4,), seed=0):
    task = make_task(members=len(arms) * seeds, generations=generations, seed=seed, space=SPACE)
    return play(Replay(arms=arms, seeds=seeds), Case(task=task, scores=scores))


def test_what_a_replay_orders():
    """All of it, by hand: hyperparameters change with the age, and who does well makes no difference."""
    story = played(UP, FLAT, scores=[[0.1], [float("nan")], [0.9], [0.5]])
    starts = of_kind(story.actions, Start)
    assert [1.0, 1.0, 5.0, 5.0] == [start.hparams["a"] for start in starts]
    changes = [[(it.member, it.hparams["a"]) for it in of_kind(story.actions_of(g), Set)] for g in range(4)]
    assert changes == [[(0, 2.0), (1, 2.0)], [], [(0, 3.0), (1, 3.0)], []]
    assert of_kind(story.actions, Copy) == []
    first = of_kind(story.actions_of(0), Set | ContinueUntil)
    assert Set(cause="report:0:0", member=0, hparams={"a": 2.0}) == first[0]
    assert ContinueUntil(cause="report:3:0", member=3, consumed=20, generation=1) == first[-1]
    assert story.actions[-1].best == 2


def test_arms_are_paired_by_seed():
    """The k-th member of every arm has the k-th seed, which depends neither on arms nor on how many seeds there are."""

    def seeds(*arms, seeds):
        return [start.seed for start in of_kind(played(*arms, seeds=seeds).actions, Start)]

    three = seeds(UP, FLAT, RANDOM, seeds=3)
    assert three[0:3] == three[3:6] == three[6:9]
    assert len(set(three)) == 3
    assert three[:2] == seeds(FLAT, seeds=2)
    assert three[:3] == [replay_seed(0, k) for k in range(3)]


def test_random_search_draws_a_configuration_for_each_seed():
    """Each keeps its own to the end, and more seeds change none of them."""
    few, many = (played(UP, RANDOM, seeds=seeds) for seeds in (2, 4))
    drawn = [
        [it.hparams["a"] for it in of_kind(story.actions, Start)[seeds:]] for story, seeds in ((few, 2), (many, 4))
    ]
    assert drawn[0] == drawn[1][:2]
    assert len(set(drawn[1])) == 4
    assert {0, 1} == {it.member for it in of_kind(few.actions, Set)}


def test_weights_are_shrunk_where_the_schedule_says_so():
    """With the hyperparameters of that age, each with new weights of its own."""
    arm = replace(UP, shrinks=((10, 0.2, 0.1), (20, 0.5, 0.0)))
    found = of_kind(played(arm, FLAT).actions, Shrink)
    assert [(it.cause, it.member, it.how.keep, it.how.noise) for it in found] == [
        ("report:0:0", 0, 0.2, 0.1),
        ("report:1:0", 1, 0.2, 0.1),
        ("report:0:1", 0, 0.5, 0.0),
        ("report:1:1", 1, 0.5, 0.0),
    ]
    assert len({it.how.seed for it in found}) == 4
    values = [(it.cause, it.hparams) for it in of_kind(played(arm).actions, Set) if it.member == 0]
    assert values == [("report:0:0", {"a": 2.0}), ("report:0:1", {"a": 2.0}), ("report:0:2", {"a": 3.0})]


def test_arms_may_be_mappings():
    """As they stand in a sweep file, or in the record of a run."""
    written = {"name": "up", "schedule": [[0, {"a": 1.0}], [10, {"a": 2.0}], [30, {"a": 3.0}]]}
    assert Replay(arms=[UP, RANDOM]) == Replay(arms=[written, {"name": "random search", "source": ""}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "arms: () is not a list of arms. Write [{name: mine,"),
        ({"arms": [UP], "seeds": 0}, "seeds: 0 is not a whole number of at least 1. Write 5"),
        ({"arms": [UP], "seeds": True}, "seeds: True is not"),
        ({"arms": [3]}, "arms[0]: 3 is no arm. Write {name: ..."),
        ({"arms": [{"schedule": []}]}, "arms[0].name: is missing. Add `name:`"),
        ({"arms": [{"name": ""}]}, "arms[0].name: '' is no name"),
        ({"arms": [{"name": "x", "schdule": []}]}, "arms[0].schdule: is not a known key. Did you mean 'schedule'?"),
        ({"arms": [UP, UP]}, "arms[1].name: 'up' is taken"),
        ({"arms": [{"name": "x", "schedule": "lr"}]}, "arms[0].schedule: 'lr' is not a list of [age, hyper"),
        ({"arms": [{"name": "x", "schedule": [[5, {}]]}]}, "arms[0].schedule: has the ages [5], which are not whole"),
        ({"arms": [{"name": "x", "schedule": [[0, {}], [0, {}]]}]}, "arms[0].schedule: has the ages [0, 0]"),
        ({"arms": [{"name": "x", "schedule": [[0, {}], [1.5, {}]]}]}, "arms[0].schedule: has the ages [0, 1.5]"),
        ({"arms": [{"name": "x", "schedule": [[0, 0.1]]}]}, "arms[0].schedule[0]: 0.1 is not a mapping. Write"),
        (
            {"arms": [{"name": "x", "shrinks": 5}]},
            "arms[0].shrinks: 5 is not a list of [age, keep, noise]. Write [[100",
        ),
        ({"arms": [{"name": "x", "shrinks": [[0, 0.2, 0.1]]}]}, "arms[0].shrinks[0]: 0 is not a whole number of at"),
        (
            {"arms": [{"name": "x", "shrinks": [[5, 0.2, 7]]}]},
            "arms[0].shrinks[0]: [0.2, 7] are not from 0 to 1",
        ),
    ],
)
def test_bad_options_are_named_with_the_mend(options, message):
    """Field, value, mend."""
    with pytest.raises(SpecError) as raised:
        Replay(**options)
    assert str(raised.value).startswith(f"strategy.options.{message}")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ((3, 4, 10), "budget.members: is 3, but 2 arms with 2 seeds each are 4 members. Write 4"),
        (
            (4, 4, 20),
            "strategy.options.arms[0].schedule[1]: begins at age 10, in the midst of a generation of 20 steps. "
            "Write 20, or budget.steps that divide 10",
        ),
        (
            (4, 3, 10),
            "strategy.options.arms[0].schedule[2]: begins at age 30, but the sweep ends at 30. "
            "Raise budget.generations, or leave it out",
        ),
    ],
)
def test_a_budget_that_does_not_fit_is_refused(budget, message):
    """Changes are made between generations, and before the end."""
    members, generations, steps = budget
    options = Replay(arms=[UP, FLAT], seeds=2)
    options.check(Budget(members=4, generations=4, steps=10))
    with pytest.raises(SpecError) as raised:
        options.check(Budget(members=members, generations=generations, steps=steps))
    assert message == str(raised.value)


def test_a_schedule_outside_the_space_is_refused():
    """Before anything is begun."""
    Replay(arms=[UP, FLAT, RANDOM]).check_task(make_task(space=SPACE))
    with pytest.raises(SpecError) as raised:
        Replay(arms=[FLAT, UP]).check_task(make_task(space=Space({"a": Float(2.0, 5.0)})))
    assert str(raised.value).startswith("strategy.options.arms[1].schedule[0]: is not in the space. a=1.0")


def test_a_schedule_with_two_structures_is_refused():
    """Weights that were begun with one cannot go on with another; two schedules may have two."""
    task = make_task(space=Space({"a": Float(0.0, 10.0), "depth": Int(1, 3)}), structural=["depth"])
    shallow, deep = {"a": 1.0, "depth": 1}, {"a": 1.0, "depth": 3}
    changing = Arm(name="shallow", schedule=((0, shallow), (10, {**shallow, "a": 2.0})))
    Replay(arms=[changing, Arm(name="deep", schedule=((0, deep),))]).check_task(task)
    with pytest.raises(SpecError) as raised:
        Replay(arms=[Arm(name="both", schedule=((0, shallow), (10, deep)))]).check_task(task)
    assert "arms[0].schedule[1]: has {'depth': 3}, but the weights are made for {'depth': 1}" in str(raised.value)
