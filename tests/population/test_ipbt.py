"""Iterated PBT: steps that grow, restarts on stagnation, and what becomes of everybody then."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import SpecError
from pbt.member import Shrinkage, lay_out
from pbt.population import IPBT
from pbt.population.ipbt import Course
from pbt.population.roster import Roster
from pbt.population.verdicts import Keep, Renew, Replace, Restart, Standing, rank
from pbt.strategy import Copy, Set, Shrink
from searchspaces import Float, Space
from tests.contracts.strategy_contract import SynchronousContract, make_task
from tests.examples import examples

NAN = math.nan
SPACE = Space({"a": Float(0.0, 1000.0)})
#: Restarted after the first step that is no better; nothing is left to chance but who, and what is drawn.
PLAIN = IPBT(patience=1, factors=(2.0, 2.0), resample_probability=0.0, fresh_weights=0.0, fresh_hparams=0.0)


class TestContract(SynchronousContract):
    """`IPBT` keeps the contract of every strategy."""

    @pytest.fixture(
        params=[
            IPBT(patience=1),
            pytest.param(IPBT(patience=1, fresh_weights=0.0, fresh_hparams=1.0, keep=1.0), marks=pytest.mark.full),
            pytest.param(IPBT(slow=2, growth=1, fresh_weights=1.0), marks=pytest.mark.full),
        ],
        ids=["restarts", "shrinks", "renews"],
    )
    def options(self, request):
        return request.param


class Population:
    """Members whose hyperparameter is what was decided; scores are given for each generation."""

    def __init__(self, options, members=8, mode="max"):
        self.options, self.task = options, make_task(members=members, mode=mode, space=SPACE)
        self.course, self.generation = Course(options.growth), 0
        self.hparams = [{"a": float(member)} for member in range(members)]

    def end(self, scores):
        """A generation ends; returns verdicts by member."""
        standings = [Standing(it, score, self.hparams[it], age=10) for it, score in enumerate(scores)]
        ranking = rank(standings, self.task.mode)
        self.course.observe(self.task, self.generation, ranking)
        verdicts = self.options.evolve(self.course, self.task, self.generation, ranking)
        self.generation += 1
        of = {verdict.receiver if isinstance(verdict, Replace) else verdict.member: verdict for verdict in verdicts}
        assert len(of) == len(verdicts), "a member was judged twice"
        for member, verdict in of.items():
            if not isinstance(verdict, Keep):
                self.hparams[member] = verdict.hparams
        return of


def best(score, members=8):
    """Member 0 has this score, each other a little less than the one before."""
    return [score - 0.001 * member for member in range(members)]


def test_steps_double_with_every_restart():
    """Improving steps are PBT; the first that is no better ends an iteration."""
    people = Population(PLAIN)
    kinds = []
    for score in [1, 2, 3, 2, 5, 6, 7, 6, 4, 3, 2, 1, 0]:
        verdicts = people.end(best(float(score)))
        kinds.append({type(it).__name__ for it in verdicts.values()})
    evolved, again, none = {"Replace"}, {"Keep", "Renew"}, set()
    # Steps of one generation: 1 2 3, 2 is worse. Of two: 6, 6. Of four: 1 (after 4 3 2 1). The fourth is under way.
    assert kinds == [evolved, evolved, evolved, again, none, evolved, none, again, none, none, none, evolved, none]
    assert (people.course.restarts, people.course.period) == (2, 4)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_step_is_a_truncation(mode):
    """Of eight members the two worst take over from the two best, perturbed."""
    scores = best(1.0) if mode == "max" else [-score for score in best(1.0)]
    found = Population(PLAIN, mode=mode).end(scores)
    assert set(found) == {6, 7}
    for verdict in found.values():
        assert verdict.donor in (0, 1)
        assert verdict.hparams == {"a": 2.0 * verdict.donor}


def test_at_a_restart_the_best_goes_on_and_all_others_shrink():
    """From weights of the best two, with twice what the ancestors of these began with."""
    people = Population(PLAIN)
    people.end(best(1.0))
    found = people.end(best(0.5))
    why = "restart 1, no better for 1 steps; from now on a step has 2 generations"
    assert found[0] == Keep(0, f"{why}; the best goes on as it is")
    assert set(found) == set(range(8))
    for member in range(1, 8):
        verdict = found[member]
        assert isinstance(verdict, Renew)
        assert verdict.donor in (0, 1)
        assert verdict.hparams == {"a": 2.0 * verdict.donor}
        assert (verdict.how.keep, verdict.how.noise) == (0.2, 0.1)
        score = f"{0.5 - 0.001 * verdict.donor:.6g}"
        told = f"20 % of the weights of member {verdict.donor}, which has Q {score}, and 10 % of new ones"
        assert verdict.reason == f"{why}; {told}"
    assert len({found[member].how.seed for member in range(1, 8)}) == 7, "each with new weights of its own"


def test_hyperparameters_begin_as_those_of_the_ancestors_did():
    """Member 7 took over from 0 and then leads: what its ancestor began with was 0's, not what 7 leads with."""
    people = Population(PLAIN)
    donor = people.end(best(1.0))[7].donor
    scores = best(0.5)
    scores[7] = 0.9  # the best, yet worse than 1.0
    found = people.end(scores)
    assert isinstance(found[7], Keep)
    follower = next(it for it in found.values() if isinstance(it, Renew) and it.donor == 7)
    assert follower.hparams == {"a": 2.0 * donor}


def test_the_elite_neither_gives_nor_takes_until_the_next_restart():
    """Though it is by far the best, and later by far the worst."""
    people = Population(PLAIN)
    for score in (1.0, 0.5):  # a restart: 0 is kept
        people.end(best(score))
    assert people.course.elite == 0
    people.end(best(0.2))
    found = people.end([9.0, *best(0.3)[1:]])
    assert all(isinstance(it, Replace) and it.donor != 0 for it in found.values())
    people.end(best(0.4))
    assert 0 not in people.end([-9.0, *best(0.4)[1:]])


def test_an_elite_that_diverges_is_replaced_like_anybody():
    """And is kept no more."""
    people = Population(PLAIN)
    for score in (1.0, 0.5):
        people.end(best(score))
    found = people.end([NAN, *best(0.3)[1:]])
    assert set(found) == {0}
    assert isinstance(found[0], Replace)
    assert people.course.elite is None


def test_the_shares_of_new_weights_and_hyperparameters():
    """Drawn independently of each other: of 16 others, 8 and 4."""
    people = Population(IPBT(patience=1, fresh_weights=0.5, fresh_hparams=0.25, resample_probability=0.0), members=17)
    people.end(best(1.0, 17))
    found = people.end(best(0.5, 17))
    kinds = [type(it) for it in found.values()]
    assert (kinds.count(Keep), kinds.count(Restart), kinds.count(Renew)) == (1, 8, 8)
    near = {0.8 * place for place in range(5)} | {1.2 * place for place in range(5)}
    drawn = [it for it in found.values() if not isinstance(it, Keep) and it.hparams["a"] not in near]
    assert len(drawn) == 4


def test_a_population_that_rises_too_slowly_is_restarted_at_once():
    """Whatever patience there is: the best rose at first, and by next to nothing in the last three steps."""
    people = Population(IPBT(patience=100, slow=3))
    for score in (0.0, 10.0, 10.1):
        people.end(best(score))
        assert people.course.restarts == 0
    found = people.end(best(10.2))
    assert found[0].reason.startswith("restart 1, less than a standard deviation better in 3 steps")


def test_the_diverged_are_replaced_between_two_steps_too():
    """And all begin again where all diverged."""
    people = Population(PLAIN)
    for score in (1.0, 0.5):
        people.end(best(score))
    assert set(people.end([*best(0.3)[:7], NAN])) == {7}  # in the midst of a step of two generations
    assert {type(it) for it in people.end([NAN] * 8).values()} == {Restart}


def test_one_member_has_nobody_to_copy_from():
    """It goes on."""
    assert Population(PLAIN, members=1).end([1.0]) == {0: Keep(0, "there is nobody to copy from")}


@examples(60)
@given(
    st.lists(st.lists(st.one_of(st.floats(-10, 10), st.just(NAN)), min_size=6, max_size=6), min_size=1, max_size=14),
    st.integers(0, 13),
)
def test_restored_at_any_moment_it_decides_the_same(generations, when):
    """The course goes through JSON, and nobody is judged twice."""
    options = IPBT(patience=1)
    stayed, left = Population(options, members=6), Population(options, members=6)
    for number, scores in enumerate(generations):
        if number == when:
            told = json.loads(json.dumps(left.course.snapshot()))
            left.course = Course(options.growth)
            left.course.restore(told)
        assert repr(stayed.end(scores)) == repr(left.end(scores))
    assert stayed.course.snapshot() == left.course.snapshot()


def test_what_a_restart_orders():
    """Weights are copied where they are another's, and then shrunk."""
    roster, task = Roster(), make_task(members=2, space=SPACE)
    roster.enlist("start", task, lay_out(2, 1), 0)
    how, hparams = Shrinkage(0.2, 0.1, 7), {"a": 1.0}
    values, shrink = Set(cause="c", member=1, hparams=hparams), Shrink(cause="c", member=1, how=how, reason="why")
    assert roster.carry_out("c", Renew(1, 1, hparams, how, "why")) == [values, shrink]
    copy = Copy(cause="c", donor=0, receiver=1, reason="why")
    assert roster.carry_out("c", Renew(1, 0, hparams, how, "why")) == [copy, values, shrink]
    assert roster[1].hparams == hparams


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("quantile", 0.6, "at most 0.5"),
        ("patience", 0, "Write 3"),
        ("slow", 1, "Write 15"),
        ("growth", 0, "Write 2"),
        ("keep", 1.5, "Write a share"),
        ("noise", -0.1, "Write a share"),
        ("fresh_weights", NAN, "Write a share"),
        ("fresh_hparams", True, "Write a share"),
        ("factors", (0.8,), "Write \\[0.8, 1.2\\]"),
        ("initial", 3, "Write \\[{lr: 0.1}\\]"),
    ],
)
def test_bad_options_are_refused(name, value, mend):
    """By name, with the mend."""
    with pytest.raises(SpecError, match=f"(?s)strategy.options.{name}.*{mend}"):
        IPBT(**{name: value})
