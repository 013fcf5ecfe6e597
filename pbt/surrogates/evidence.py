"""How probable parameters of the process are, and in which direction more so.

The gradient is written out: through autograd, a fit takes five times as long.

Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equations 5.8 and 5.9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pbt.surrogates.kernels import Located, Parameters

#: Added to the diagonal besides the noise, for rounding; relative to targets of variance 1.
JITTER = 1e-8


@dataclass(frozen=True, slots=True)
class Layout:
    """The parameters as one vector of logarithms (of `mix`, the logit), and what is known of them beforehand.

    The order is signal, decay, noise, mix, scales.

    Attributes:
        numbers: How many scales there are.
        noise: The variance of the noise, if it is not to be learned.
    """

    numbers: int
    noise: float | None = None

    def parameters(self, vector: Tensor) -> Parameters:
        """The parameters a vector stands for."""
        signal, decay, noise, mix = vector[:4]
        noise = noise if self.noise is None else torch.full_like(noise, math.log(self.noise))
        return Parameters(vector[4:].exp(), signal.exp(), decay.exp(), mix.sigmoid(), noise.exp())

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each entry: all are normal.

        A decay of 0.025 is an epsilon of 0.05: what was seen 14 segments ago counts 0.7 of what it did. Scales grow
        with the number of dimensions, as distances do (Hvarfner et al. 2024, arXiv 2402.02229, section 4).
        """
        scale = (math.sqrt(2.0) + math.log(max(self.numbers, 1)) / 2.0, math.sqrt(3.0))
        rows = [(0.0, 1.0), (math.log(0.025), 1.0), (-2.5, 1.5), (0.0, 1.0), *[scale] * self.numbers]
        means, deviations = np.array(rows, dtype=np.float64).T
        return means, deviations

    def bounds(self) -> list[tuple[float, float]]:
        """Beyond these nothing changes any more but rounding."""
        rest = [(-7.0, 4.0), (-9.0, 3.0), (-12.0, 2.0), (-4.0, 4.0)]
        return [*rest, *[(math.log(0.02), math.log(200.0))] * self.numbers]

    def starts(self) -> list[np.ndarray]:
        """The middle of the prior; and short scales, where the posterior often has a peak of its own."""
        middle = self.prior()[0]
        short = middle.copy()
        short[4:] = math.log(0.3)
        return [middle, short]


class Evidence:
    """Minus the log of the posterior density of parameters, but for a constant, given observations.

    Args:
        layout: Of the parameters.
        at: Where observations were made.
        targets: Standardised, `(points,)`.
    """

    def __init__(self, layout: Layout, at: Located, targets: Tensor) -> None:
        self._layout, self._targets = layout, targets
        self._means, self._deviations = layout.prior()
        # What all parameters have in common is computed once.
        self._times = (at.times[:, None] - at.times[None, :]).abs()
        self._squares = (at.numbers.T[:, :, None] - at.numbers.T[:, None, :]).square()
        categories = at.categories
        self._equal: Tensor | None = None
        if categories.shape[1]:
            self._equal = (categories[:, None, :] == categories[None, :, :]).to(targets.dtype).mean(dim=2)

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """The value at a vector, and its gradient."""
        with torch.no_grad():
            likelihood, slopes = self._likelihood(self._layout.parameters(torch.from_numpy(vector)))
        away = (vector - self._means) / self._deviations
        return float((away**2).sum() / 2.0 - likelihood), away / self._deviations - slopes

    def _likelihood(self, known: Parameters) -> tuple[float, np.ndarray]:
        near = torch.exp(-0.5 * torch.tensordot(known.scales**-2, self._squares, dims=1))
        decayed = known.signal * torch.exp(-known.decay * self._times)
        equal, mix = self._equal, known.mix
        if equal is None:
            similar, slope_of_near, slope_of_mix = near, torch.ones_like(near), torch.zeros_like(near)
        else:
            half = (near + equal) / 2.0
            similar = (1.0 - mix) * half + mix * near * equal
            slope_of_near, slope_of_mix = (1.0 - mix) / 2.0 + mix * equal, near * equal - half
        covariance = decayed * similar
        factor = factored(covariance, known.noise)
        weights = torch.cholesky_solve(self._targets[:, None], factor)
        # d likelihood / d covariance.
        pull = (weights @ weights.T - torch.cholesky_inverse(factor)) / 2.0
        slopes = torch.stack(
            [
                (pull * covariance).sum(),
                -known.decay * (pull * covariance * self._times).sum(),
                known.noise * pull.diagonal().sum() * (self._layout.noise is None),
                mix * (1.0 - mix) * (pull * decayed * slope_of_mix).sum(),
            ]
        )
        of_scales = torch.tensordot(self._squares, pull * decayed * slope_of_near * near, dims=2) * known.scales**-2
        value = -(self._targets @ weights[:, 0]) / 2.0 - factor.diagonal().log().sum()
        constant = len(self._targets) * math.log(2.0 * math.pi) / 2.0
        return float(value) - constant, torch.cat([slopes, of_scales]).numpy()


def factored(covariance: Tensor, noise: Tensor) -> Tensor:
    """The lower Cholesky factor of the covariance of noisy observations."""
    return torch.linalg.cholesky(covariance + torch.diag((noise + JITTER).expand(len(covariance))))
