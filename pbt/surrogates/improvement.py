"""Where to try next: the most improvement that can be expected of a run that is trained to the end.

It is improvement over the best place so far, whose value is not known for certain either. What the two have in common,
such as how far values fall after all that was seen, is no reason to try one: with `m` the difference of the two means
and `s` the deviation of the difference, the expected improvement is `s h(m / s)` with `h(u) = phi(u) + u Phi(u)`. Its
logarithm is what is maximised: on a scrambled Sobol sequence and around the best, and then uphill.

Source: Ament et al. 2023, "Unexpected Improvements to Expected Improvement for Bayesian Optimization" (arXiv
2310.20708), of the logarithm, equation 9 of which is the way to compute it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.optim import optimize_acqf
from torch import Tensor
from torch.quasirandom import SobolEngine

from pbt.surrogates.curves import NOBODY, Curves, Values
from pbt.surrogates.threads import one_thread

#: Points of the Sobol sequence, a power of two; how many of the best places others are tried around, and how many of
#: them; how many places are moved uphill, and by how many steps.
_POOL, _BEST, _AROUND = 512, 6, 32
_STARTS, _STEPS = 4, 30
#: Standard deviation of the places around one, in the unit cube.
_NEAR = 0.1
#: Below this deviation, in units of all that was seen, a difference is known.
_KNOWN = 1e-6


class Ground(Protocol):
    """Where places can be."""

    def sample(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Places drawn from it, `(number, numbers)`."""

    def snapped(self, places: np.ndarray) -> np.ndarray:
        """Places `(places, numbers)`, each moved to the nearest that can be had."""


class Improvement(AcquisitionFunction):
    """Logarithm of the improvement that is expected at points, over one of them.

    Args:
        model: Of what is expected; low is good.
        best: The point, `(columns,)`.
    """

    def __init__(self, model: Curves, best: Tensor) -> None:
        super().__init__(model.process)
        self.best = best

    def forward(self, X: Tensor) -> Tensor:
        """Of points `(batch, 1, columns)`, each by itself: `(batch,)`."""
        known = self.model.posterior(torch.cat([X, self.best.expand_as(X)], dim=-2))
        mean, covariance = known.mean[..., 0], known.distribution.covariance_matrix
        variance = covariance[..., 0, 0] + covariance[..., 1, 1] - 2.0 * covariance[..., 0, 1]
        deviation = variance.clamp_min(_KNOWN**2).sqrt()
        return deviation.log() + log_h((mean[..., 1] - mean[..., 0]) / deviation)


def most_promising(
    model: Curves, values: Values, pending: np.ndarray, seed: int, snap: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The place in the cube with the highest expected improvement at the target, `(numbers,)`.

    Args:
        model: Fitted to the values.
        values: What was seen.
        pending: Where runs are under way, `(runs, numbers)`.
        seed: Of the places that are considered.
        snap: Takes places `(places, numbers)` to the nearest that can be had.
    """
    with one_thread():
        tried = np.concatenate([values.cube[np.unique(values.run, return_index=True)[1]], pending])
        expected, _ = model.predict(*_at_target(tried))
        best_first = tried[np.argsort(expected, kind="stable")]
        improvement = Improvement(model.with_pending(*_at_target(pending)), _points(best_first[:1])[0])

        def of(places: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return improvement(_points(places)[:, None]).numpy()

        pool = _others(snap(_pool(best_first[:_BEST], seed)), tried)
        starts = pool[np.argsort(-of(pool), kind="stable")[:_STARTS]]
        reached = np.concatenate([starts, _others(snap(_uphill(improvement, starts)), tried)])
        return reached[np.argmax(of(reached))]


def best_place(
    of: Callable[[np.ndarray], np.ndarray],
    best_first: np.ndarray,
    rng: np.random.Generator,
    ground: Ground,
) -> np.ndarray:
    """The place, not tried yet, where a function is highest, `(numbers,)`.

    Args:
        of: Takes places `(places, numbers)`, gives `(places,)`.
        best_first: Places that were tried, `(places, numbers)`.
        rng: Of the places that are considered: all over and around the best, and then twice more around the highest.
        ground: Where places can be.
    """
    near_best = ground.snapped(around(best_first[:_BEST], 24, _NEAR, rng))
    places = _others(np.concatenate([ground.sample(_POOL // 2, rng), near_best]), best_first)
    for near in (_NEAR / 2, _NEAR / 6):
        top = places[np.argsort(-of(places), kind="stable")[:8]]
        places = np.concatenate([top, _others(ground.snapped(around(top, 12, near, rng)), best_first)])
    return np.asarray(places[of(places).argmax()])


def log_improvement(gain: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Logarithm of the improvement that is expected: of gains that are normal, what of them is above 0.

    Args:
        gain: How much is expected, `(places,)`.
        deviation: How sure that is, `(places,)`.
    """
    known = torch.from_numpy(np.maximum(deviation, _KNOWN))
    return np.asarray((known.log() + log_h(torch.from_numpy(gain) / known)).numpy())


def around(places: np.ndarray, number: int, near: float, rng: np.random.Generator) -> np.ndarray:
    """So many places around each, in the cube: some of their numbers are moved, by `near` in the mean square."""
    here = np.repeat(places, number, axis=0)
    moves = rng.random(here.shape) < max(0.5, 2.0 / here.shape[1])
    return np.clip(here + moves * rng.normal(0.0, near, here.shape), 0.0, 1.0)


def log_h(u: Tensor) -> Tensor:
    """Logarithm of `phi(u) + u Phi(u)`, also where that is too small for a number."""
    near = u.clamp_min(-1.0)
    density = torch.exp(-near.square() / 2.0) / math.sqrt(2.0 * math.pi)
    above = torch.log(density + near * torch.special.ndtr(near))
    far = u.clamp_max(-1.0)
    ratio = math.sqrt(math.pi / 2.0) * torch.special.erfcx(-far / math.sqrt(2.0)) * far
    # 1 + ratio falls as 1 / u^2: below -1e3 it is all rounding.
    rest = torch.where(far < -1e3, -2.0 * torch.log(-far), torch.log1p(ratio.clamp_min(-1.0 + 1e-15)))
    below = -far.square() / 2.0 - math.log(2.0 * math.pi) / 2.0 + rest
    return torch.where(u > -1.0, above, below)


def _pool(best: np.ndarray, seed: int) -> np.ndarray:
    """Places all over the cube, and around the best: some of whose numbers are moved a little."""
    numbers = best.shape[1]
    rng = np.random.default_rng(seed)
    everywhere = SobolEngine(numbers, scramble=True, seed=seed).draw(_POOL, dtype=torch.float64).numpy()
    return np.concatenate([everywhere, around(best, _AROUND, _NEAR, rng)])


def _others(places: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Places that have not been tried; all of them, if they all have."""
    new = (places[:, None] != tried[None]).any(-1).all(-1)
    return places[new] if new.any() else places


def _uphill(improvement: Improvement, starts: np.ndarray) -> np.ndarray:
    at = _points(starts)
    low, high = torch.zeros_like(at[0]), torch.ones_like(at[0])
    low[0] = NOBODY
    ends, _ = optimize_acqf(
        improvement,
        bounds=torch.stack([low, high]),
        q=1,
        num_restarts=len(at),
        batch_initial_conditions=at[:, None],
        fixed_features={0: float(NOBODY), 1: 0.0},
        options={"maxiter": _STEPS},
        return_best_only=False,
        retry_on_optimization_warning=False,
    )
    return np.clip(ends[:, 0, 2:].numpy(), 0.0, 1.0)


def _at_target(places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full(len(places), NOBODY), np.zeros(len(places)), places


def _points(places: np.ndarray) -> Tensor:
    return torch.from_numpy(np.column_stack([*_at_target(places)[:2], places]).astype(np.float64))
