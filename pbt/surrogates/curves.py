"""A Gaussian process over learning curves: what runs that were stopped say about those that were not.

With `d` how far a value was from the target (decades of steps, or of whatever is cheaper), `x` the hyperparameters in
the unit cube and `r` which run it was,

    k((r, d, x), (r', d', x')) = t^2 k_t(d, d') + s^2 k_x(x, x') k_d(d, d') + [r = r'] c^2 k_c(d, d')

and noise. All four are Matern kernels with nu = 5/2, `k_x` with a scale for each number. The first term is what all
runs have in common: how values fall as training goes on. It is a term, and not a mean taken off the values of each
step, because those that were trained further are the better ones. The second is what hyperparameters have to do with
it, and less so far from the target. The third is the run's own: of two runs with equal hyperparameters one is the
luckier.

Sources: Swersky, Snoek & Adams 2014, "Freeze-Thaw Bayesian Optimization" (arXiv 1406.3896), of processes over curves
that share hyperparameters, where a curve's own kernel supposes an exponential decay to a limit; here it is stationary
in the logarithm of the steps, over which losses fall steadily.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy.stats import yeojohnson
from torch import Tensor

from pbt.surrogates.process import KERNEL, NOISE, Process, fit_parameters, winsorised
from pbt.surrogates.threads import one_thread

#: The run of a place as such, which nobody has trained: nothing there is a run's own.
NOBODY = -1
#: Entries of the kernel's parameters before the scales of the hyperparameters.
_SHARED = 6
#: What diverged stands so far above the mean, before anything else is known.
_WORST = 2.0
#: About so many values are enough to find parameters by; and so many steps are then taken by all.
_ENOUGH, _LAST_STEPS = 80, 12


@dataclass(frozen=True, slots=True)
class Values:
    """What was seen of runs. A row for each value.

    Attributes:
        run: Which run, `(values,)` of int, from 0.
        depth: Decades from the target: 0 at it, 1 with a tenth of its steps, `(values,)`.
        cube: The run's hyperparameters in the unit cube, `(values, numbers)`.
        badness: Low is good; infinite or NaN where it diverged, `(values,)`.
    """

    run: np.ndarray
    depth: np.ndarray
    cube: np.ndarray
    badness: np.ndarray

    def __len__(self) -> int:
        """How many there are."""
        return len(self.run)

    def first(self, number: int) -> Values:
        """The first so many of them."""
        return Values(self.run[:number], self.depth[:number], self.cube[:number], self.badness[:number])


class CurveKernel(Kernel):
    """The module's kernel, of points `(..., points, 2 + numbers)`: run, depth, hyperparameters.

    Its parameters are one vector, `raw`, of logarithms: of `t^2`, the scale of `k_t`, `s^2`, the scale of `k_d`, `c^2`,
    the scale of `k_c`, and the scales of `k_x`.

    Args:
        numbers: How many hyperparameters there are.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.register_parameter("raw", torch.nn.Parameter(torch.zeros(_SHARED + numbers, dtype=torch.float64)))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Covariance `(..., points, points)` of noise-free values; if `diag`, of each point with itself."""
        trend, trend_scale, signal, fade, own, own_scale = self.raw[:_SHARED].exp()
        if diag:
            return trend + signal + own * (x1[..., 0] >= 0)
        scales = self.raw[_SHARED:].exp()
        apart = (x1[..., :, None, 1] - x2[..., None, :, 1]).abs()
        near = _matern(_distance(x1[..., 2:] / scales, x2[..., 2:] / scales))
        one, other = x1[..., :, None, 0], x2[..., None, :, 0]
        curves = torch.where((one >= 0) & (one == other), own * _matern(apart / own_scale), 0.0)
        return trend * _matern(apart / trend_scale) + signal * near * _matern(apart / fade) + curves


@dataclass(frozen=True)
class Curves:
    """A fitted process over curves.

    What it predicts is in units of its own, those of `evened`: low is good.

    Attributes:
        process: Of points as its kernel wants them.
    """

    process: Process

    def predict(self, run: np.ndarray, depth: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is expected, and how sure that is.

        Args:
            run: Which runs, `(points,)`; `NOBODY` is what could be had with these hyperparameters.
            depth: How far from the target, `(points,)`.
            cube: With which hyperparameters, `(points, numbers)`.

        Returns:
            Mean and standard deviation without noise, `(points,)` each.
        """
        with one_thread(), torch.no_grad():
            known = self.process.posterior(_locate(run, depth, cube))
            return known.mean[:, 0].numpy(), known.variance[:, 0].clamp_min(1e-12).sqrt().numpy()

    def with_pending(self, run: np.ndarray, depth: np.ndarray, cube: np.ndarray) -> Curves:
        """The process once these points will have been seen, at what it expects of them.

        Source: Desautels et al. 2014, "Parallelizing Exploration-Exploitation Tradeoffs in Gaussian Process Bandit
        Optimization" (GP-BUCB).
        """
        if not len(run):
            return self
        with one_thread(), torch.no_grad():
            at = _locate(run, depth, cube)
            expected = self.process.posterior(at).mean
            return Curves(self.process.condition_on_observations(at, expected))

    def joint(self, run: np.ndarray, depth: np.ndarray, cube: np.ndarray) -> tuple[Tensor, Tensor]:
        """What is expected of each run at several depths, and how that hangs together.

        Args:
            run: Which runs, `(runs,)`.
            depth: How far from the target, `(depths,)`.
            cube: With which hyperparameters, `(runs, numbers)`.

        Returns:
            Mean `(runs, depths)`, and covariance `(runs, depths, depths)` of the values without noise.
        """
        with one_thread(), torch.no_grad():
            runs, depths = len(run), len(depth)
            flat = _locate(np.repeat(run, depths), np.tile(depth, runs), np.repeat(cube, depths, axis=0))
            root, weights = self.solved
            cross = self.kernel(flat, self.at)
            rest = torch.linalg.solve_triangular(root, cross.mT, upper=False).mT.reshape(runs, depths, -1)
            points = flat.reshape(runs, depths, -1)
            return (cross @ weights).reshape(runs, depths), self.kernel(points, points) - rest @ rest.mT

    def left_out(self) -> np.ndarray:
        """What is expected of each value from those of all other runs, `(values,)`.

        Source: Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", equation 5.12, here for several
        values at once.
        """
        with one_thread(), torch.no_grad():
            run, targets = self.at[:, 0], self.process.train_targets
            inverse = torch.cholesky_inverse(self.solved[0])
            expected = targets.clone()
            for own in run.unique():
                here = (run == own).nonzero()[:, 0]
                expected[here] -= torch.linalg.solve(inverse[here][:, here], inverse[here] @ targets)
            return expected.numpy()

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What was fitted, by name."""
        return {name: it.detach().clone() for name, it in self.process.named_parameters()}

    @property
    def at(self) -> Tensor:
        """Where values were seen: run, depth and hyperparameters, `(values, 2 + numbers)`."""
        points: Tensor = self.process.train_inputs[0]
        return points

    def kernel(self, one: Tensor, other: Tensor) -> Tensor:
        """Covariance `(..., points, points)` of values without noise at points `(..., points, 2 + numbers)`."""
        covariance: Tensor = self.process.covar_module.forward(one, other)
        return covariance

    def variance(self, points: Tensor) -> Tensor:
        """Of values without noise, before anything was seen, `(points,)`."""
        variances: Tensor = self.process.covar_module.forward(points, points, diag=True)
        return variances

    @cached_property
    def solved(self) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of the covariance of what was seen, and what targets are weighted with."""
        at, targets = self.at, self.process.train_targets
        noise = self.process.likelihood.noise
        root = torch.linalg.cholesky(self.kernel(at, at) + (noise + 1e-8) * torch.eye(len(at), dtype=at.dtype))
        return root, torch.cholesky_solve(targets[:, None], root)[:, 0]

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise."""
        return float(self.process.likelihood.noise.sqrt())


def fit(values: Values, targets: np.ndarray | None = None, fade: float = 1.0) -> Curves:
    """Fit the process to what was seen, one value at least.

    Args:
        values: What was seen.
        targets: What the process is of, `(values,)`; None takes `evened` values.
        fade: Decades over which what hyperparameters have to do with it stays the same, before anything is known.

    Where that is much, parameters are sought by the curves of some of the runs first, from two starts, and then by all
    for a few steps: what they are is told by a part nearly as well, in a small part of the time.
    """
    with one_thread():
        targets = evened(values.badness) if targets is None else targets
        every = math.ceil(len(values) / _ENOUGH)
        some = values.run % every == 0
        numbers = values.cube.shape[1]
        prior = _prior(numbers, fade)
        process = _process(values, targets, some)
        fit_parameters(process, prior, _starts(prior))
        if every > 1:
            start = {name: it.detach().clone() for name, it in process.named_parameters()}
            process = _process(values, targets, np.ones(len(values), dtype=bool))
            fit_parameters(process, prior, [start], _LAST_STEPS)
        return Curves(process)


def with_parameters(values: Values, targets: np.ndarray, parameters: Mapping[str, Tensor]) -> Curves:
    """The process of what was seen, with parameters that were found before: see `fit` and `Curves.parameters`."""
    with one_thread():
        process = _process(values, targets, np.ones(len(values), dtype=bool))
        for name, it in process.named_parameters():
            it.data.copy_(parameters[name])
        process.eval().requires_grad_(False)
        return Curves(process)


def _process(values: Values, targets: np.ndarray, some: np.ndarray) -> Process:
    at = _locate(values.run[some], values.depth[some], values.cube[some])
    return Process(at, torch.from_numpy(targets[some]), CurveKernel(values.cube.shape[1]))


def evened(badness: np.ndarray) -> np.ndarray:
    """Values with mean 0 and deviation 1, brought as near to a normal distribution as a power can.

    What diverged is as bad as the worst that did not. How much worse a bad value is than another says little about the
    good ones, and would otherwise decide the scales of the process; but differences of values that are well spread stay
    what they are. (Ranks would bend them too: of curves that are a sum of two terms, the process then makes noise.)

    Args:
        badness: Low is good; infinite or NaN where it diverged.

    Source: Cowen-Rivers et al. 2022, "HEBO: Pushing The Limits of Sample-Efficient Hyperparameter Optimisation" (arXiv
    2012.03826), section 4.1; Yeo & Johnson 2000, "A new family of power transformations".
    """
    is_finite = np.isfinite(badness)
    worst = badness[is_finite].max() if is_finite.any() else 0.0
    standard = _standardised(winsorised(np.where(is_finite, badness, worst)))
    return _standardised(yeojohnson(standard)[0]) if standard.any() else standard


def leveled(values: Values, persistence: float = 0.9) -> np.ndarray:
    """Values of every rung on one scale: how a run stands among all runs, also those that did not come so far.

    At the lowest rung values are evened. Those who reach the next are not just anybody: their mean and deviation there
    are what they would be if standings of neighbouring rungs were jointly normal with correlation `persistence`.
    """
    found = np.zeros(len(values))
    before: dict[int, float] = {}
    for depth in np.unique(values.depth)[::-1]:
        here = np.flatnonzero(values.depth == depth)
        known = np.array([before.get(int(run), np.nan) for run in values.run[here]])
        known = known[np.isfinite(known)]
        within = evened(values.badness[here]) * np.sqrt((len(here) - 1) / len(here))
        middle = persistence * known.mean() if len(known) else 0.0
        variance = persistence**2 * known.var() + 1.0 - persistence**2 if len(known) else 1.0
        if len(known) and len(known) < len(here):  # the others are anybody
            part = len(known) / len(here)
            variance = part * variance + (1 - part) + part * (1 - part) * middle**2
            middle = part * middle
        found[here] = middle + math.sqrt(variance) * within
        if not np.isfinite(values.badness[here]).any():  # nothing to stand among: as bad as the worst before
            found[here] = max(before.values(), default=_WORST)
        before |= dict(zip(values.run[here].tolist(), found[here].tolist(), strict=True))
    return found


def _standardised(values: np.ndarray) -> np.ndarray:
    deviation = values.std()
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros_like(values)


def _locate(run: np.ndarray, depth: np.ndarray, cube: np.ndarray) -> Tensor:
    return torch.from_numpy(np.column_stack([run, depth, cube]).astype(np.float64))


def _starts(prior: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The middle of the prior, and the same with short scales: with long ones, curves can seem all of their own."""
    middle = prior[KERNEL][0]
    return [{}, {KERNEL: torch.cat([middle[:_SHARED], torch.full_like(middle[_SHARED:], math.log(0.5))])}]


def _prior(numbers: int, fade: float = 1.0) -> Mapping[str, Tensor]:
    """What is known of the parameters beforehand, as `fit_parameters` wants it.

    Scales of hyperparameters grow with the number of dimensions, as distances do.

    Source: of these scales, Hvarfner et al. 2024, "Vanilla Bayesian Optimization Performs Great in High Dimensions"
    (arXiv 2402.02229), as in botorch's `get_covar_module_with_dim_scaled_prior`.
    """
    decade = (0.0, 0.7, math.log(0.05), math.log(50.0))
    trend, signal, own = (0.0, 1.0, -9.0, 4.0), (0.0, 1.0, -7.0, 4.0), (-3.0, 1.0, -9.0, 3.0)
    scale = (math.sqrt(2.0) + math.log(numbers) / 2.0, math.sqrt(3.0), math.log(0.02), math.log(200.0))
    faded = (math.log(fade), *decade[1:])
    rows = {KERNEL: [trend, decade, signal, faded, own, decade, *[scale] * numbers], NOISE: [(-4.0, 1.5, -9.0, 2.0)]}
    return {name: torch.tensor(it, dtype=torch.float64).T for name, it in rows.items()}


def _distance(x1: Tensor, x2: Tensor) -> Tensor:
    """Euclidean, `(..., points, points)`; its gradient is zero where it is."""
    one, other = x1.square().sum(dim=-1, keepdim=True), x2.square().sum(dim=-1, keepdim=True)
    ones = torch.ones_like
    squares = torch.cat([-2.0 * x1, one, ones(one)], dim=-1) @ torch.cat([x2, ones(other), other], dim=-1).mT
    return squares.clamp_min(1e-12).sqrt()


class _Matern(torch.autograd.Function):
    """Of nu = 5/2, with the derivative by hand: most of a fit's time goes into it."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        far = math.sqrt(5.0) * distance
        decayed = torch.exp(-far)
        ctx.save_for_backward(far, decayed)
        return (1.0 + far + far.square() / 3.0) * decayed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        far, decayed = ctx.saved_tensors
        return gradients[0] * (-math.sqrt(5.0) / 3.0) * far * (1.0 + far) * decayed


def _matern(distance: Tensor) -> Tensor:
    """Of nu = 5/2, at distances in units of the scale."""
    return _Matern.apply(distance)
