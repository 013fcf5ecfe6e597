"""The posterior density of parameters, and its gradient."""

import math

import numpy as np
import pytest
import torch

from pbt.surrogates.evidence import JITTER, Evidence, Layout
from pbt.surrogates.kernels import Located, covariance


def located(categories, number=12):
    rng = np.random.default_rng(0)
    return Located(
        torch.from_numpy(rng.uniform(0, 5, number)),
        torch.from_numpy(rng.uniform(0, 1, (number, 3))),
        torch.from_numpy(rng.integers(0, 3, (number, categories))),
    )


def density(layout, at, targets, vector):
    """Minus the log of likelihood times prior, with the kernel's own function and torch's normal distributions."""
    known = layout.parameters(vector)
    noisy = covariance(at, at, known) + (known.noise + JITTER) * torch.eye(len(targets), dtype=torch.float64)
    zero = torch.zeros(len(targets), dtype=torch.float64)
    likelihood = torch.distributions.MultivariateNormal(zero, noisy).log_prob(targets)
    means, deviations = (torch.from_numpy(it) for it in layout.prior())
    return ((vector - means) / deviations).square().sum() / 2 - likelihood


@pytest.mark.parametrize("categories", [0, 2])
@pytest.mark.parametrize("noise", [None, 0.01])
def test_value_and_gradient_are_those_of_autograd(categories, noise):
    """At random parameters."""
    rng = np.random.default_rng(1)
    layout, at = Layout(3, noise), located(categories)
    targets = torch.from_numpy(rng.normal(size=12))
    evidence = Evidence(layout, at, targets)
    for _ in range(5):
        vector = torch.from_numpy(layout.prior()[0] + rng.normal(size=7)).requires_grad_()
        expected = density(layout, at, targets, vector)
        expected.backward()
        value, gradient = evidence(vector.detach().numpy())
        assert value == pytest.approx(float(expected.detach()), rel=1e-9)
        np.testing.assert_allclose(gradient, vector.grad.numpy(), rtol=1e-7, atol=1e-8)


def test_the_prior_in_words():
    """The middle of the prior on epsilon is 0.05."""
    layout = Layout(1)
    known = layout.parameters(torch.from_numpy(layout.prior()[0]))
    assert known.epsilon == pytest.approx(1 - math.exp(-0.05))
