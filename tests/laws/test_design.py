"""What to train next: laid out beforehand, and chosen for what it tells."""

import numpy as np
import pytest

from pbt.errors import SpecError
from pbt.laws.design import around, equal_compute, half_width, next_runs
from pbt.laws.fit import Data, fit
from pbt.laws.forms import form_of
from pbt.laws.intervals import spread
from tests.laws.test_intervals import loss

FORM = form_of("chinchilla")
TARGET = {"params": 7e10, "tokens": 1.4e12}


def measured(inputs, noise=0.0005, seed=0):
    return loss(**inputs) * np.exp(noise * np.random.default_rng(seed).normal(size=len(inputs["params"])))


def fitted(inputs, **how):
    return fit(FORM, Data.of(FORM, inputs, measured(inputs, **how)), starts=256)


@pytest.fixture(scope="module")
def law():
    return fitted(equal_compute(np.geomspace(1e18, 1e20, 5), np.geomspace(5, 320, 7)))


@pytest.fixture(scope="module")
def candidates():
    return equal_compute(np.geomspace(1e18, 1e21, 7), np.geomspace(5, 320, 7))


def flops(inputs):
    return 6 * inputs["params"] * inputs["tokens"]


def test_runs_of_one_budget_take_the_same():
    found = equal_compute([1e18, 1e19], [5, 20, 80])
    assert flops(found) == pytest.approx([1e18] * 3 + [1e19] * 3)
    assert found["tokens"] / found["params"] == pytest.approx([5, 20, 80] * 2)


def test_values_are_tried_evenly_around_the_best():
    assert around(1e-3, 5, 2.0) == pytest.approx([2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3])
    assert around(1e-3, 4, 2.0).prod() ** 0.25 == pytest.approx(1e-3)


def test_how_sure_a_law_is_by_slopes_is_about_what_refits_say(law):
    low, high = spread(law, draws=500).predict({name: np.array([it]) for name, it in TARGET.items()})
    assert half_width(law, TARGET) == pytest.approx(np.log(high[0] / low[0]) / 2, rel=0.35)


def test_each_run_is_the_one_that_tells_most_for_its_compute(law, candidates):
    """As trying all of them says, by the whole table of slopes."""
    (first, *_) = next_runs(law, candidates, flops(candidates), TARGET, budget=2e21)
    slopes = law.form.jacobian(law.theta, law.data.x)
    rows = law.form.jacobian(law.theta, law.data.centred(candidates))
    at = law.form.jacobian(law.theta, law.data.centred({name: np.array([it]) for name, it in TARGET.items()}))[0]

    def variance(table):
        return at @ np.linalg.inv(table.T @ table) @ at

    gains = [(variance(slopes) - variance(np.vstack([slopes, row]))) for row in rows] / flops(candidates)
    best = int(np.argmax(gains))
    assert first.inputs == pytest.approx({name: it[best] for name, it in candidates.items()})
    share = np.sqrt(variance(np.vstack([slopes, rows[best]])) / variance(slopes))
    assert first.half_width / half_width(law, TARGET) == pytest.approx(share, rel=1e-4)


def test_runs_keep_to_the_budget_and_end_where_it_is_sure_enough(law, candidates):
    found = next_runs(law, candidates, flops(candidates), TARGET, budget=3e21)
    widths = [it.half_width for it in found]
    assert sum(it.flops for it in found) <= 3e21
    assert widths == sorted(widths, reverse=True)
    enough = widths[len(widths) // 2]
    fewer = next_runs(law, candidates, flops(candidates), TARGET, budget=3e21, enough=enough)
    assert fewer == found[: len(widths) // 2 + 1]


def test_planned_runs_make_it_surer_than_as_many_flops_elsewhere(law, candidates):
    """Trained and fitted again, and compared with copies of the runs that there were."""
    planned = next_runs(law, candidates, flops(candidates), TARGET, budget=2e21)
    spent = sum(it.flops for it in planned)
    begun = equal_compute(np.geomspace(1e18, 1e20, 5), np.geomspace(5, 320, 7))
    copies = max(1, round(spent / flops(begun).sum()))

    def joined(added):
        return {name: np.concatenate([begun[name], added[name]]) for name in begun}

    chosen = fitted(joined({name: np.array([it.inputs[name] for it in planned]) for name in begun}))
    again = fitted(joined({name: np.tile(it, copies) for name, it in begun.items()}))
    assert half_width(chosen, TARGET) < 0.8 * half_width(again, TARGET)


def test_what_cannot_be_planned_is_refused(law, candidates):
    with pytest.raises(SpecError, match=r"budget: of 1e\+15 FLOPs is less than any run takes"):
        next_runs(law, candidates, flops(candidates), TARGET, budget=1e15)
    with pytest.raises(SpecError, match="values: 2 do not show where the best is"):
        around(1e-3, 2, 2.0)
    with pytest.raises(SpecError, match=r"factor: 1\.0 is no step"):
        around(1e-3, 3, 1.0)
    with pytest.raises(SpecError, match="ratios: are "):
        equal_compute([1e18], [])
