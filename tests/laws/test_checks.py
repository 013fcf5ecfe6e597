"""What laws cannot tell: found before anybody believes it."""

import numpy as np
import pytest

from pbt.errors import SpecError
from pbt.laws.checks import alarms, profile, rolling, tried_too_little
from pbt.laws.fit import Data, fit
from pbt.laws.forms import form_of
from pbt.laws.intervals import spread
from tests.laws.test_fit import TRUTH

FORM = form_of("chinchilla")


def runs(sizes=12, each=10, noise=0.001, seed=0, **changes):
    truth, rng = TRUTH | changes, np.random.default_rng(seed)
    params = np.repeat(np.geomspace(5e7, 1e10, sizes), each)
    tokens = 10 ** rng.uniform(9, 11.5, len(params))
    loss = truth["E"] + truth["A"] / params ** truth["alpha"] + truth["B"] / tokens ** truth["beta"]
    return {"params": params, "tokens": tokens}, loss * np.exp(noise * rng.normal(size=len(params)))


@pytest.fixture(scope="module")
def law():
    return fit(FORM, Data.of(FORM, *runs()), starts=256)


def test_a_law_that_holds_says_what_the_next_size_will_be():
    inputs, loss = runs()
    found = rolling(FORM, inputs, loss, inputs["params"], least=6)
    assert [it.scale for it in found] == pytest.approx(np.geomspace(5e7, 1e10, 12)[6:])
    assert all(it.rows == 10 for it in found)
    assert max(it.error for it in found) < 0.004


def test_a_law_that_does_not_hold_is_off_by_more_and_to_one_side():
    """Losses that fall faster beyond a size."""
    inputs, loss = runs()
    bent = np.where(inputs["params"] > 2e9, 0.95 * loss, loss)
    after = [it for it in rolling(FORM, inputs, bent, inputs["params"], least=6) if it.scale > 2e9]
    assert after[0].bias == pytest.approx(0.05, abs=0.01)
    assert after[0].error > 0.04
    with pytest.raises(SpecError, match="scales: are 12, and 12 are fitted before one is asked of"):
        rolling(FORM, inputs, loss, inputs["params"], least=12)


def test_a_profile_holds_what_was_put_in_and_is_lowest_at_the_fit(law):
    found = profile(law, "alpha")
    assert found.risen.min() == 0.0
    assert found.values[found.risen.argmin()] == law.theta[3]
    assert found.interval.low < TRUTH["alpha"] < found.interval.high
    assert found.values[0] < found.interval.low < found.interval.high < found.values[-1]
    with pytest.raises(SpecError, match=r"parameter: 'delta' is none of this law\. Name one of log E"):
        profile(law, "delta")


def test_intervals_of_profiles_hold_as_often_as_they_say():
    """95 % of 60 draws, and intervals by refits are about as wide."""
    held, widths = 0, []
    for seed in range(60):
        found = fit(FORM, Data.of(FORM, *runs(seed=seed)), starts=128)
        low, high = profile(found, "beta").interval
        held += low <= TRUTH["beta"] <= high
        if seed < 5:
            drawn = spread(found, draws=200, seed=seed).written()["beta"]
            widths.append((high - low) / (drawn.high - drawn.low))
    assert held >= 52
    assert 0.6 < np.median(widths) < 1.2


def test_coefficients_and_exponents_are_said_to_stand_in_for_each_other():
    """In the parameters that people write; centred ones are not as correlated."""
    inputs, loss = runs(sizes=4, each=8)
    sure = spread(fit(FORM, Data.of(FORM, inputs, loss), starts=256), inputs["params"], draws=200)
    told = alarms(sure, inputs["params"], {"params": np.array([1e13]), "tokens": np.array([1e11])})
    assert "only 4 sizes: intervals rest on little" in told
    assert any(it.startswith("params asked for lies 1000 times beyond the runs") for it in told)
    assert not any("tokens asked for" in it for it in told)


def test_an_input_that_does_not_matter_is_told():
    inputs, loss = runs(noise=0.01, B=1e-3)
    told = alarms(spread(fit(FORM, Data.of(FORM, inputs, loss), starts=256), inputs["params"], draws=200))
    assert any("beta may be 0" in it or "stand in for each other" in it for it in told)


def test_a_law_of_many_sizes_has_nothing_to_be_told(law):
    inputs, _ = runs()
    assert [
        it for it in alarms(spread(law, inputs["params"], draws=300), inputs["params"]) if "stand in" not in it
    ] == []


@pytest.mark.parametrize(
    ("values", "best", "says"),
    [
        ([1e-3, 2e-3, 4e-3], 1.9e-3, ""),
        ([1e-3, 2e-3], 1.5e-3, "only 2 values were tried"),
        ([1e-3, 2e-3, 4e-3], 5e-3, "the best (0.005) is at the edge of what was tried (0.001 to 0.004)"),
        ([1e-4, 1e-3, 1e-2], 1e-3, "steps of 10 times jump over the plateau, which is 2.25 times wide"),
    ],
)
def test_a_sweep_that_is_too_coarse_or_too_narrow_is_told(values, best, says):
    assert tried_too_little(values, best, 1.5).startswith(says)
    assert bool(says) == bool(tried_too_little(values, best, 1.5))
