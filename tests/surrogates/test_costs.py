"""What a step costs."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pbt.surrogates.costs import log_cost_per_step


def drawn(number, seed=0):
    return np.random.default_rng(seed).random((number, 3))


def test_it_is_ridge_regression():
    """As scikit-learn does it."""
    cube, at = drawn(20), drawn(7, seed=1)
    log_cost = np.random.default_rng(2).normal(size=20)

    def features(x):
        return np.column_stack([x - 0.5, (x - 0.5) ** 2])

    peer = Ridge(alpha=0.05).fit(features(cube), log_cost)
    assert log_cost_per_step(cube, log_cost, at) == pytest.approx(peer.predict(features(at)), abs=1e-9)


def test_one_value_is_that_of_all():
    assert log_cost_per_step(drawn(1), np.array([2.5]), drawn(4, seed=1)) == pytest.approx([2.5] * 4)


def test_costs_that_multiply_are_learned():
    """Layers by width over batch, from thirty configurations, within a sixth."""

    def log_cost(cube):
        return 3.0 * cube[:, 0] + 1.0 * cube[:, 1] - 2.0 * cube[:, 2]

    cube, at = drawn(30), drawn(200, seed=1)
    assert log_cost_per_step(cube, log_cost(cube), at) == pytest.approx(log_cost(at), abs=0.15)


def test_a_formula_is_believed_up_to_a_factor():
    """Also where nobody has been yet."""
    cube, at = drawn(3), drawn(50, seed=1)

    def formula(cube):
        return 4.0 * cube[:, 0] * cube[:, 1]

    told = log_cost_per_step(cube, formula(cube) + 7.0, at, (formula(cube), formula(at)))
    assert told == pytest.approx(formula(at) + 7.0)
