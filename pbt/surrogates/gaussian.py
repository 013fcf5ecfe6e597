"""A Gaussian process over segments of training, whose noise is learned.

Every parameter has a prior and is fitted to the maximum of the posterior by L-BFGS-B, from fixed starts: the same data
give the same model, and no generator is asked. (botorch's own fit draws new starts from torch's global generator when
one fails.) All in float64.

Without a noise term, the process goes through every observation: two segments with equal hyperparameters and different
gains then bend it out of shape, and what it recommends is little better than a guess.

Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equations 2.25 and 2.26.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pbt.surrogates.evidence import Evidence, Layout, factored
from pbt.surrogates.kernels import Located, Parameters, covariance
from pbt.surrogates.threads import one_thread

#: Targets and scores are cut off so many robust standard deviations from their median: one loss of 1e30 would leave the
#: others equal to each other.
_WIDTH = 5.0
#: Squares of it can still be added up.
_HUGE = 1e100
#: Steps of one fit at most; it is seldom half as many.
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Points:
    """Segments of training: when, from where and with what. A row each.

    Attributes:
        times: Age of the weights at the start, in segments, `(points,)`.
        before: Score at the start, `(points,)`.
        cube: Hyperparameters that are numbers, in the unit cube, `(points, numbers)`.
        categories: Those that are not, as indices of their options, `(points, categories)`; -1 where inactive.
    """

    times: np.ndarray
    before: np.ndarray
    cube: np.ndarray
    categories: np.ndarray

    def __len__(self) -> int:
        """How many there are."""
        return len(self.times)

    def with_cube(self, cube: np.ndarray) -> Points:
        """The same moment, repeated, with other numbers: of a single point, as many as `cube` has rows."""
        rows = len(cube)
        return Points(
            np.repeat(self.times, rows), np.repeat(self.before, rows), cube, np.repeat(self.categories, rows, axis=0)
        )


def stacked(parts: Sequence[Points]) -> Points:
    """The points of all parts, in order."""
    return Points(
        np.concatenate([it.times for it in parts]),
        np.concatenate([it.before for it in parts]),
        np.concatenate([it.cube for it in parts]),
        np.concatenate([it.categories for it in parts]),
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Turns targets and scores into what the process sees, and back."""

    mean: float
    deviation: float
    before_low: float
    before_span: float

    def locate(self, points: Points) -> Located:
        """The points as tensors; the score before is one more number."""
        with np.errstate(over="ignore"):
            before = np.clip((points.before - self.before_low) / self.before_span, -1.0, 2.0)
        numbers = np.column_stack([before, points.cube])
        categories = np.array(points.categories, dtype=np.int64).reshape(len(points), -1)
        return Located(_tensor(points.times), _tensor(numbers), torch.from_numpy(categories))


class Model:
    """A fitted process: what it expects of segments nobody has trained.

    Args:
        parameters: Of kernel and noise, for standardised targets.
        scale: How targets were standardised.
        at: Where observations were made.
        targets: Standardised, `(points,)`.
    """

    def __init__(self, parameters: Parameters, scale: _Scale, at: Located, targets: Tensor) -> None:
        self.parameters, self._scale, self._at, self._targets = parameters, scale, at, targets
        self._factor = factored(covariance(at, at, parameters), parameters.noise)
        self._weights = torch.cholesky_solve(targets[:, None], self._factor)[:, 0]

    @property
    def noise(self) -> float:
        """Standard deviation of the noise, in units of the targets."""
        return float(self.parameters.noise.sqrt()) * self._scale.deviation

    def predict(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """What is expected of points, and how sure that is.

        Returns:
            Mean and standard deviation of the noise-free function, in units of the targets, `(points,)` each.
        """
        with one_thread(), torch.no_grad():
            mean, deviation = self.standardised(self._scale.locate(points))
        return self._scale.mean + self._scale.deviation * mean.numpy(), self._scale.deviation * deviation.numpy()

    def locate(self, points: Points) -> Located:
        """The points as the process sees them."""
        return self._scale.locate(points)

    def standardised(self, at: Located) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation for standardised targets; gradients go through."""
        between = covariance(self._at, at, self.parameters)
        half = torch.linalg.solve_triangular(self._factor, between, upper=False)
        variance = self.parameters.signal - (half * half).sum(dim=0)
        return between.T @ self._weights, variance.clamp_min(1e-12).sqrt()

    def with_pending(self, points: Points) -> Model:
        """The process once these points will have been observed, at what it expects of them.

        Expectations stay as they are, and near those points there is less to be learned.

        Source: Desautels et al. 2014, "Parallelizing Exploration-Exploitation Tradeoffs in Gaussian Process Bandit
        Optimization" (GP-BUCB), section 3.
        """
        if not len(points):
            return self
        with one_thread(), torch.no_grad():
            more = self._scale.locate(points)
            targets = torch.cat([self._targets, self.standardised(more)[0]])
            return Model(self.parameters, self._scale, _joined(self._at, more), targets)


def fit(points: Points, targets: np.ndarray, noise: float | None = None) -> Model:
    """Fit the process to observations.

    Args:
        points: Where they were made, one at least.
        targets: What was observed, finite, `(points,)`.
        noise: Variance of the noise of standardised targets; None learns it, as is advised.
    """
    with one_thread():
        targets = winsorised(targets)
        scale = _scale(points, targets)
        at, standard = scale.locate(points), _tensor((targets - scale.mean) / scale.deviation)
        layout = Layout(at.numbers.shape[1], noise)
        evidence = Evidence(layout, at, standard)
        best = min((_descend(evidence, layout, start) for start in layout.starts()), key=lambda it: it[0])[1]
        with torch.no_grad():
            return Model(layout.parameters(torch.from_numpy(best)), scale, at, standard)


def winsorised(values: np.ndarray) -> np.ndarray:
    """The values, those far out brought to the edge of the usual; where most are equal, only what could overflow."""
    values = np.clip(values, -_HUGE, _HUGE)
    middle = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - middle))
    return np.clip(values, middle - _WIDTH * deviation, middle + _WIDTH * deviation) if deviation > 0 else values


def _scale(points: Points, targets: np.ndarray) -> _Scale:
    before = winsorised(points.before)
    deviation, span = float(np.std(targets)), float(np.ptp(before))
    return _Scale(float(np.mean(targets)), deviation if deviation > 0 else 1.0, float(before.min()), span or 1.0)


def _descend(evidence: Evidence, layout: Layout, start: np.ndarray) -> tuple[float, np.ndarray]:
    """The best parameters near a start, and how improbable they are."""
    options = {"maxiter": _STEPS, "ftol": 1e-7}
    found = minimize(evidence, start, jac=True, method="L-BFGS-B", bounds=layout.bounds(), options=options)
    return float(found.fun), np.asarray(found.x, dtype=np.float64)


def _joined(first: Located, second: Located) -> Located:
    return Located(
        torch.cat([first.times, second.times]),
        torch.cat([first.numbers, second.numbers]),
        torch.cat([first.categories, second.categories]),
    )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
