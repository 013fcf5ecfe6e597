"""Critical batch sizes: from steps to a target, and as powers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.errors import SpecError
from pbt.laws.critical_batch import as_min_steps, power, tradeoff
from tests.examples import examples

BATCH = np.array([64.0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384])
#: Steps of a model of 1.2 billion parameters (Zhang et al. 2024), from its authors' published data.
STEPS = np.array([642000.0, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500])


@examples(20)
@given(least=st.floats(100, 1e5), critical=st.floats(200, 8000))
def test_what_was_put_in_comes_out(least, critical):
    found = tradeoff(BATCH, least * (1 + critical / BATCH))
    assert (found.min_steps, found.critical) == pytest.approx((least, critical), rel=1e-4)
    assert found.min_examples == pytest.approx(least * critical, rel=1e-4)


def test_at_the_critical_batch_both_are_twice_the_least():
    found = tradeoff(BATCH, STEPS)
    steps = found.steps(found.critical)
    assert steps == pytest.approx(2 * found.min_steps)
    assert steps * found.critical == pytest.approx(2 * found.min_examples)
    assert as_min_steps([steps], [found.critical], [found.critical]) == pytest.approx([found.min_steps])


def test_with_an_overhead_it_takes_just_that_more():
    """Of the examples that the reference takes."""
    found = tradeoff(BATCH, STEPS)
    batch = found.critical_at(0.2, reference=256)
    assert found.steps(batch) * batch == pytest.approx(1.2 * found.steps(256) * 256)
    assert batch == pytest.approx(2610, rel=0.05)  # what the paper's law says


def test_one_size_that_went_wrong_does_not_decide():
    wrong = STEPS.copy()
    wrong[4] *= 3.0
    assert tradeoff(BATCH, wrong).critical == pytest.approx(tradeoff(BATCH, STEPS).critical, rel=0.15)


@pytest.mark.parametrize(
    ("batch", "steps", "message"),
    [
        (BATCH[:2], STEPS[:2], "batch: has 2 sizes. Have at least three"),
        (BATCH, 1e6 / BATCH, "batch: does not come near where its use ends"),
        (BATCH, 0 * BATCH + 100, "batch: does not come near where its use ends"),
        (BATCH, np.where(BATCH == 64, np.nan, STEPS), "steps: holds what is not a positive number"),
    ],
)
def test_what_does_not_tell_is_refused(batch, steps, message):
    with pytest.raises(SpecError, match=message):
        tradeoff(batch, steps)


def test_a_power_is_numpys_line():
    x, y = np.array([85.0, 151, 302, 604, 1200]), np.array([765.0, 978, 1332, 1969, 2585])
    slopes, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    found = power(x, y)
    assert (found.exponent, np.log(found.coefficient)) == pytest.approx(tuple(slopes))
    assert found.deviation == pytest.approx(np.sqrt(covariance[0, 0]))
    assert found.at(400.0) == pytest.approx(np.exp(np.polyval(slopes, np.log(400.0))))
    with pytest.raises(SpecError, match="fewer than two values"):
        power(x[:1], y[:1])
