"""Fits of laws: what was put in comes out, and nobody else finds anything better."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from pbt.errors import SpecError
from pbt.laws.fit import THRESHOLD, Data, fit, huber, refit
from pbt.laws.forms import form_of
from tests.examples import examples

#: As Besiroglu et al. 2024 found them.
TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def measured(noise=0.0, rows=120, seed=0, **changes):
    """Losses of models of 100 million to 10 billion parameters, on 1 to 300 billion tokens."""
    truth, rng = {**TRUTH, **changes}, np.random.default_rng(seed)
    params, tokens = 10 ** rng.uniform(8, 10, rows), 10 ** rng.uniform(9, 11.5, rows)
    loss = truth["E"] + truth["A"] / params ** truth["alpha"] + truth["B"] / tokens ** truth["beta"]
    return Data.of(
        form_of("chinchilla"), {"params": params, "tokens": tokens}, loss * np.exp(noise * rng.standard_t(4, rows))
    )


@pytest.fixture(scope="module")
def noisy():
    data = measured(noise=0.002)
    return fit(form_of("chinchilla"), data, starts=1024)


@examples(5)
@given(alpha=st.floats(0.2, 0.6), beta=st.floats(0.2, 0.6), e=st.floats(0.5, 2.5), seed=st.integers(0, 1000))
def test_without_noise_what_was_put_in_comes_out(alpha, beta, e, seed):
    """With coefficients that make both terms matter."""
    truth = {"E": e, "alpha": alpha, "beta": beta, "A": 0.5 * 1e9**alpha, "B": 0.5 * 2e10**beta}
    found = fit(form_of("chinchilla"), measured(seed=seed, **truth), starts=512)
    assert found.objective < 1e-12
    assert found.written == pytest.approx(truth, rel=1e-3)


def test_nobody_finds_anything_better(noisy):
    """Not scipy's L-BFGS, from where it was begun or from what was found."""
    data, form = noisy.data, noisy.form

    def objective(theta):
        return 1e6 * huber(data.y - form.evaluate(theta, data.x)).sum()

    begun = [*form.starts(12, np.random.default_rng(1), data.y), noisy.theta]
    reached = [minimize(objective, theta, method="L-BFGS-B", options={"maxiter": 5000}).fun for theta in begun]
    assert noisy.objective <= min(reached) / 1e6 * (1 + 1e-9)
    assert noisy.objective == pytest.approx(reached[-1] / 1e6, rel=1e-6)


def test_what_is_found_is_a_minimum(noisy):
    """Its slope is nothing: the pull of rows that are near, and of those that are far, which is constant."""
    pull = np.clip(noisy.residuals, -THRESHOLD, THRESHOLD)
    slope = noisy.form.jacobian(noisy.theta, noisy.data.x).T @ pull
    assert np.abs(slope).max() < 1e-7


def test_weights_are_how_often_a_row_is_there(noisy):
    """A bootstrap's refit is a fit to the rows that were drawn, and comes from the whole's in a few steps."""
    drawn = np.random.default_rng(3).integers(len(noisy.data.y), size=len(noisy.data.y))
    weights = np.bincount(drawn, minlength=len(noisy.data.y)).astype(float)[None]
    (theta,) = refit(noisy.form, noisy.data, weights, noisy.theta)
    rows = {name: values[drawn] for name, values in noisy.data.x.items()}
    again = fit(noisy.form, Data(rows, noisy.data.centre, noisy.data.y[drawn]), starts=512)
    np.testing.assert_allclose(theta, again.theta, atol=1e-5)


def test_one_row_that_is_far_off_changes_next_to_nothing(noisy):
    loss = np.exp(noisy.data.y)
    loss[0] *= 3.0
    inputs = {name: np.exp(values + noisy.data.centre[name]) for name, values in noisy.data.x.items()}
    again = fit(noisy.form, Data.of(noisy.form, inputs, loss), starts=512)
    for name in ("E", "alpha", "beta"):
        assert again.written[name] == pytest.approx(noisy.written[name], rel=0.05)


def test_where_tokens_say_nothing_other_parameters_fit_as_well():
    """All were trained on as many: what tokens are too few for cannot be told from what cannot be avoided."""
    rng = np.random.default_rng(0)
    params = 10 ** rng.uniform(8, 10, 60)
    loss = 1.8 + 482.0 / params**0.35
    found = fit(
        form_of("chinchilla"),
        Data.of(form_of("chinchilla"), {"params": params, "tokens": np.full(60, 1e10)}, loss),
        starts=512,
    )
    assert found.written["alpha"] == pytest.approx(0.35, abs=0.01)
    assert np.abs(found.residuals).max() < 1e-5


def test_a_law_that_is_not_there():
    with pytest.raises(SpecError, match="chinchilla"):
        form_of("chinchila")


def test_predictions_are_losses(noisy):
    loss = noisy.predict({"params": np.array([1e9, 1e12]), "tokens": np.array([2e10, 1e14])})
    assert loss[0] == pytest.approx(TRUTH["E"] + TRUTH["A"] / 1e9**0.3478 + TRUTH["B"] / 2e10**0.3658, rel=0.01)
    assert loss[1] == pytest.approx(TRUTH["E"], rel=0.05)
