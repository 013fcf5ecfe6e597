"""The kernel, against its formula."""

import math

import numpy as np
import pytest
import torch

from pbt.surrogates.kernels import SegmentKernel

RNG = np.random.default_rng(0)


def located(points, numbers, categories):
    """Times, numbers, categories."""
    columns = [
        RNG.uniform(0, 10, points),
        RNG.uniform(0, 1, (points, numbers)),
        RNG.integers(0, 3, (points, categories)),
    ]
    return torch.from_numpy(np.column_stack(columns))


def kernel(numbers, *, epsilon=0.3, signal=1.7, mix=0.4):
    found = SegmentKernel(numbers).requires_grad_(False)
    found.raw[:3] = torch.tensor([math.log(signal), math.log(-math.log(1 - epsilon) / 2), math.log(mix / (1 - mix))])
    found.raw[3:] = torch.from_numpy(RNG.uniform(-1.6, 0.7, numbers))
    return found


def dense(known, first, second):
    return known(first, second).to_dense().numpy()


def by_hand(a, b, known, numbers):
    """The formula, for one pair of points, in plain Python."""
    a, b, scales = a.tolist(), b.tolist(), known.scales.tolist()
    near = math.exp(-sum(((x - y) / it) ** 2 for x, y, it in zip(a[1:], b[1:], scales, strict=False)) / 2)
    pairs = list(zip(a[1 + numbers :], b[1 + numbers :], strict=True))
    equal, mix = sum(x == y for x, y in pairs) / max(len(pairs), 1), float(known.mix)
    similar = (1 - mix) * (near + equal) / 2 + mix * near * equal if pairs else near
    return float(known.signal) * similar * (1 - known.epsilon) ** (abs(a[0] - b[0]) / 2)


@pytest.mark.parametrize(("numbers", "categories"), [(1, 0), (3, 0), (2, 1), (2, 3)])
def test_it_is_the_formula(numbers, categories):
    """Decay in time as `(1 - eps)^(|t - t'| / 2)`, squared exponential of numbers, overlap of categories, mixed."""
    known = kernel(numbers)
    a, b = located(4, numbers, categories), located(5, numbers, categories)
    expected = [[by_hand(first, second, known, numbers) for second in b] for first in a]
    np.testing.assert_allclose(dense(known, a, b), expected, rtol=1e-12)


@pytest.mark.parametrize("categories", [0, 2])
@pytest.mark.parametrize("mix", [0.01, 0.5, 0.99])
def test_a_point_varies_as_much_as_the_signal(categories, mix):
    """Whatever the mix; also where only the diagonal is asked for."""
    a, known = located(3, 2, categories), kernel(2, mix=mix)
    for diagonal in (np.diagonal(dense(known, a, a)), known(a, diag=True).numpy()):
        np.testing.assert_allclose(diagonal, 1.7, rtol=1e-6)


def test_two_segments_later_a_value_counts_one_less_epsilon():
    """By hand: eps = 0.2, the same hyperparameters, two segments apart: 0.8."""
    here = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    known = kernel(1, epsilon=0.2, signal=1.0)
    np.testing.assert_allclose(dense(known, here, here), [[1.0, 0.8], [0.8, 1.0]], rtol=1e-6)


def test_it_is_positive_definite():
    """As a covariance is."""
    a = located(40, 3, 2)
    assert np.linalg.eigvalsh(dense(kernel(3), a, a)).min() > -1e-10


def test_points_in_batches_have_what_they_have_alone():
    """As botorch asks for them: `(batch, points, columns)`."""
    known, a, b = kernel(2), located(6, 2, 1), located(5, 2, 1)
    batch = known(a[:, None], b.expand(6, 5, -1)).to_dense()
    assert batch.shape == (6, 1, 5)
    np.testing.assert_allclose(batch[:, 0].numpy(), dense(known, a, b), rtol=1e-12)
