"""What is begun is to be better than all that was, were it trained to the end."""

import numpy as np
import pytest
import torch

from pbt.surrogates.curves import NOBODY, Values, fit
from pbt.surrogates.futures import log_improvement_over


def stopped_early():
    """Runs that were looked at a decade from the target: what they come to there is not known."""
    rng = np.random.default_rng(0)
    cube = rng.uniform(0, 1, (20, 2))
    depth = np.where(np.arange(20) < 12, 1.0, 0.0)
    badness = (cube[:, 0] - 0.3) ** 2 + 0.3 * depth + 0.02 * rng.normal(size=20)
    return Values(np.arange(20), depth, cube, badness)


@pytest.fixture(scope="module")
def model():
    return fit(stopped_early())


def points(places):
    return torch.from_numpy(np.column_stack([np.full(len(places), NOBODY), np.zeros(len(places)), places]))


def test_it_is_what_draws_of_the_process_say(model):
    """Means over a hundred thousand draws of all places at once, by the process's own posterior."""
    tried, places = stopped_early().cube[:8], np.array([[0.3, 0.5], [0.45, 0.1], [0.25, 0.95]])
    with torch.no_grad():
        joint = model.process.posterior(points(np.concatenate([tried, places]))).distribution
    mean, covariance = joint.mean.numpy(), joint.covariance_matrix.numpy()
    draws = np.random.default_rng(1).multivariate_normal(mean, covariance, 100_000)
    gained = np.maximum(draws[:, :8].min(axis=1, keepdims=True) - draws[:, 8:], 0.0)
    found = np.stack(
        [np.exp(log_improvement_over(model, tried, np.random.default_rng(it))(places)) for it in range(200)]
    )
    error = np.hypot(found.std(axis=0) / np.sqrt(200), gained.std(axis=0) / np.sqrt(100_000))
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - gained.mean(axis=0)), 5.0 * error + 1e-12)


def test_nothing_is_gained_next_to_what_was_tried_however_little_is_known_of_it(model):
    """Nobody has seen the place, and it is as good as any: but whoever goes on with it has that already."""
    best = np.array([[0.3, 0.5]])
    far = stopped_early().cube[[0]]
    next_to, before = best + 1e-4, log_improvement_over(model, far, np.random.default_rng(0))
    after = log_improvement_over(model, np.concatenate([far, best]), np.random.default_rng(0))
    assert before(next_to) - after(next_to) > 3.0


def test_places_may_be_the_same(model):
    """As with a few values of each hyperparameter: the covariance of what was tried has no inverse then."""
    tried = np.repeat([[0.3, 0.5]], 50, axis=0)
    assert np.isfinite(log_improvement_over(model, tried, np.random.default_rng(0))(tried[:2])).all()
