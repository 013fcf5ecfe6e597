"""The Gaussian process: what it expects, what it learns of the noise, and that it leaves no traces."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pbt.surrogates.gaussian import Points, fit
from pbt.surrogates.kernels import SegmentKernel
from pbt.surrogates.process import winsorised


def points(number, *, numbers=1, categories=0, seed=0):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 10, number)).astype(float)
    cube = rng.uniform(0, 1, (number, numbers))
    return Points(times, -np.sqrt(times + 1.0), cube, rng.integers(0, 2, (number, categories)))


def targets(at, noise, seed=1):
    """A smooth function of the first number, with noise of a standard deviation."""
    return np.sin(4.0 * at.cube[:, 0]) + noise * np.random.default_rng(seed).normal(size=len(at))


def matrix(known, a, b, at):
    """The kernel, in numpy; scores before are scaled as they are at some points."""
    low, span = at.before.min(), np.ptp(at.before)
    first, second = (np.column_stack([(it.before - low) / span, it.cube]) for it in (a, b))
    gaps = (first[:, None] - second[None]) / known.scales.numpy()
    near = np.exp(-(gaps**2).sum(-1) / 2)
    if a.categories.shape[1]:
        equal = (a.categories[:, None] == b.categories[None]).mean(-1)
        mix = float(known.mix)
        near = (1 - mix) * (near + equal) / 2 + mix * near * equal
    return float(known.signal) * near * (1 - known.epsilon) ** (np.abs(a.times[:, None] - b.times[None]) / 2)


def explicit(model, at, values, new):
    """Mean and deviation by equations 2.25 and 2.26 of Rasmussen and Williams, in numpy and with an inverse."""
    known, mean, deviation = model.process.covar_module, values.mean(), values.std()
    noise = (model.noise / deviation) ** 2
    inverse = np.linalg.inv(matrix(known, at, at, at) + noise * np.eye(len(at)))
    between = matrix(known, new, at, at)
    expected = mean + deviation * (between @ inverse @ ((values - mean) / deviation))
    variance = np.diag(matrix(known, new, new, at) - between @ inverse @ between.T)
    return expected, deviation * np.sqrt(variance)


def density(at, values, raw, log_noise):
    """Log of the posterior density of parameters but for a constant, by scipy: likelihood, and what is usual."""
    known = SegmentKernel(1 + at.cube.shape[1]).requires_grad_(False)
    known.raw[:] = torch.from_numpy(raw)
    covariance = matrix(known, at, at, at) + math.exp(log_noise) * np.eye(len(at))
    likelihood = multivariate_normal(cov=covariance).logpdf((values - values.mean()) / values.std())
    scales = len(raw) - 3
    usual = np.array([0, math.log(0.025), 0, *[math.sqrt(2) + math.log(scales) / 2] * scales])
    away = (raw - usual) / np.array([1, 1, 1, *[math.sqrt(3)] * scales])
    return likelihood - (away**2).sum() / 2 - ((log_noise + 2.5) / 1.5) ** 2 / 2


@pytest.mark.parametrize("categories", [0, 2])
def test_expectations_are_those_of_the_textbook(categories):
    """Against the explicit inverse of the kernel matrix."""
    at, new = points(25, numbers=2, categories=categories), points(7, numbers=2, categories=categories, seed=5)
    new = Points(new.times, at.before[:7], new.cube, new.categories)
    values = targets(at, 0.3)
    model = fit(at, values)
    for found, expected in zip(model.predict(new), explicit(model, at, values, new), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("categories", [0, 2])
def test_parameters_are_the_most_probable(categories):
    """Where the posterior density, written out, does not grow in any direction."""
    at = points(30, numbers=2, categories=categories)
    values = targets(at, 0.3)
    model = fit(at, values)
    raw, noise = model.process.covar_module.raw.numpy(), 2 * math.log(model.noise / values.std())
    best = density(at, values, raw, noise)
    for direction in np.eye(len(raw) + 1):
        for step in (-0.1, 0.1):
            away = step * direction
            assert density(at, values, raw + away[:-1], noise + away[-1]) < best


@pytest.mark.parametrize("noise", [0.05, 0.2, 1.0])
def test_the_noise_is_found(noise):
    """Within a factor of 1.5, from 80 observations."""
    at = points(80)
    assert noise / 1.5 < fit(at, targets(at, noise)).noise < noise * 1.5


def test_a_fixed_noise_is_not_learned():
    """For comparison only."""
    at = points(30)
    values = targets(at, 0.3)
    assert fit(at, values, noise=1e-4).noise == pytest.approx(1e-2 * values.std())


def test_a_change_in_time_is_noticed():
    """Where the function is another one in every segment, epsilon is large; where it stays, it is small."""
    rng = np.random.default_rng(3)
    times = np.repeat(np.arange(12.0), 8)
    at = Points(times, np.zeros(96), rng.uniform(0, 1, (96, 1)), np.zeros((96, 0), dtype=np.int64))
    phases = rng.uniform(0, 6, 12)[times.astype(int)]
    changing, steady = np.sin(6 * at.cube[:, 0] + phases), np.sin(6 * at.cube[:, 0])
    found = [fit(at, it + 0.05 * rng.normal(size=96)).process.covar_module.epsilon for it in (changing, steady)]
    assert found[0] > 0.3
    assert found[1] < 0.05


def test_what_is_pending_is_no_news_but_certain():
    """Expectations stay, doubts shrink: most there, nowhere to more than they were."""
    at, pending, new = points(20), points(4, seed=8), points(30, seed=9)
    model = fit(at, targets(at, 0.2))
    later = model.with_pending(pending)
    (mean, deviation), (same, less) = model.predict(new), later.predict(new)
    np.testing.assert_allclose(mean, same, rtol=1e-6)
    assert (less <= deviation + 1e-12).all()
    assert (later.predict(pending)[1] < 0.9 * model.predict(pending)[1]).all()
    assert model.with_pending(points(0)) is model


def test_the_same_data_give_the_same_model_and_nothing_else_changes():
    """No generator is asked, the number of threads is what it was, and gradients may be off."""
    at = points(30, categories=1)
    values = targets(at, 0.1)
    torch.manual_seed(1)
    before, state, threads = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    with torch.no_grad():
        first = fit(at, values).predict(at)
    torch.manual_seed(1)
    second = fit(at, values).predict(at)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert torch.equal(before, torch.get_rng_state())
    assert (state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert threads == torch.get_num_threads()


def test_it_fits_with_one_thread(monkeypatch):
    """Whatever the number is outside, which comes back afterwards, even after an error."""
    told = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    at = points(5)
    fit(at, targets(at, 0.1))
    assert told == [1, 7]
    with pytest.raises((RuntimeError, ValueError)):
        fit(at, np.arange(4.0))
    assert told == [1, 7, 1, 7]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_units_do_not_matter(scale):
    """Targets are standardised: in other units the same is expected."""
    at = points(20)
    values = targets(at, 0.1)
    plain, scaled = fit(at, values).predict(at), fit(at, scale * values).predict(at)
    for one, other in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(scale * one, other, rtol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_few_or_equal_observations_do_no_harm(number):
    """One observation, all targets equal, all points equal: finite numbers all the same."""
    at = points(number)
    alike = Points(at.times * 0, at.before * 0, at.cube * 0, at.categories)
    for where in (at, alike):
        for values in (np.zeros(number), np.arange(number, dtype=float)):
            assert all(np.isfinite(it).all() for it in fit(where, values).predict(at))


def test_one_loss_out_of_all_proportion_does_not_hide_the_others():
    """Cut off at five robust standard deviations from the median."""
    values = np.array([0.0, 1.0, 2.0, 3.0, -1e30])
    expected = 1.0 - 5 * 1.4826 * 1.0
    np.testing.assert_allclose(winsorised(values), [0.0, 1.0, 2.0, 3.0, expected])
    mostly = np.array([2.0, 2.0, 2.0, 9.0])
    assert (winsorised(mostly) == mostly).all()
    at = points(40)
    gains = targets(at, 0.05)
    gains[3] = -1e30
    mean, _ = fit(at, gains).predict(at)
    assert np.corrcoef(mean, np.sin(4.0 * at.cube[:, 0]))[0, 1] > 0.9


def test_a_score_that_is_infinite_is_one_that_is_large():
    """A donor's may be."""
    at = points(10)
    model = fit(at, targets(at, 0.1))
    here = Points(np.array([3.0]), np.array([math.inf]), np.array([[0.5]]), np.zeros((1, 0), dtype=np.int64))
    assert all(np.isfinite(it).all() for it in model.predict(here))
