"""Loss curves under schedules: what the formula says, and what a fit to some tells of others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.laws.curves import NAMES, Curve, Moments, _form, fit_curves, predicted
from tests.examples import examples

#: About as the paper has them for 100M parameters.
TRUTH = {"L0": 2.65, "A": 0.6, "alpha": 0.45, "B": 440.0, "C": 1.2, "beta": 0.52, "gamma": 0.5}
PEAK, WARMUP, STEPS = 3e-4, 200, 3000


def schedule(kind, steps=STEPS):
    lr = np.full(steps, PEAK)
    after = np.arange(steps - WARMUP) / (steps - WARMUP)
    if kind == "cosine":
        lr[WARMUP:] = PEAK * (0.1 + 0.45 * (1 + np.cos(np.pi * after)))
    if kind == "step":
        lr[steps // 2 :] = 0.3 * PEAK
    if kind == "decay":
        lr[-steps // 5 :] = np.linspace(PEAK, 0.1 * PEAK, steps // 5)
    lr[:WARMUP] = np.linspace(0.0, PEAK, WARMUP)
    return lr


def formula(lr, at):
    """As it is written, step by step."""
    whole, found = np.cumsum(lr), []
    for t in at:
        loss = TRUTH["L0"] + TRUTH["A"] * whole[t] ** -TRUTH["alpha"]
        for k in range(1, t + 1):
            since = whole[t] - whole[k - 1]
            reached = 1 - (TRUTH["C"] * lr[k] ** -TRUTH["gamma"] * since + 1) ** -TRUTH["beta"]
            loss -= TRUTH["B"] * (lr[k - 1] - lr[k]) * reached
        found.append(loss)
    return np.array(found)


def theta():
    values = np.array([TRUTH[name] for name in NAMES])
    return np.where([name in ("alpha", "beta", "gamma") for name in NAMES], values, np.log(values))


def curve(kind, noise=0.0, steps=STEPS):
    at = np.arange(WARMUP, steps, 64)
    lr = schedule(kind, steps)
    loss = predicted(theta(), Moments.of(lr, at))
    return Curve(lr, at, loss * np.exp(noise * np.random.default_rng(0).normal(size=len(at))))


@pytest.mark.parametrize("kind", ["constant", "cosine", "step", "decay"])
def test_it_is_the_formula_but_for_what_is_taken_together(kind):
    lr, at = schedule(kind), np.array([WARMUP, 777, 1500, 1501, 2999])
    assert predicted(theta(), Moments.of(lr, at)) == pytest.approx(formula(lr, at), abs=3e-4)


@examples(10)
@given(now=st.integers(WARMUP, STEPS - 10), seed=st.integers(0, 100))
def test_what_comes_later_does_not_matter(now, seed):
    """The loss at a moment is the same whatever the learning rates are from then on."""
    lr = schedule("cosine")
    other = lr.copy()
    other[now + 1 :] *= np.random.default_rng(seed).uniform(0.1, 2.0, STEPS - now - 1)
    one, two = (predicted(theta(), Moments.of(it, np.array([now // 2, now]))) for it in (lr, other))
    assert one == pytest.approx(two, abs=3e-4)


def test_slopes_are_those_of_differences():
    form = _form([curve("cosine"), curve("step")])
    for number in range(7):
        way = 1e-6 * np.eye(7)[number]
        risen = (form.evaluate(theta() + way, {}) - form.evaluate(theta() - way, {})) / 2e-6
        assert form.jacobian(theta(), {})[:, number] == pytest.approx(risen, abs=1e-6)


def test_other_schedules_are_told_by_three():
    """Longer ones, and a decay that was never tried."""
    law = fit_curves([curve(it, noise=0.0005) for it in ("constant", "cosine", "step")])
    for other in (curve("decay"), curve("cosine", steps=3 * STEPS)):
        assert law.predict(other.lr, other.at) == pytest.approx(other.loss, rel=2e-3)


def test_curves_give_back_what_made_them():
    """But for `C`, which is held where three schedules hardly tell it."""
    law = fit_curves([curve(it) for it in ("constant", "cosine", "step")])
    assert law.written == pytest.approx(TRUTH | {"C": 1.0}, rel=0.1)
