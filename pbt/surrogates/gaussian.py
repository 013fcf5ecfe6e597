"""A Gaussian process over segments of training, whose noise is learned.

Without a noise term, the process goes through every observation: two segments with equal hyperparameters and different
gains then bend it out of shape, and what it recommends is little better than a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pbt.surrogates.kernels import SegmentKernel
from pbt.surrogates.process import KERNEL, NOISE, Process, fit_parameters, winsorised
from pbt.surrogates.threads import one_thread


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
class Scale:
    """Turns targets and scores into what the process sees, and back.

    Attributes:
        mean: Of the targets.
        deviation: Of the targets.
        before_low: The lowest score.
        before_span: How far scores are apart.
    """

    mean: float
    deviation: float
    before_low: float
    before_span: float

    def locate(self, points: Points) -> Tensor:
        """Points `(points, 2 + numbers + categories)`; the score before is one more number, the first."""
        with np.errstate(over="ignore"):
            before = np.clip((points.before - self.before_low) / self.before_span, -1.0, 2.0)
        columns = np.column_stack([points.times, before, points.cube, points.categories])
        return torch.from_numpy(np.array(columns, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted process: what it expects of segments nobody has trained.

    Attributes:
        process: For standardised targets.
        scale: How these were standardised.
    """

    process: Process
    scale: Scale

    @property
    def noise(self) -> float:
        """Standard deviation of the noise, in units of the targets."""
        return float(self.process.likelihood.noise.sqrt()) * self.scale.deviation

    def predict(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """What is expected of points, and how sure that is.

        Returns:
            Mean and standard deviation of the noise-free function, in units of the targets, `(points,)` each.
        """
        with one_thread(), torch.no_grad():
            known = self.process.posterior(self.scale.locate(points))
            mean, deviation = known.mean[:, 0].numpy(), known.variance[:, 0].clamp_min(1e-12).sqrt().numpy()
        return self.scale.mean + self.scale.deviation * mean, self.scale.deviation * deviation

    def with_pending(self, points: Points) -> Model:
        """The process once these points will have been observed, at what it expects of them.

        Expectations stay as they are, and near those points there is less to be learned.

        Source: Desautels et al. 2014, "Parallelizing Exploration-Exploitation Tradeoffs in Gaussian Process Bandit
        Optimization" (GP-BUCB).
        """
        if not len(points):
            return self
        with one_thread(), torch.no_grad():
            at = self.scale.locate(points)
            expected = self.process.posterior(at).mean
            return Model(self.process.condition_on_observations(at, expected), self.scale)


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
        standard = torch.from_numpy((targets - scale.mean) / scale.deviation)
        numbers = 1 + points.cube.shape[1]
        process = Process(scale.locate(points), standard, SegmentKernel(numbers))
        if noise is not None:
            process.likelihood.noise = torch.tensor(noise, dtype=torch.float64)  # a number would be rounded to float32
            process.likelihood.requires_grad_(False)
        prior = _prior(numbers)
        fit_parameters(process, prior, _starts(prior))
        return Model(process, scale)


def _scale(points: Points, targets: np.ndarray) -> Scale:
    before = winsorised(points.before)
    deviation, span = float(np.std(targets)), float(np.ptp(before))
    return Scale(float(np.mean(targets)), deviation if deviation > 0 else 1.0, float(before.min()), span or 1.0)


def _starts(prior: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The middle of the prior, and the same with short scales, where the posterior often has a peak of its own."""
    middle = prior[KERNEL][0]
    return [{}, {KERNEL: torch.cat([middle[:3], torch.full_like(middle[3:], math.log(0.3))])}]


def _prior(numbers: int) -> dict[str, Tensor]:
    """What is known of a process's parameters beforehand, by their names: `(4, entries)`.

    That is mean and standard deviation of a normal distribution of their logarithms (of `mix`, the logit), and bounds,
    beyond which nothing changes any more but rounding. A decay of 0.025 is an epsilon of 0.05: what was seen 14
    segments ago counts 0.7 of what it did. Scales grow with the number of dimensions, as distances do.

    Source: of the scales, Hvarfner et al. 2024, "Vanilla Bayesian Optimization Performs Great in High Dimensions"
    (arXiv 2402.02229), as in botorch's `get_covar_module_with_dim_scaled_prior`.
    """
    signal, decay = (0.0, 1.0, -7.0, 4.0), (math.log(0.025), 1.0, -9.0, 3.0)
    mix, noise = (0.0, 1.0, -4.0, 4.0), (-2.5, 1.5, -12.0, 2.0)
    scale = (math.sqrt(2.0) + math.log(numbers) / 2.0, math.sqrt(3.0), math.log(0.02), math.log(200.0))
    rows = {KERNEL: [signal, decay, mix, *[scale] * numbers], NOISE: [noise]}
    return {name: torch.tensor(it, dtype=torch.float64).T for name, it in rows.items()}
