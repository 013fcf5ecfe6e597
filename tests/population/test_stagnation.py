"""Whether a population still gets better."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from pbt.population import stagnation
from pbt.population.stagnation import has_improved, is_too_slow, smoothed, standardised
from tests.examples import examples

finite = st.floats(-1e300, 1e300)
moderate = st.floats(-1e6, 1e6)


def reference(values, length, noise):
    """Log likelihood and smoothed values, by scikit-learn, under the variance that is most likely."""
    times = np.linspace(0.0, 1.0, len(values))[:, None]
    unscaled = Matern(length, nu=2.5)(times) + noise * np.eye(len(values))
    scale = float(values @ np.linalg.solve(unscaled, values)) / len(values)
    kernel = ConstantKernel(scale) * Matern(length, nu=2.5) + WhiteKernel(scale * noise)
    model = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(times, values)
    weights = np.linalg.solve(kernel(times), values)
    return model.log_marginal_likelihood_value_, scale * Matern(length, nu=2.5)(times) @ weights


@pytest.mark.parametrize("seed", range(4))
def test_smoothing_agrees_with_scikit_learn(seed):
    """The best of the grid by its likelihoods, and its mean there."""
    rng = np.random.default_rng(seed)
    values = standardised(np.sqrt(np.arange(9 + seed)) + 0.3 * rng.normal(size=9 + seed))
    grid = [(length, noise) for length in stagnation._LENGTHS for noise in stagnation._NOISES]
    likelihood, wanted = max((reference(values, *pair) for pair in grid), key=lambda found: found[0])
    assert math.isfinite(likelihood)
    np.testing.assert_allclose(smoothed(values), wanted, atol=1e-8)


def test_two_scores_decide_by_themselves():
    """There is nothing to smooth."""
    assert has_improved([1.0, 1.1])
    assert not has_improved([1.1, 1.0])
    assert not has_improved([1.0, 1.0])


def test_noise_around_a_rise_is_no_end_of_it():
    """One bad score in a rise is smoothed away, and one good one on a plateau is no rise."""
    rise = [float(step) for step in range(10)]
    assert has_improved([*rise, 9.9, 9.8])
    decline = [10.0 - 0.5 * step for step in range(10)]
    assert not has_improved([*decline, 5.6])


def test_a_slow_rise_by_hand():
    """Of 0, 0, 0, 3 the standard deviation is 1.5: in the last two steps the best rises from 0 to 3, by two of them."""
    assert not is_too_slow([0.0, 0.0, 0.0, 3.0], steps=3)
    assert is_too_slow([0.0, 3.0, 3.0, 3.0], steps=3)
    assert not is_too_slow([0.0, 3.0], steps=3)  # too few to say


@examples(60)
@given(st.lists(moderate, min_size=2, max_size=12), st.floats(0.1, 100.0), moderate)
def test_units_make_no_difference(scores, factor, offset):
    """Scores in other units, from another zero, decide the same, unless rounding decides."""
    known = standardised(scores)
    before, last = smoothed(known)[-2:] if known.any() else (0.0, 0.0)
    if abs(last - before) > 1e-6 and np.std(scores) > 1e-3:
        assert has_improved([factor * score + offset for score in scores]) == has_improved(scores)


@given(st.lists(finite, min_size=2, max_size=30).map(sorted), st.integers(2, 15))
def test_what_is_alike_has_not_improved(scores, steps):
    """And a plateau is too slow."""
    plateau = [scores[0]] * len(scores)
    assert not has_improved(plateau)
    assert is_too_slow(plateau, steps) == (len(plateau) >= steps)
