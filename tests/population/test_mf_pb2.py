"""Multiple frequencies with a bandit: who takes over from whom as in `MFPBT`, what the fast go on with as in `PB2`."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import SpecError
from pbt.population import MFPB2
from pbt.population.experience import Experience
from pbt.population.verdicts import Keep, Replace, Restart, Standing, rank
from pbt.spec import Budget
from searchspaces import Float, Space
from tests.contracts.strategy_contract import SynchronousContract, make_task
from tests.examples import examples
from tests.population.hasty import replace_bandit
from tests.population.test_pb2 import bowl, errors, sweep

NAN = math.nan
SPACE = Space({"h": Float(0.0, 1.0)})


class TestContract(SynchronousContract):
    """`MFPB2` keeps the contract of every strategy, whether the model is asked late, or a stand-in early."""

    @pytest.fixture(
        params=[
            pytest.param(MFPB2(periods=(1, 2), min_observations=20), marks=pytest.mark.full),
            MFPB2(periods=(1, 3), min_observations=2),
        ],
        ids=["late", "early"],
    )
    def options(self, request, monkeypatch):
        if request.param.min_observations < 20:
            replace_bandit(monkeypatch)
        return request.param


def evolve(options, scores, generation, experience=None):
    """Verdicts on members that have trained a while."""
    task = make_task(members=len(scores), space=SPACE)
    standings = [Standing(member, score, {"h": 0.5}, age=20) for member, score in enumerate(scores)]
    seen = experience or Experience(100)
    return options.evolve(seen, task, generation, rank(standings, "max"))


def experienced():
    """Some generations in which a segment gained most at 0.7."""
    experience, rng = Experience(100), np.random.default_rng(0)
    task = make_task(members=8, space=SPACE)
    for generation in range(4):
        standings = []
        for member, h in enumerate(rng.uniform(size=8).tolist()):
            recent = ((10, 0.0), (20, 1 - (h - 0.7) ** 2))
            standings.append(Standing(member, recent[1][1], {"h": h}, age=20, recent=recent))
        experience.observe(task, generation, standings)
    return experience


@examples(50)
@given(scores=st.lists(st.floats(-1, 1) | st.just(NAN), min_size=8, max_size=16), generation=st.integers(0, 8))
def test_who_takes_over_from_whom_is_a_matter_of_frequencies(scores, generation):
    """As `MFPBT` decides, verdict by verdict; with too little seen, also what with."""
    options = MFPB2()
    task = make_task(members=len(scores), space=SPACE)
    standings = [Standing(member, score, {"h": 0.5}, age=20) for member, score in enumerate(scores)]
    expected = options.frequencies.evolve(task, generation, rank(standings, "max"))
    found = evolve(options, scores, generation)
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Replace):
            assert (one.receiver, one.donor, one.hparams) == (other.receiver, other.donor, other.hparams)
        else:
            assert one == other


def test_the_fast_explore_by_the_bandit_and_the_slow_perturb():
    """Both evolve in the fourth generation: what was seen sends the fast near 0.7, the slow multiply 0.5."""
    options = MFPB2(resample_probability=0.0)
    found = {it.receiver: it for it in evolve(options, [float(-it) for it in range(8)], 3, experienced())}
    assert {6: 0, 4: 1, 7: 1, 5: 0} == {member: it.donor for member, it in found.items()}
    assert abs(found[6].hparams["h"] - 0.7) < 0.1
    assert found[6].reason.endswith("explored by the bandit, which saw 32 segments")
    assert found[7].hparams["h"] in (0.4, 0.625)
    assert "explored" not in found[7].reason


def test_what_the_slow_take_over_is_expected_of_them():
    """Predictions are made for everybody who trains on: the slow that were replaced go on from their donors."""
    experience = experienced()
    evolve(MFPB2(), [float(-it) for it in range(8)], 3, experience)
    assert set(range(8)) == {member for member, *_ in experience.snapshot()["expected"]}


def test_a_noisy_problem_is_solved_by_the_fast():
    """Half of the population; noise is 0.1 of the signal, guesses are off by 0.29."""
    found = errors(sweep(MFPB2(), bowl(0.1), generations=16))
    assert len(found) >= 10
    assert np.median(found) < 0.08


def test_where_all_diverged_all_begin_again():
    """There is nobody to copy from."""
    assert {Restart} == {type(verdict) for verdict in evolve(MFPB2(), [NAN] * 8, 1)}


def test_a_member_by_itself_goes_on():
    """Though the population was larger once."""
    assert [Keep(0, "there is nobody to copy from")] == evolve(MFPB2(periods=(1,)), [0.5], 1)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"periods": (4, 1)}, "strategy.options.periods"),
        ({"min_observations": 1}, "strategy.options.min_observations"),
        ({"min_observations": 9, "max_observations": 8}, "strategy.options.min_observations"),
        ({"horizon": 0}, "strategy.options.horizon"),
        ({"factors": (0.8,)}, "strategy.options.factors"),
        ({"resample_probability": 2.0}, "strategy.options.resample_probability"),
        ({"initial": {"h": 0.5}}, "strategy.options.initial"),
    ],
)
def test_options_outside_their_range_are_refused(options, field):
    """By the name of the field."""
    with pytest.raises(SpecError) as caught:
        MFPB2(**options)
    assert caught.value.field == field


def test_too_few_members_or_generations_are_refused():
    """Four for each sub-population, and one more than the longest period."""
    with pytest.raises(SpecError, match="Write 8 or more"):
        MFPB2().check(Budget(members=7, generations=9, steps=1))
    MFPB2().check(Budget(members=8, generations=5, steps=1))
    with pytest.raises(SpecError, match=r"is 4, so a sub-population with a period of 4 never evolves\. Write 5"):
        MFPB2().check(Budget(members=8, generations=4, steps=1))
