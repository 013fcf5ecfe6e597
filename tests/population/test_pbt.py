"""Population-based training: who is replaced, by whom, and with what."""

import collections
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import SpecError
from pbt.population import PBT
from pbt.population.verdicts import Keep, Replace, Restart, Standing, rank
from pbt.spec import Budget
from pbt.strategy import ContinueUntil, Copy, Decline, Finish, Set, Start
from searchspaces import Float, Space
from tests.contracts.strategy_contract import EXAMPLES, Case, SynchronousContract, cases, make_task, of_kind, play

NAN = math.nan
SPACE = Space({"a": Float(0.0, 1000.0), "b": Float(0.0, 1000.0)})


class TestContract(SynchronousContract):
    """`PBT` keeps the contract of every strategy, with whatever options."""

    @pytest.fixture(
        params=[
            PBT(),
            PBT(explore="resample", quantile=0.5),
            PBT(inherit_hparams=False, resample_probability=0.0, quantile=0.5, factors=(0.5, 3.0)),
            PBT(select="tournament", burn_in=1),
            pytest.param(PBT(select="t_test", alpha=0.5), marks=pytest.mark.full),
            pytest.param(PBT(min_gap=0.1, min_gap_std=0.5, quantile=0.5), marks=pytest.mark.full),
            pytest.param(PBT(controls=1, quantile=0.5), marks=pytest.mark.full),
        ],
        ids=["defaults", "resample", "own-hparams", "tournament", "t-test", "gates", "controls"],
    )
    def options(self, request):
        return request.param


def evolve(options, scores, *, mode="max", seed=0, generation=0, hparams=None):
    """Verdicts by member, on members whose hyperparameters are `(m + 1, 2 (m + 1))`."""
    task = make_task(members=len(scores), mode=mode, seed=seed, space=SPACE)
    known = hparams or {member: {"a": member + 1.0, "b": 2.0 * (member + 1)} for member in scores}
    standings = [Standing(member, score, known[member], age=10) for member, score in scores.items()]
    verdicts = options.evolve(task, generation, rank(standings, mode))
    of = {verdict.receiver if isinstance(verdict, Replace) else verdict.member: verdict for verdict in verdicts}
    assert len(verdicts) == len(of), "a member was judged twice"
    return of


# --- exploit


def replaced(options, scores, **known):
    return {member: it.donor for member, it in evolve(options, scores, **known).items() if isinstance(it, Replace)}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_in_a_tournament_everybody_meets_another(mode):
    """Whoever meets a better one is replaced by it: the best never, the worst always, the others as often as is due."""
    sign = 1.0 if mode == "max" else -1.0
    scores = {member: sign * member for member in range(5)}
    rounds = [replaced(PBT(select="tournament"), scores, mode=mode, seed=seed) for seed in range(400)]
    assert all(donor > member for one in rounds for member, donor in one.items())
    for member in range(5):
        chance = (4 - member) / 4
        found = sum(member in one for one in rounds) / 400
        assert abs(found - chance) <= 3 * math.sqrt(chance * (1 - chance) / 400)
    opponents = collections.Counter(one[0] for one in rounds)
    assert set(opponents) == {1, 2, 3, 4}
    assert max(opponents.values()) < 1.6 * min(opponents.values())


def test_who_diverged_is_no_opponent_and_copies_one_of_the_best():
    """Whatever the selection."""
    scores = {0: NAN, 1: 0.5, 2: 0.9, 3: 0.4, 4: NAN, 5: 0.3}
    for seed in range(50):
        found = replaced(PBT(select="tournament"), scores, seed=seed)
        assert {found[0], found[4]} == {2}
        assert set(found.values()) <= {1, 2, 3, 5}


def test_before_burn_in_nobody_is_replaced_but_those_that_diverged():
    """Generations count from 0: with a burn-in of 2, the third is the first that ends in exploits."""
    scores = {0: 0.1, 1: NAN, 2: 0.9, 3: 0.4}
    options = PBT(burn_in=2, quantile=0.5)
    found = [set(replaced(options, scores, generation=generation)) for generation in range(4)]
    assert [{1}, {1}, {0, 1}, {0, 1}] == found


@pytest.mark.parametrize("options", [PBT(min_gap=0.5, quantile=0.5), PBT(min_gap_std=1.2, quantile=0.5)])
def test_an_exploit_that_a_gate_declines_is_on_record(options):
    """Member 1 is far behind any donor, member 2 hardly; the spread is 0.35."""
    scores = {0: 0.9, 1: 0.2, 2: 0.88, 3: 0.9}
    verdicts = evolve(options, scores)
    assert isinstance(verdicts[1], Replace)
    assert verdicts[2].reason.startswith("Q 0.88 is rank 3 of 4; donor ")
    assert ", which is " in verdicts[2].reason


def test_control_members_neither_copy_nor_are_copied():
    """Nor do they count: of the four others, one is replaced by one. A control that diverged begins again elsewhere."""
    scores = {0: 9.0, 1: -9.0, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.4}
    assert {2: 5} == replaced(PBT(controls=2, quantile=0.25), scores)
    verdicts = evolve(PBT(controls=2, quantile=0.25), scores | {1: NAN})
    assert {1, 2} == set(verdicts)
    assert isinstance(verdicts[1], Restart)


@pytest.mark.parametrize(
    ("scores", "remark"),
    [
        ({0: 0.25, 1: 0.5, 2: 0.75}, "the best of 2 control members, 1, has Q 0.5, 0.25 behind"),
        ({0: 0.25, 1: 1.0, 2: 0.75}, "the best of 2 control members, 1, has Q 1, 0.25 ahead"),
        ({0: NAN, 1: NAN, 2: 0.75}, ""),
        ({0: 0.1, 1: 0.2, 2: NAN}, ""),
    ],
)
def test_the_end_tells_how_far_control_members_are_behind(scores, remark):
    """That is what it cost, or gained, to choose what was best at each moment."""
    standings = [Standing(member, score, {}, age=10) for member, score in scores.items()]
    task = make_task(members=3, mode="max", space=SPACE)
    assert PBT(controls=2).remark(task, standings) == remark
    assert PBT().remark(task, standings) == ""


def test_a_sweep_ends_with_that_remark():
    """In the reason of its end, which is on record."""
    case = Case(task=make_task(members=3, generations=2), scores=[[0.5], [0.75], [0.25]])
    (finish,) = of_kind(play(PBT(controls=1), case).actions, Finish)
    assert (
        finish.reason == "best score at the end of the last generation; the control member, 0, has Q 0.5, 0.25 behind"
    )


def test_somebody_has_to_evolve():
    """A population of control members alone is refused before anything is begun."""
    with pytest.raises(SpecError, match=r"^strategy\.options\.controls: 3 of 3 members leaves nobody to evolve\. Name"):
        PBT(controls=3).check(Budget(members=3, generations=1, steps=1))


def test_a_t_test_wants_reports_to_compare():
    """Both have to have been good, or bad, for a while: one good score alone is luck."""
    steady = {0: (0.1, 0.2, 0.1), 1: (0.8, 0.9, 0.85)}
    lucky = {0: (0.1, 0.9, 0.1), 1: (0.2, 0.1, 0.9)}
    for history, is_replaced in ((steady, True), (lucky, False), ({0: (0.1,), 1: (0.9,)}, False)):
        recent = {member: tuple(enumerate(scores)) for member, scores in history.items()}
        standings = [Standing(it, scores[-1], {"a": 1.0, "b": 1.0}, 9, recent[it]) for it, scores in history.items()]
        task = make_task(members=2, mode="max", space=SPACE)
        (verdict,) = PBT(select="t_test").evolve(task, 0, rank(standings, "max"))
        assert isinstance(verdict, Replace) == is_replaced


@pytest.mark.parametrize(
    ("members", "quantile", "count"),
    [
        (2, 0.2, 1),
        (2, 0.5, 1),
        (3, 0.2, 1),
        (3, 0.5, 1),
        (4, 0.5, 2),
        (5, 0.2, 1),
        (5, 0.5, 2),
        (7, 0.01, 1),
        (9, 0.2, 1),
        (10, 0.2, 2),
        (14, 0.2, 2),
        (15, 0.2, 3),
        (20, 0.25, 5),
        (40, 0.125, 5),
        (100, 0.07, 7),
        (100, 0.29, 29),  # 0.29 * 100 is 28.999999999999996 in floating point
        (200, 0.145, 29),
    ],
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_truncation_replaces_the_bottom_by_the_top(mode, members, quantile, count):
    """The worst `max(1, floor(quantile * n))` are replaced, and only the best as many may be donors."""
    sign = 1.0 if mode == "max" else -1.0
    scores = {member: sign * member for member in range(members)}
    verdicts = evolve(PBT(quantile=quantile), scores, mode=mode)
    assert set(range(count)) == set(verdicts)
    assert {verdict.donor for verdict in verdicts.values()} <= set(range(members - count, members))


def test_every_donor_of_the_top_is_drawn():
    """Over many generations each member of the top is chosen about equally often, and nobody else."""
    scores = {member: float(member) for member in range(10)}
    drawn = collections.Counter(
        verdict.donor
        for generation in range(200)
        for verdict in evolve(PBT(quantile=0.4), scores, generation=generation).values()
    )
    assert {6, 7, 8, 9} == set(drawn)
    # 800 draws, 200 expected of each; a fair draw lands outside 150..250 less than once in 10,000.
    assert all(150 < number < 250 for number in drawn.values())


def test_receivers_draw_their_donors_independently():
    """The donor of one receiver does not settle the other's."""
    scores = {member: float(member) for member in range(4)}
    pairs = {
        tuple(verdict.donor for verdict in evolve(PBT(quantile=0.5), scores, generation=generation).values())
        for generation in range(60)
    }
    assert {(2, 2), (2, 3), (3, 2), (3, 3)} == pairs


@pytest.mark.parametrize(
    ("mode", "scores", "receiver", "donor"),
    [
        ("max", {0: 0.9, 1: 0.1, 2: 0.5}, 1, 0),
        ("min", {0: 0.9, 1: 0.1, 2: 0.5}, 0, 1),
        ("max", {0: 1.0, 1: 1.0, 2: 1.0}, 2, 0),
        ("min", {0: 1.0, 1: 1.0, 2: 1.0}, 2, 0),
        ("max", {0: 0.1, 1: 0.9}, 0, 1),
        ("max", {0: -math.inf, 1: 0.9}, 0, 1),
    ],
)
def test_who_takes_over_whom(mode, scores, receiver, donor):
    """Hand-computed: best and worst in each mode; among equals the lower number is the better."""
    verdicts = evolve(PBT(), scores, mode=mode)
    assert [receiver] == list(verdicts)
    assert donor == verdicts[receiver].donor


def test_the_reason_is_told_in_words():
    """A copy says both scores and both ranks."""
    (verdict,) = evolve(PBT(), {0: 0.5, 1: 0.25, 2: 0.123456789}).values()
    assert verdict.reason == "Q 0.123457 is rank 3 of 3; donor 0 has 0.5, rank 1"


def test_a_member_alone_keeps_what_it_has():
    """With nobody to copy from the exploit is declined, and the reason is told."""
    assert {4: Keep(4, "there is nobody to copy from")} == evolve(PBT(), {4: 0.5})
    actions = play(PBT(), Case(task=make_task(members=1, generations=2), scores=[[0.1, 0.2]])).actions_of(0)
    assert [
        Decline(cause="report:0:0", member=0, reason="there is nobody to copy from"),
        ContinueUntil(cause="report:0:0", member=0, consumed=20, generation=1),
    ] == actions


# --- NaN


@pytest.mark.parametrize(
    ("scores", "receivers", "donors"),
    [
        ({0: NAN, 1: 0.5, 2: 0.7}, {0}, {2}),
        ({0: NAN, 1: NAN, 2: 0.7}, {0, 1}, {2}),
        ({0: 0.1, 1: NAN, 2: 0.7, 3: NAN, 4: 0.3}, {1, 3}, {2}),
        ({0: NAN, 1: 0.5}, {0}, {1}),
        ({0: NAN, 1: NAN, 2: NAN, 3: 0.2, 4: NAN, 5: NAN, 6: NAN, 7: NAN, 8: NAN, 9: NAN}, {*range(10)} - {3}, {3}),
    ],
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_diverged_are_replaced_however_many(mode, scores, receivers, donors):
    """All diverged members are replaced, by members that did not diverge."""
    donors = donors if mode == "max" else {min((m for m in scores if scores[m] == scores[m]), key=scores.get)}
    verdicts = evolve(PBT(), scores, mode=mode)
    assert receivers == set(verdicts)
    assert donors == {verdict.donor for verdict in verdicts.values()}


@EXAMPLES
@given(case=cases(failures=True), quantile=st.sampled_from([0.2, 0.5]))
def test_nobody_goes_on_diverged(case, quantile):
    """After every generation each living member that diverged is copied over, or started again if all diverged."""
    story = play(PBT(quantile=quantile), case)
    for generation in range(case.generations - 1):
        alive = case.survivors(generation)
        diverged = {member for member in alive if math.isnan(case.score(member, generation))}
        actions = story.actions_of(generation)
        assert (alive if diverged == alive else set()) == {action.member for action in of_kind(actions, Start)}
        copies = of_kind(actions, Copy)
        if diverged != alive:
            assert diverged <= {action.receiver for action in copies}
        assert {action.donor for action in copies} <= alive - diverged


def test_when_all_diverge_all_begin_again():
    """Each member starts afresh in its own slot: another seed, other hyperparameters, its own steps counted on."""
    story = play(PBT(), Case(task=make_task(members=3, generations=2, space=SPACE), scores=[[NAN, 1.0]] * 3))
    first, again = (of_kind(story.actions_of(generation), Start) for generation in (-1, 0))
    assert [(start.member, start.slot) for start in first] == [(start.member, start.slot) for start in again]
    assert [new for old, new in zip(first, again, strict=True) if old.seed == new.seed] == []
    assert [new for old, new in zip(first, again, strict=True) if old.hparams == new.hparams] == []
    assert len({start.seed for start in first + again}) == 6
    assert [action.consumed for action in of_kind(story.actions_of(0), ContinueUntil)] == [20, 20, 20]


def test_all_diverged_gives_restarts():
    """The verdict on each is to begin again."""
    verdicts = evolve(PBT(), {0: NAN, 1: NAN})
    assert [Restart, Restart] == [type(verdict) for verdict in verdicts.values()]


# --- explore


def ratios(options, **given):
    """New values by those explored from, of the worst of two members, over many generations."""
    base = {0: {"a": 10.0, "b": 100.0}, 1: {"a": 40.0, "b": 700.0}}
    own = 1 if options.inherit_hparams else 0
    found = set()
    for generation in range(40):
        (verdict,) = evolve(options, {0: 0.0, 1: 1.0}, generation=generation, hparams=base, **given).values()
        found.add(tuple(round(verdict.hparams[name] / base[own][name], 9) for name in ("a", "b")))
    return found


@pytest.mark.parametrize("inherit", [True, False])
@pytest.mark.parametrize("factors", [(0.8, 1.2), (0.5, 1.25)])
def test_perturbation_multiplies_each_by_a_factor(factors, inherit):
    """Each hyperparameter by itself, from the donor's values or (`inherit_hparams=False`) the receiver's own."""
    low, high = factors
    found = ratios(PBT(factors=factors, resample_probability=0.0, inherit_hparams=inherit))
    assert {(low, low), (low, high), (high, low), (high, high)} == found


@pytest.mark.parametrize("options", [PBT(explore="resample"), PBT(resample_probability=1.0)])
def test_resampling_forgets_the_donor(options):
    """Resampled values are drawn from the space and owe nothing to anybody's."""
    drawn = []
    for scale in (1.0, 2.0):
        hparams = {member: {"a": scale * (member + 1), "b": scale * 10} for member in range(2)}
        drawn.append([evolve(options, {0: 0.0, 1: 1.0}, generation=g, hparams=hparams)[0].hparams for g in range(100)])
    assert drawn[0] == drawn[1]
    for name in ("a", "b"):
        values = [hparams[name] for hparams in drawn[0]]
        assert len(set(values)) == 100
        assert 400 < sum(values) / 100 < 600  # uniform on [0, 1000]: the mean of 100 is 500 +- 29


def test_some_are_resampled_and_some_perturbed():
    """With `resample_probability` 0.25, three quarters of the values are 0.8 or 1.2 times the donor's."""
    moved = 0
    for generation in range(400):
        (verdict,) = evolve(PBT(), {0: 0.0, 1: 1.0}, generation=generation).values()
        moved += sum(round(verdict.hparams[name] / base, 9) in (0.8, 1.2) for name, base in (("a", 2.0), ("b", 4.0)))
    assert 540 < moved < 660  # of 800; 600 +- 12


@pytest.mark.parametrize("explore", ["perturb", "resample"])
def test_generations_members_and_seeds_explore_differently(explore):
    """No two decisions share their random draws."""
    options = PBT(explore=explore, resample_probability=1.0, quantile=0.5)
    scores = {member: float(member) for member in range(4)}
    drawn = [
        tuple(verdict.hparams.values())
        for seed in range(3)
        for generation in range(3)
        for verdict in evolve(options, scores, seed=seed, generation=generation).values()
    ]
    assert len(drawn) == len(set(drawn))


def test_what_a_generation_orders():
    """Copy, then set, then everybody trains on: the whole answer, by hand."""
    initial = ({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}, {"a": 5.0, "b": 6.0})
    options = PBT(initial=initial, resample_probability=0.0, factors=(2.0, 2.0))
    task = make_task(members=3, generations=2, steps=7, space=SPACE)
    actions = play(options, Case(task=task, scores=[[0.2, 0.0], [0.9, 0.0], [0.1, 0.0]])).actions_of(0)
    why = "Q 0.1 is rank 3 of 3; donor 1 has 0.9, rank 1"
    assert [
        Copy(cause="report:2:0", donor=1, receiver=2, reason=why),
        Set(cause="report:2:0", member=2, hparams={"a": 6.0, "b": 8.0}),
        *(ContinueUntil(cause=f"report:{m}:0", member=m, consumed=14, generation=1) for m in range(3)),
    ] == actions


def test_a_donor_hands_on_what_it_was_given():
    """Explored values are the member's own from then on: doubled once by member 0, and again by member 1."""
    options = PBT(initial=({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}), resample_probability=0.0, factors=(2.0, 2.0))
    task = make_task(members=2, generations=3, space=SPACE)
    story = play(options, Case(task=task, scores=[[0.1, 0.9, 0.0], [0.5, 0.5, 0.0]]))
    (first,), (second,) = (of_kind(story.actions_of(generation), Set) for generation in (0, 1))
    assert (first.member, first.hparams) == (0, {"a": 6.0, "b": 8.0})
    assert (second.member, second.hparams) == (1, {"a": 12.0, "b": 16.0})


def test_the_last_generation_replaces_nobody():
    """After the last reports there is no training left for an exploit to serve."""
    story = play(PBT(), Case(task=make_task(members=3, generations=1), scores=[[0.1], [NAN], [0.3]]))
    assert of_kind(story.actions, Copy) + of_kind(story.actions, Set) == []


# --- initial configurations


def test_initial_configurations_go_to_the_first_members():
    """The others are sampled, each differently, and as if there were no initial ones."""
    initial = ({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0})
    case = Case(task=make_task(members=4, generations=1, space=SPACE), scores=[[0.0]] * 4)
    given_, sampled = (
        [start.hparams for start in of_kind(play(PBT(initial=chosen), case).actions, Start)] for chosen in (initial, ())
    )
    assert [*initial, *sampled[2:]] == given_
    assert len({tuple(hparams.values()) for hparams in sampled}) == 4


@EXAMPLES
@given(members=st.integers(1, 6), more=st.integers(1, 6))
def test_a_larger_population_begins_with_the_smaller_one(members, more):
    """A member's first configuration depends on the seed and its number, not on how many there are."""
    few, many = (
        [
            start.hparams
            for start in of_kind(
                play(PBT(), Case(task=make_task(members=number, generations=1), scores=[[0.0]] * number)).actions,
                Start,
            )
        ]
        for number in (members, members + more)
    )
    assert few == many[:members]


# --- options


@pytest.mark.parametrize(
    ("options", "field", "problem", "mend"),
    [
        ({"quantile": 0.0}, "quantile", "0.0 is not in (0, 0.5]", "Write a number above 0 and at most 0.5"),
        ({"quantile": 0.51}, "quantile", "0.51 is not in (0, 0.5]", "Write a number above 0 and at most 0.5"),
        ({"quantile": -0.2}, "quantile", "-0.2 is not in (0, 0.5]", "Write a number above 0 and at most 0.5"),
        ({"quantile": NAN}, "quantile", "nan is not in (0, 0.5]", "Write a number above 0 and at most 0.5"),
        ({"quantile": "0.2"}, "quantile", "'0.2' is not in (0, 0.5]", "Write a number above 0 and at most 0.5"),
        ({"quantile": None}, "quantile", "None is not in (0, 0.5]", "Write a number above 0 and at most 0.5"),
        ({"explore": "mutate"}, "explore", "'mutate' is unknown", "Write perturb or resample"),
        ({"explore": None}, "explore", "None is unknown", "Write perturb or resample"),
        ({"factors": (0.8,)}, "factors", "[0.8] are not two positive numbers", "Write [0.8, 1.2]"),
        ({"factors": (0.8, 1, 1.2)}, "factors", "[0.8, 1, 1.2] are not two positive numbers", "Write [0.8, 1.2]"),
        ({"factors": [0.0, 1.2]}, "factors", "[0.0, 1.2] are not two positive numbers", "Write [0.8, 1.2]"),
        ({"factors": [-1, 1.2]}, "factors", "[-1, 1.2] are not two positive numbers", "Write [0.8, 1.2]"),
        ({"factors": [0.8, math.inf]}, "factors", "[0.8, inf] are not two positive numbers", "Write [0.8, 1.2]"),
        ({"factors": [NAN, 1.2]}, "factors", "[nan, 1.2] are not two positive numbers", "Write [0.8, 1.2]"),
        ({"factors": ["a", "b"]}, "factors", "['a', 'b'] are not two positive numbers", "Write [0.8, 1.2]"),
        ({"factors": 2}, "factors", "2 are not two positive numbers", "Write [0.8, 1.2]"),
        (
            {"resample_probability": -0.1},
            "resample_probability",
            "-0.1 is not a probability",
            "Write a number from 0 to 1",
        ),
        (
            {"resample_probability": 1.1},
            "resample_probability",
            "1.1 is not a probability",
            "Write a number from 0 to 1",
        ),
        (
            {"resample_probability": NAN},
            "resample_probability",
            "nan is not a probability",
            "Write a number from 0 to 1",
        ),
        (
            {"resample_probability": "x"},
            "resample_probability",
            "'x' is not a probability",
            "Write a number from 0 to 1",
        ),
        ({"inherit_hparams": "no"}, "inherit_hparams", "'no' is neither true nor false", "Write true or false"),
        ({"inherit_hparams": 0}, "inherit_hparams", "0 is neither true nor false", "Write true or false"),
        ({"synchronous": "no"}, "synchronous", "'no' is neither true nor false", "Write true or false"),
        ({"select": "best"}, "select", "'best' is unknown", "Write truncation, tournament or t_test"),
        ({"burn_in": 1.5}, "burn_in", "1.5 is not a whole number of at least 0", "Write 0 for none"),
        ({"burn_in": True}, "burn_in", "True is not a whole number of at least 0", "Write 0 for none"),
        ({"min_gap": "x"}, "min_gap", "'x' is not a number of at least 0", "Write 0 for no gate"),
        ({"alpha": 0}, "alpha", "0 is not between 0 and 1", "Write 0.05, or leave it out"),
        ({"initial": 3}, "initial", "3 is not a list of mappings", "Write [{lr: 0.1}], or leave it out"),
        (
            {"initial": {"a": 1.0}},
            "initial",
            "{'a': 1.0} is not a list of mappings",
            "Write [{lr: 0.1}], or leave it out",
        ),
        ({"initial": ["a"]}, "initial", "['a'] is not a list of mappings", "Write [{lr: 0.1}], or leave it out"),
    ],
)
def test_impossible_options_are_refused(options, field, problem, mend):
    """The message is the option as a sweep file writes it, what is wrong with the value, and the mend."""
    with pytest.raises(SpecError) as raised:
        PBT(**options)
    assert f"strategy.options.{field}: {problem}. {mend}" == str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quantile": 0.5, "explore": "resample"},
        {"quantile": 1e-9, "factors": [1, 1]},
        {"resample_probability": 0},
        {"resample_probability": 1, "inherit_hparams": False},
        {"initial": [{"a": 1.0, "b": 2.0}]},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(options):
    """Options at the very ends of their ranges, and lists as YAML gives them, are taken."""
    case = Case(task=make_task(members=3, generations=2, space=SPACE), scores=[[0.1, 0.2]] * 3)
    assert play(PBT(**options), case).actions[-1].best == 0
