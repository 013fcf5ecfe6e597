"""Multiple-frequencies PBT: who takes over from whom, and with whose hyperparameters."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import SpecError
from pbt.population import MFPBT
from pbt.population.verdicts import Keep, Replace, Restart, Standing, rank
from pbt.spec import Budget
from searchspaces import Float, Space
from tests.contracts.strategy_contract import SynchronousContract, make_task

NAN = math.nan
SPACE = Space({"a": Float(0.0, 1000.0)})
#: Sub-population 0 (members 0, 2, ..., 14) evolves in every generation, 1 (1, 3, ..., 15) in every other.
TWO = MFPBT(periods=(1, 2), factors=(2.0, 2.0))


class TestContract(SynchronousContract):
    """`MFPBT` keeps the contract of every strategy."""

    @pytest.fixture(
        params=[
            MFPBT(periods=(1, 2)),
            pytest.param(MFPBT(periods=(1, 2, 3), resample_probability=0.5), marks=pytest.mark.full),
        ],
        ids=["two", "three"],
    )
    def options(self, request):
        return request.param


def evolve(scores, *, options=TWO, mode="max", generation=1):
    """Verdicts by member, on members whose only hyperparameter is their number."""
    task = make_task(members=len(scores), mode=mode, space=SPACE)
    standings = [Standing(member, score, {"a": float(member)}, age=10) for member, score in enumerate(scores)]
    verdicts = options.evolve(task, generation, rank(standings, mode))
    of = {verdict.receiver if isinstance(verdict, Replace) else verdict.member: verdict for verdict in verdicts}
    assert len(verdicts) == len(of), "a member was judged twice"
    return of


def taken(verdicts):
    """Donor and the hyperparameter of those that were replaced."""
    return {member: (it.donor, it.hparams["a"]) for member, it in verdicts.items() if isinstance(it, Replace)}


#: Of sub-population 0 the ranks are 0 2 4 6 8 10 12 14, of sub-population 1 they are 1 3 5 ... 15; all of 1 are better.
SCORES = [float(100 * (member % 2) - member) for member in range(16)]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_evolution_by_hand(mode):
    """Both evolve: eight members each, so two in each quarter."""
    sign = 1.0 if mode == "max" else -1.0
    found = taken(evolve([sign * score for score in SCORES], mode=mode))
    assert found == {
        # The last quarters take over from the first, the k-th from the k-th, perturbed.
        12: (0, 0.0),
        14: (2, 4.0),
        13: (1, 2.0),
        15: (3, 6.0),
        # The third quarter of the faster takes in the best of the slower, with what these have.
        8: (1, 1.0),
        10: (3, 3.0),
        # All outsiders of the slower are worse than its third quarter.
    }


def test_weights_from_a_shorter_period_come_without_their_hyperparameters():
    """The slower one's third quarter (9 and 11) takes in weights of 0 and 2, with the values of its own best."""
    scores = [float(100 * (1 - member % 2) - member) for member in range(16)]
    found = taken(evolve(scores))
    assert {9: (0, 1.0), 11: (2, 1.0)} == {member: it for member, it in found.items() if member in (9, 11)}


def test_outsiders_that_are_not_better_are_declined_on_record():
    """Also if they are as good. The first outsider waits for the next of the quarter."""
    scores = [50.0 - member if member % 2 else 100.0 - member for member in range(16)]
    scores[1] = 91.0  # better than 10's 90, not than 8's 92
    verdicts = evolve(scores)
    why = "Q 92 is rank 5 of 8 in its sub-population; outsider 1 has 91, which is not better"
    assert Keep(8, why) == verdicts[8]
    assert (1, 1.0) == taken(verdicts)[10]
    scores[1] = 90.0
    assert isinstance(evolve(scores)[10], Keep)


def test_each_sub_population_evolves_in_its_own_period():
    """Generations count from 0: a period of two ends with the second, the fourth, ..."""
    changed = [{member % 2 for member in taken(evolve(SCORES, generation=generation))} for generation in range(4)]
    assert [{0}, {0, 1}, {0}, {0, 1}] == changed


def test_who_diverged_is_replaced_at_once():
    """By the best of its own, whatever the period; by the best of the others where its own have all diverged."""
    scores = list(SCORES)
    scores[3] = NAN
    assert (1, 2.0) == taken(evolve(scores, generation=0))[3]
    scores = [NAN if member % 2 else float(-member) for member in range(16)]
    found = taken(evolve(scores, generation=0))
    assert {(0, 0.0)} == {found[member] for member in range(1, 16, 2)}


def test_where_all_diverged_all_begin_again():
    """There is nobody to copy from."""
    verdicts = evolve([NAN] * 8)
    assert all(isinstance(it, Restart) for it in verdicts.values())
    assert len(verdicts) == 8


@given(
    scores=st.lists(st.one_of(st.floats(-10, 10), st.just(NAN)), min_size=1, max_size=40),
    periods=st.sampled_from([(1,), (1, 2), (1, 3, 4), (2, 5)]),
    generation=st.integers(0, 20),
)
def test_the_best_is_never_lost_and_nobody_goes_on_diverged(scores, periods, generation):
    """Whatever the scores."""
    options = MFPBT(periods=periods)
    verdicts = evolve(scores, options=options, generation=generation)
    finite = {member: score for member, score in enumerate(scores) if not math.isnan(score)}
    assert {member for member, score in enumerate(scores) if math.isnan(score)} <= set(verdicts)
    if finite:
        best = max(finite, key=lambda member: (finite[member], -member))
        assert not isinstance(verdicts.get(best), Replace | Restart)
        assert {it.donor for it in verdicts.values() if isinstance(it, Replace)} <= set(finite)
    for it in verdicts.values():
        if isinstance(it, Replace) and not math.isnan(scores[it.receiver]):
            assert scores[it.donor] >= scores[it.receiver]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"periods": ()}, "strategy.options.periods: [] is not a list of ascending whole numbers of at least 1. Write"),
        ({"periods": (2, 1)}, "strategy.options.periods: [2, 1] is not"),
        ({"periods": (1, 1)}, "strategy.options.periods: [1, 1] is not"),
        ({"periods": (0, 1)}, "strategy.options.periods: [0, 1] is not"),
        ({"periods": 3}, "strategy.options.periods: 3 is not"),
        ({"factors": (1.0,)}, "strategy.options.factors: [1.0] are not two positive numbers"),
        ({"initial": 3}, "strategy.options.initial: 3 is not a list of mappings"),
    ],
)
def test_bad_options_are_named_with_the_mend(options, message):
    """Field, value, mend."""
    with pytest.raises(SpecError) as raised:
        MFPBT(**options)
    assert str(raised.value).startswith(message)


def test_a_population_without_quarters_is_refused():
    """Before anything is begun."""
    with pytest.raises(SpecError) as raised:
        MFPBT().check(Budget(members=15, generations=51, steps=1))
    assert str(raised.value) == (
        "budget.members: 15 members cannot be 4 sub-populations with four quarters each. "
        "Write 16 or more, or name fewer strategy.options.periods"
    )
    MFPBT().check(Budget(members=16, generations=51, steps=1))


def test_a_sweep_that_ends_before_all_evolve_is_refused():
    """What a sub-population gets that evolves at the very end, nobody trains any more."""
    with pytest.raises(SpecError) as raised:
        MFPBT(periods=(1, 4)).check(Budget(members=8, generations=4, steps=1))
    assert str(raised.value) == (
        "budget.generations: is 4, so a sub-population with a period of 4 never evolves. "
        "Write 5 or more, or shorter strategy.options.periods"
    )
    MFPBT(periods=(1, 4)).check(Budget(members=8, generations=5, steps=1))


def test_the_end_tells_how_far_each_sub_population_came():
    """The best of each; nothing where there is nothing to compare."""
    task = make_task(members=6, mode="max", space=SPACE)

    def remark(*scores):
        return TWO.remark(task, [Standing(member, score, {}, age=10) for member, score in enumerate(scores)])

    assert remark(0.25, 0.5, 0.75, 0.4, NAN, 0.1) == "best Q: 0.75 of period 1, 0.5 of period 2"
    assert remark(0.25, NAN, 0.75, NAN, 0.1, NAN) == ""
    assert MFPBT(periods=(3,)).remark(task, [Standing(0, 1.0, {}, age=10)]) == ""
