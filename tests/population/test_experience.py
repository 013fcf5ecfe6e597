"""What a population remembers."""

import json
import math

import pytest

from pbt.population.bandit import ranked
from pbt.population.experience import Experience, Observation, filled
from pbt.population.verdicts import Standing
from tests.contracts.strategy_contract import make_task

NAN, INF = math.nan, math.inf


def standing(member, *scores, steps=10, hparams=None):
    recent = tuple((steps * (age + 1), score) for age, score in enumerate(scores))
    return Standing(member, scores[-1], hparams or {"lr": float(member)}, steps * len(scores), recent)


def after(*standings, mode="max", capacity=100):
    experience = Experience(capacity)
    experience.observe(make_task(mode=mode), 3, standings)
    return experience


@pytest.mark.parametrize(
    ("mode", "scores", "gain"),
    [
        ("max", (1.0, 3.0, 3.5), 0.5),
        ("min", (1.0, 3.0, 3.5), -0.5),
        ("min", (3.0, 1.0), 2.0),
        ("max", (3.0, NAN), None),
        ("max", (3.0, -INF), None),
        ("min", (3.0, INF), None),
    ],
)
def test_a_gain_is_what_the_last_segment_made_better(mode, scores, gain):
    """In either mode; None where the weights diverged."""
    (seen,) = after(standing(2, *scores), mode=mode).observations
    assert seen == Observation(3, float(len(scores) - 1), scores[-2], gain, {"lr": 2.0})


@pytest.mark.parametrize("scores", [(1.0,), (NAN, 1.0), (-INF, 1.0), (INF, NAN), (1.0, INF), (-1.7e308, 1.7e308)])
def test_a_gain_that_no_number_can_tell_is_not_remembered(scores):
    """The first report, or from or to infinity in the good direction."""
    assert after(standing(0, *scores)).observations == []


def test_nothing_but_numbers_reaches_the_model():
    """Weights that diverged gained as little as the worst."""
    assert filled([0.5, None, -2.0]) == [0.5, -2.0, -2.0]
    assert filled([None, None]) == [0.0, 0.0]


def test_the_latest_are_remembered():
    """In member order within a generation, whatever the ranking was."""
    experience = after(standing(2, 0.0, 1.0), standing(0, 0.0, 2.0), standing(1, 0.0, 3.0), capacity=4)
    assert [it.hparams["lr"] for it in experience.observations] == [0.0, 1.0, 2.0]
    experience.observe(make_task(), 4, [standing(5, 0.0, 1.0), standing(4, 0.0, 1.0)])
    assert [it.hparams["lr"] for it in experience.observations] == [1.0, 2.0, 4.0, 5.0]


def told(experience, gains, mean=0.0, deviation=1.0):
    """As many members as gains, of each of which the same had been expected."""
    for member in range(len(gains)):
        experience.expect(member, mean, deviation)
    experience.observe(make_task(), 0, [standing(member, 1.0, 1.0 + gain) for member, gain in enumerate(gains)])


def test_gross_errors_raise_doubts():
    """Fewer than half of at least ten in the interval that should hold four in five."""
    experience = Experience(100)
    told(experience, [1.2] * 4 + [1.3] * 5)
    assert experience.doubt() is None  # nine are too few to say
    told(experience, [1.3])
    assert experience.doubt() == "of the last 10 gains 4 were in the 80 % interval that was predicted"
    told(experience, [-1.2])
    assert experience.doubt() is not None
    told(experience, [0.0])
    assert experience.doubt() is None


def test_old_errors_are_forgiven():
    """The last twenty count, or those of two generations of a large population."""
    experience = Experience(100)
    told(experience, [9.0] * 15)
    assert experience.doubt() is not None
    told(experience, [0.0] * 15)
    assert experience.doubt() is None
    told(experience, [9.0] * 15)
    assert experience.doubt() is None  # 15 of 30
    told(experience, [9.0] * 15)
    assert experience.doubt() is not None


def test_whom_nobody_expected_anything_of_proves_nothing():
    """A newcomer, a member that diverged, and what was expected two generations ago."""
    experience = Experience(100)
    for member in range(20):
        experience.expect(member, 0.0, 1.0)
    experience.observe(make_task(), 0, [standing(member, 1.0, NAN) for member in range(20)])
    experience.observe(make_task(), 1, [standing(member, 1.0, 99.0) for member in range(40)])
    assert experience.doubt() is None


def test_a_memory_travels_as_json():
    """And goes on the same."""
    experience = after(standing(0, 0.0, 1 / 3, hparams={"mix": {"a": 0.1, "b": 0.9}}), standing(1, 1.0, NAN))
    told(experience, [0.1, 5.0])
    experience.expect(3, 1 / 3, 1e-300)
    snapshot = json.loads(json.dumps(experience.snapshot()))
    other = Experience(100)
    other.restore(snapshot)
    assert other.observations == experience.observations
    for it in (experience, other):
        it.observe(make_task(), 5, [standing(3, 1.0, 2.0)])
    assert other.snapshot() == experience.snapshot()


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([5.0], [0.5]),
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5]),
        ([3.0, -1.0, 100.0], [0.5, 0.0, 1.0]),
        ([None, 2.0, None, 1.0, 2.0], [0.125, 0.875, 0.125, 0.5, 0.875]),
    ],
)
def test_gains_of_a_generation_by_rank(gains, expected):
    """From 0 to 1; equals share their ranks, the diverged the last."""
    assert expected == ranked([Observation(0, 0.0, 0.0, gain, {}) for gain in gains])
