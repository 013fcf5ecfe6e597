"""Information about the best, against samples and closed forms."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from pbt.surrogates.entropy import below, information, lowest_values

HALF = 0.5 * math.log(2.0 * math.pi * math.e)


@pytest.mark.parametrize("correlation", [-0.7, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("g", [-2.0, 0.0, 1.0, 3.0])
def test_it_is_the_fall_of_entropy(g, correlation):
    """By another quadrature, of the density as it stands in the paper."""
    rest = math.sqrt(1.0 - correlation**2)

    def density(z):
        return norm.pdf(z) * norm.cdf((g + correlation * z) / rest) / norm.cdf(g)

    def loss(z):
        p = density(z)
        return -p * math.log(p) if p > 0 else 0.0

    entropy = quad(loss, -9.0, 9.0, limit=400)[0]
    close = 2e-3 if correlation < 0.99 else 2e-2  # an edge nearly as sharp as the grid
    assert information(np.array(g), np.array(correlation)) == pytest.approx(HALF - entropy, abs=close)


def test_at_the_target_without_noise_it_is_that_of_a_truncated_normal():
    """Wang & Jegelka 2017, equation 6: g phi(g) / (2 Phi(g)) - log Phi(g)."""
    g = np.array([-1.0, 0.0, 0.5, 2.0])
    expected = g * norm.pdf(g) / (2.0 * norm.cdf(g)) - norm.logcdf(g)
    np.testing.assert_allclose(information(g, np.full(4, 0.99999)), expected, atol=0.07)  # an edge, and a grid


def test_what_has_nothing_to_do_with_the_target_tells_nothing():
    np.testing.assert_allclose(information(np.linspace(-3.0, 3.0, 7), np.zeros(7)), 0.0, atol=1e-6)


def test_the_more_alike_the_more_it_tells():
    told = information(np.zeros(5), np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    assert (np.diff(told) > 0).all()


def test_it_is_what_samples_say():
    """Mutual information with the event that the place is the best, of samples put into bins."""
    rng, correlation, g = np.random.default_rng(0), 0.8, 0.5
    f = rng.normal(size=2_000_000)
    y = correlation * f + math.sqrt(1.0 - correlation**2) * rng.normal(size=len(f))
    kept = y[f >= -g]

    def entropy(values):
        share, edges = np.histogram(values, bins=200, range=(-6.0, 6.0), density=True)
        share = share[share > 0]
        return -(share * np.log(share)).sum() * (edges[1] - edges[0])

    assert information(np.array(g), np.array(correlation)) == pytest.approx(entropy(y) - entropy(kept), abs=5e-3)


def test_lowest_values_are_distributed_like_the_lowest():
    """Of forty independent places: quartiles within a twentieth of a deviation."""
    rng = np.random.default_rng(1)
    mean, deviation = rng.normal(size=40), rng.uniform(0.2, 1.0, size=40)
    drawn = lowest_values(mean, deviation, 20_000, rng)
    real = (mean + deviation * rng.normal(size=(20_000, 40))).min(axis=1)
    np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5, 0.75]), np.quantile(real, [0.25, 0.5, 0.75]), atol=0.05)


def test_how_far_below_is_counted_in_deviations():
    found = below(np.array([1.0, 0.0]), np.array([0.5, 2.0]), np.array([0.0, -1.0]))
    np.testing.assert_allclose(found, [[2.0, 4.0], [0.0, 0.5]])
