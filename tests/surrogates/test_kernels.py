"""The kernel, against its formula."""

import math

import numpy as np
import pytest
import torch

from pbt.surrogates.kernels import Located, Parameters, covariance

RNG = np.random.default_rng(0)


def located(points, numbers, categories):
    return Located(
        torch.from_numpy(RNG.uniform(0, 10, points)),
        torch.from_numpy(RNG.uniform(0, 1, (points, numbers))),
        torch.from_numpy(RNG.integers(0, 3, (points, categories))),
    )


def parameters(numbers, *, epsilon=0.3, signal=1.7, mix=0.4, noise=0.1):
    return Parameters(
        scales=torch.from_numpy(RNG.uniform(0.2, 2.0, numbers)),
        signal=torch.tensor(signal, dtype=torch.float64),
        decay=torch.tensor(-math.log(1 - epsilon) / 2, dtype=torch.float64),
        mix=torch.tensor(mix, dtype=torch.float64),
        noise=torch.tensor(noise, dtype=torch.float64),
    )


def by_hand(a, b, i, j, known):
    """The formula, one pair of points at a time, in plain Python."""
    near = math.exp(
        -sum(
            ((float(x) - float(y)) / float(scale)) ** 2
            for x, y, scale in zip(a.numbers[i], b.numbers[j], known.scales, strict=True)
        )
        / 2
    )
    pairs = list(zip(a.categories[i].tolist(), b.categories[j].tolist(), strict=True))
    equal = sum(x == y for x, y in pairs) / len(pairs) if pairs else 0.0
    mix = float(known.mix)
    if not pairs:
        similar = near
    elif a.numbers.shape[1] == 0:
        similar = equal
    else:
        similar = (1 - mix) * (near + equal) / 2 + mix * near * equal
    return float(known.signal) * similar * (1 - known.epsilon) ** (abs(float(a.times[i] - b.times[j])) / 2)


@pytest.mark.parametrize(("numbers", "categories"), [(1, 0), (3, 0), (0, 2), (2, 1), (2, 3)])
def test_it_is_the_formula(numbers, categories):
    """Decay in time as `(1 - eps)^(|t - t'| / 2)`, squared exponential of numbers, overlap of categories, mixed."""
    known = parameters(numbers)
    a, b = located(4, numbers, categories), located(5, numbers, categories)
    expected = [[by_hand(a, b, i, j, known) for j in range(5)] for i in range(4)]
    np.testing.assert_allclose(covariance(a, b, known).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("categories", [0, 2])
@pytest.mark.parametrize("mix", [0.01, 0.5, 0.99])
def test_a_point_varies_as_much_as_the_signal(categories, mix):
    """Whatever the mix."""
    a, known = located(3, 2, categories), parameters(2, mix=mix)
    np.testing.assert_allclose(covariance(a, a, known).diagonal().numpy(), 1.7, rtol=1e-12)


def test_two_segments_later_a_value_counts_one_less_epsilon():
    """By hand: eps = 0.2, the same hyperparameters, two segments apart: 0.8."""
    here = Located(
        torch.tensor([0.0, 2.0], dtype=torch.float64),
        torch.zeros(2, 1, dtype=torch.float64),
        torch.zeros(2, 0, dtype=torch.int64),
    )
    known = parameters(1, epsilon=0.2, signal=1.0)
    np.testing.assert_allclose(covariance(here, here, known).numpy(), [[1.0, 0.8], [0.8, 1.0]], rtol=1e-12)


def test_it_is_positive_definite():
    """As a covariance is."""
    a = located(40, 3, 2)
    values = torch.linalg.eigvalsh(covariance(a, a, parameters(3)))
    assert values.min() > -1e-10
