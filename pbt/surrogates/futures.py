"""What places that were tried may come to at the target: so many draws, and what each would say of other places.

Whatever is begun is to be better than all that could be trained to the end instead: those that are under way, and those
that rest with the best still before them. A place next to one of them comes to about the same, in every draw: there is
no improvement in it, and those that are begun at once do not crowd.

Sources: Letham et al. 2019, "Constrained Bayesian Optimization with Noisy Experiments" (arXiv 1706.07094), section 4:
expected improvement over what is not known for certain; Ament et al. 2023 (arXiv 2310.20708), of its logarithm.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pbt.surrogates.curves import NOBODY, Curves
from pbt.surrogates.improvement import Ground, best_place, log_h
from pbt.surrogates.threads import one_thread

#: Draws; and so many of the best places that were tried are drawn at once.
_DRAWS, _MOST = 32, 200
#: Added to the variances of what is drawn, in units of the largest: places may lie next to each other.
_JITTER = 1e-6
#: Below this variance a place is known.
_KNOWN = 1e-12


def most_per_cost(
    model: Curves,
    best_first: np.ndarray,
    log_cost: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    ground: Ground,
) -> np.ndarray:
    """The place with the highest improvement that is expected at the target over all that were tried, per cost.

    Args:
        model: What is known.
        best_first: Places that were tried, also those that nobody has seen yet, `(places, numbers)`.
        log_cost: Of places `(places, numbers)`: the logarithm of their cost, `(places,)`.
        rng: Of the draws, and of the places that are considered.
        ground: Where places can be.
    """
    improvement = log_improvement_over(model, best_first[:_MOST], rng)
    return best_place(lambda places: improvement(places) - log_cost(places), best_first, rng, ground)


def log_improvement_over(
    model: Curves, tried: np.ndarray, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    """The logarithm of the improvement that is expected of places, over the best of those tried, all at the target.

    Args:
        model: What is known.
        tried: `(places, numbers)`, at least one.
        rng: Of the draws.

    Returns:
        Takes places `(places, numbers)`, gives `(places,)`.
    """
    with one_thread(), torch.no_grad():
        at = _at_target(tried)
        mean, projected = _projected(model, at)
        covariance = model.kernel(at, at) - projected.mT @ projected
        jitter = _JITTER * float(covariance.diagonal().max().clamp_min(_KNOWN))
        root = torch.linalg.cholesky(covariance + jitter * torch.eye(len(at), dtype=at.dtype))
        normal = torch.from_numpy(rng.standard_normal((len(at), _DRAWS)))
        lowest = (mean[:, None] + root @ normal).min(dim=0).values

    def of(places: np.ndarray) -> np.ndarray:
        with one_thread(), torch.no_grad():
            here = _at_target(places)
            expected, own = _projected(model, here)
            cross = model.kernel(at, here) - projected.mT @ own
            told = torch.linalg.solve_triangular(root, cross, upper=False)
            variance = model.variance(here) - own.square().sum(dim=0) - told.square().sum(dim=0)
            deviation = variance.clamp_min(_KNOWN).sqrt()[:, None]
            gain = lowest - expected[:, None] - told.mT @ normal
            logs: Tensor = deviation.log() + log_h(gain / deviation)
            return (logs.logsumexp(dim=1) - np.log(_DRAWS)).numpy()

    return of


def _projected(model: Curves, at: Tensor) -> tuple[Tensor, Tensor]:
    """What is expected of points, `(points,)`, and what each value, whitened, tells of them, `(values, points)`."""
    root, weights = model.solved
    cross = model.kernel(model.at, at)
    return cross.mT @ weights, torch.linalg.solve_triangular(root, cross, upper=False)


def _at_target(places: np.ndarray) -> Tensor:
    return torch.from_numpy(np.column_stack([np.full(len(places), NOBODY), np.zeros(len(places)), places]))
